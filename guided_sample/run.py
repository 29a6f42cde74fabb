"""A sampling run: labels, batches, progress, resume."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_sample.denoiser import Denoiser
from guided_sample.guidance import ClassifierGuidance, NonFiniteGradient
from noisy_clf.noise import SampleNoise, random_label
from guided_sample.folder import OutputFolder, to_pixels
from guided_sample.posterior import Step
from guided_sample.samplers import Moment, ddim, ddpm
from guided_sample.upsample import enlarging
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]"
DRAWING: tuple[int, ...] = ()  # the noise's streams; (1,) is that of random labels
UPSAMPLING: tuple[int, ...] = (2,)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Labels:
    """Which class each sample is asked to show: `classes` in turn, or at random among `K`, or none; `names` of all classes."""

    classes: tuple[int, ...] = ()
    K: int = 0
    names: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.classes or self.K)

    def of(self, index: int, seed: int) -> int | None:
        if self.classes:
            return self.classes[index % len(self.classes)]
        return random_label(seed, index, self.K) if self.K else None


@dataclass(frozen=True)
class Experiment:
    """All that an image depends on, beside its index.

    denoiser, classifier  on `device`; without a classifier nothing is guided
    sampler, steps        "ddpm" or "ddim", along these steps
    scale                 of the guidance; 0: none
    eta, grad_at, clip    as the samplers take them
    precision             "float32", or "bf16": the networks under autocast
    small                 for an upsampler: indices -> the images to enlarge [B,C,h,w] in [-1,1]
    """

    denoiser: Denoiser
    classifier: NoisyClassifier | None
    labels: Labels
    sampler: str
    steps: list[Step]
    scale: float
    seed: int
    device: torch.device
    eta: float = 0.0
    grad_at: str = "x_t"
    clip: bool = True
    precision: str = "float32"
    small: Callable[[Sequence[int]], Tensor] | None = None

    def moments(self, indices: Sequence[int], y: Tensor | None) -> Iterator[Moment]:
        """The sampler on the samples of these indices, guided towards y [B] given a class, a classifier and a scale."""
        denoiser, stream = self.denoiser, DRAWING
        if self.small is not None:
            denoiser, stream = enlarging(denoiser, self.small(indices).to(self.device)), UPSAMPLING
        noise = SampleNoise(self.seed, indices, denoiser.shape, self.device, stream)
        guide = None
        if self.classifier is not None and y is not None and self.scale != 0:
            guide = ClassifierGuidance(self.classifier, y, self.scale)
        y = y if denoiser.class_names else None
        if self.sampler == "ddpm":
            return ddpm(denoiser, self.steps, guide, noise, y, self.clip, self.grad_at)
        return ddim(denoiser, self.steps, guide, noise, y, self.clip, self.eta)

    def draw(self, indices: Sequence[int], after_step: Callable[[], object]) -> list[tuple[dict[str, Any], np.ndarray]]:
        """(its line for samples.jsonl, uint8 [H,W,C]) of each sample."""
        asked = [self.labels.of(index, self.seed) for index in indices]
        y = None if asked[0] is None else torch.tensor(asked, device=self.device)
        log_probs: list[float | None] = [None] * len(indices)
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "float32"):
            try:
                for moment in self.moments(indices, y):
                    after_step()
            except NonFiniteGradient as error:
                raise NonFiniteGradient(error.t, [indices[i] for i in error.samples]) from error
            x_0 = moment.x_t.clamp(-1, 1)
            lost = (~x_0.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            if lost:
                raise UserError(f"sample {', '.join(str(indices[i]) for i in lost)} came out as NaN: the model is damaged, or "
                                f"it diverged; try a smaller --scale, or --precision float32.")
            if self.classifier is not None and y is not None:
                with torch.no_grad():
                    found = self.classifier.log_prob(x_0, torch.zeros_like(y), y)
                log_probs = [round(value, 4) for value in found.tolist()]
        names = self.labels.names
        lines = [{"index": index, "class": label, "class_name": None if label is None or not names else names[label],
                  "seed": self.seed, "log_prob": log_prob} for index, label, log_prob in zip(indices, asked, log_probs)]
        return list(zip(lines, to_pixels(x_0)))


def sample_run(experiment: Experiment, num_samples: int, batch_size: int, output: OutputFolder) -> None:
    """Draws the samples that `output` lacks, stores each batch as it is ready, and finishes the folder.

    Ctrl-C, a kill or an error loses at most the batch at work.
    """
    missing, steps = output.missing(num_samples), len(experiment.steps)
    started = time.perf_counter()
    bar = tqdm(total=len(missing) * steps, unit_scale=1 / steps, unit=" images", desc="sampling", bar_format=BAR,
               dynamic_ncols=True)  # counts steps, tells images
    try:
        with bar:
            for start in range(0, len(missing), batch_size):
                indices = missing[start:start + batch_size]
                for line, pixels in experiment.draw(indices, after_step=lambda: bar.update(len(indices))):
                    output.add(pixels, line)
    except KeyboardInterrupt:
        finished = num_samples - len(output.missing(num_samples))
        raise UserError(f"stopped with {finished} of {num_samples} images finished in {output.path}; "
                        f"the same command makes the others.") from None
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"a batch of {batch_size} does not fit into the memory of {experiment.device}; try a smaller "
                        f"--batch-size: the images stay the same, and the {len(output.lines)} finished ones stay.") from None
    seconds = time.perf_counter() - started
    classes = len(experiment.labels.classes)
    columns = min(classes, num_samples) if 2 <= classes <= 16 else min(16, math.ceil(math.sqrt(num_samples)))
    speed = {"images": len(missing), "seconds": round(seconds, 2), "images_per_second": round(len(missing) / seconds, 2)}
    report = {"device": device_name(experiment.device), "batch_size": batch_size, "last_run": speed}
    output.finish(num_samples, columns, report if missing else {})


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"


def default_out(model: str, wanted: Sequence[str], sampler: str, spec: str, scale: float, seed: int) -> Path:
    """samples/MODEL-class-CLASS-scale-S-SAMPLER-STEPS-seed-N, after what is changed most often."""
    words = [Path(model).name, "class", "+".join(wanted), "scale", f"{scale:g}", sampler, spec, "seed", str(seed)]
    return Path("samples") / "-".join("".join(c if c.isalnum() or c in ".+" else "_" for c in word[:50]) for word in words)
