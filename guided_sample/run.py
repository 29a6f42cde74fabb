"""A sampling run: labels, batches, progress, resume."""
from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from guided_sample.denoiser import Denoiser
from guided_sample.guidance import ClassifierGuidance, NonFiniteGradient
from guided_sample.noise import SampleNoise, random_label
from guided_sample.output import OutputFolder, to_pixels
from guided_sample.posterior import Step
from guided_sample.samplers import Moment, ddim, ddpm
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]"
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Method:
    """How samples are drawn: everything, beside models, labels and seed, that an image depends on."""

    sampler: str  # ddpm or ddim
    steps: list[Step]
    scale: float
    eta: float = 0.0
    grad_at: str = "x_t"
    clip: bool = True
    precision: str = "float32"  # or bf16


@dataclass(frozen=True)
class Labels:
    """Which class each sample is asked to show: `classes` in turn, or at random among `K`, or none."""

    classes: tuple[int, ...] = ()
    K: int = 0

    def of(self, index: int, seed: int) -> int | None:
        if self.classes:
            return self.classes[index % len(self.classes)]
        return random_label(seed, index, self.K) if self.K else None


def moments(denoiser: Denoiser, classifier: NoisyClassifier | None, method: Method, noise: SampleNoise,
            y: Tensor | None) -> Iterator[Moment]:
    """The chosen sampler on one batch, guided where there is a class, a classifier and a scale."""
    guide = None
    if classifier is not None and y is not None and method.scale != 0:
        guide = ClassifierGuidance(classifier, y, method.scale)
    y = y if denoiser.class_names else None
    if method.sampler == "ddpm":
        return ddpm(denoiser, method.steps, guide, noise, y, method.clip, method.grad_at)
    return ddim(denoiser, method.steps, guide, noise, y, method.clip, method.eta)


def sample_run(denoiser: Denoiser, classifier: NoisyClassifier | None, method: Method, labels: Labels, num_samples: int,
               batch_size: int, seed: int, device: torch.device, output: OutputFolder) -> None:
    """Draws the samples that `output` lacks, stores each batch as it is ready, and finishes the folder.

    Sample i depends on its label, the seed and i, never on the others. Ctrl-C, a kill or an error loses at most the
    batch at work.
    """
    missing = output.missing(num_samples)
    denoiser.network.to(device)
    if classifier:
        classifier.to(device)
    started = time.perf_counter()
    bar = tqdm(total=len(missing) * len(method.steps), unit_scale=1 / len(method.steps), unit=" images", desc="sampling",
               bar_format=BAR, dynamic_ncols=True)  # counts steps, tells images
    try:
        with bar, torch.autocast(device.type, DTYPES[method.precision], enabled=method.precision != "float32"):
            for start in range(0, len(missing), batch_size):
                indices = missing[start:start + batch_size]
                for line, pixels in sample_batch(denoiser, classifier, method, labels, indices, seed, device, bar):
                    output.add(pixels, line)
    except KeyboardInterrupt:
        raise UserError(f"stopped with {len(output.lines)} of {num_samples} images finished in {output.path}; "
                        f"the same command makes the others.") from None
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"a batch of {batch_size} does not fit into the memory of {device}; try a smaller "
                        f"--batch-size: the images stay the same, and the {len(output.lines)} finished ones stay.") from None
    seconds = time.perf_counter() - started
    columns = len(labels.classes) if 2 <= len(labels.classes) <= 16 else min(16, math.ceil(math.sqrt(num_samples)))
    output.finish(num_samples, columns, report(len(missing), batch_size, seconds, device))


def sample_batch(denoiser: Denoiser, classifier: NoisyClassifier | None, method: Method, labels: Labels, indices: list[int],
                 seed: int, device: torch.device, bar: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """(JSON line, uint8 [H,W,C]) of each sample of a batch."""
    asked = [labels.of(index, seed) for index in indices]
    y = None if asked[0] is None else torch.tensor(asked, device=device)
    noise = SampleNoise(seed, indices, denoiser.shape, device)
    try:
        for moment in moments(denoiser, classifier, method, noise, y):
            bar.update(len(indices))
    except NonFiniteGradient as error:
        numbers = ", ".join(str(indices[position]) for position in error.positions)
        raise UserError(f"the guidance gradient is not finite at t = {error.t} for sample {numbers}; try a smaller "
                        f"--scale, or --precision float32.") from error
    x_0 = moment.x_t
    log_probs: list[float | None] = [None] * len(indices)
    if classifier is not None and y is not None:
        with torch.no_grad():
            log_probs = classifier.log_prob(x_0, torch.zeros_like(y), y).tolist()
    names = classifier.class_names if classifier else denoiser.class_names
    for index, label, log_prob, pixels in zip(indices, asked, log_probs, to_pixels(x_0)):
        yield {"index": index, "class": label, "class_name": None if label is None or not names else names[label],
               "seed": seed, "log_prob": None if log_prob is None else round(log_prob, 4)}, pixels


def report(made: int, batch_size: int, seconds: float, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"
    return {"device": name, "batch_size": batch_size,
            "last_run": {"images": made, "seconds": round(seconds, 2), "images_per_second": round(made / seconds, 2)}}


def default_out(model: str, class_text: str, method: Method, spec: str, seed: int) -> Path:
    """samples/MODEL-class-CLASS-scale-S-SAMPLER-STEPS-seed-N: other settings, other folder."""
    words = [Path(model).name, "class", class_text, "scale", f"{method.scale:g}", method.sampler, spec, "seed", str(seed)]
    return Path("samples") / "-".join("".join(c if c.isalnum() or c in ".+" else "_" for c in word) for word in words)
