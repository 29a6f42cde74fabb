"""A denoiser's likelihood of a dataset's validation images: from a name to what is told of it, kept on the way."""
from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.likelihood.bound import BITS, measure, prior_bits, terms_at
from guided_sample.likelihood.likelihood import Likelihood
from guided_sample.likelihood.picture import draw
from guided_sample.likelihood.report import as_json
from guided_sample.loaders import LoadedModel, load_model
from guided_sample.metrics.pictures import digest_of_images
from guided_sample.run import default_batch
from guided_sample.steps import Step, steps
from noisy_clf.checkpoints.settings import Settings
from noisy_clf import class_names
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import Dataset, LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches, permutation
from noisy_clf.errors import UserError, enough_memory
from noisy_clf.execution import device_name
from noisy_clf.files import atomic_write, versions, write_json
from noisy_clf.training.pace import duration

MOST_FOR_VARIANCE = 2000  # images that each pixel's variance is taken from
LONG = 300.0  # seconds


@dataclass(frozen=True)
class Subject:
    """What is measured, and how.

    name       of the denoiser, as it was given
    data       of its size, channels and classes; its validation images are measured
    chain      the steps, in a sampler's order
    chosen     the images' indices [N], in an order drawn once and for all: the first ones stand for all
    """

    name: str
    loaded: LoadedModel
    data: Dataset
    chain: list[Step]
    chosen: Tensor
    device: torch.device
    precision: str
    seed: int
    batch_size: int

    @classmethod
    def load(cls, name: str, settings: Settings | None, dataset: str, folder: Path | None, images: int | None,
             spec: str | None, device: torch.device, precision: str, seed: int, batch_size: int | None) -> Subject:
        loaded = load_model(name, settings)
        denoiser = loaded.denoiser
        if denoiser.small_size:
            raise UserError(f"{name} is an upsampler, whose likelihood is not measured here; give a denoiser of whole images.")
        data = load_dataset(dataset, denoiser.image_size, folder, grey=denoiser.channels == 1,
                            classes=denoiser.class_names is not None)
        if len(data.validation) < 2:
            raise UserError(f"{dataset} has {len(data.validation)} validation images; at least 2 are needed.")
        refuse_other_images(name, denoiser, data)
        denoiser.network.to(device)
        chosen = torch.from_numpy(permutation(len(data.validation), 0, 0)[:images].copy())
        return cls(name, loaded, data, steps(spec or str(denoiser.schedule.T), denoiser.schedule), chosen, device, precision,
                   seed, batch_size or default_batch(denoiser.image_size))

    @property
    def denoiser(self) -> Denoiser:
        return self.loaded.denoiser

    @property
    def images(self) -> LabelledImages:
        """The validation images, labelled as the denoiser numbers the classes."""
        validation = self.data.validation
        if self.denoiser.class_names is None:
            return validation
        return replace(validation, labels=numbers_of(self.name, self.denoiser.class_names, self.data)[validation.labels])

    @cached_property
    def asked(self) -> dict[str, Any]:
        """All that the terms depend on."""
        return {"denoiser": Path(self.name).name, "digest": self.loaded.digest, "config": self.loaded.config,
                "dataset": self.data.name, "images": len(self.chosen),
                "source": digest_of_images(self.data.validation.images, self.data.source),
                "of_images": len(self.data.validation), "steps": [step.t for step in reversed(self.chain)],
                "seed": self.seed, "precision": self.precision}

    @property
    def terms_file(self) -> str:
        """Another's for whatever else is asked, so that nothing that took hours is lost."""
        return f"terms-{hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()[:12]}.npy"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def refuse_other_images(name: str, denoiser: Denoiser, data: Dataset) -> None:
    """UserError where the data is not of the denoiser's size, channels and classes."""
    if (data.image_size, data.channels) != (denoiser.image_size, denoiser.channels):
        raise UserError(f"{name} makes images of {denoiser.image_size} pixels a side and {denoiser.channels} channels; "
                        f"{data.name} has {data.image_size} and {data.channels}; give the --dataset that it learned from.")
    if denoiser.class_names is not None:
        numbers_of(name, denoiser.class_names, data)


def numbers_of(name: str, theirs: Sequence[str], data: Dataset) -> Tensor:
    """The denoiser's number of each of the data's classes, int64 [K]; UserError where they are not the same classes."""
    ours = data.class_names
    if (numbers := class_names.numbers_of(ours, theirs)) is not None:
        return torch.tensor(numbers)
    raise UserError(f"{name} is asked for one of {len(theirs)} classes ({', '.join(theirs[:3])}, ...); {data.name} has "
                    f"{len(ours)} ({', '.join(ours[:3])}, ...); give the --dataset that it learned from.")


def opened(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array in that file, mapped into memory to be changed there; a new one is NaN, which is: not measured yet."""
    if not path.exists():
        with atomic_write(path) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.float32, shape)[:] = np.nan
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)  # to be changed, one that is cut short would be filled up in silence
        terms: np.ndarray = np.load(path, mmap_mode="r+", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged; remove it, and run the same command again.") from error
    return terms


def measured(subject: Subject, out: Path, tell: Callable[[str], None], stopped: Callable[[], bool]) -> Likelihood:
    """Measures what is not in `out` yet; of the images that are whole when it is stopped, the likelihood.

    Writes evaluation.json and evaluation.png once all are. UserError where none is.
    """
    terms = opened(out / subject.terms_file, (len(subject.chosen), len(subject.chain), 2))
    missing = int(np.isnan(terms[..., BITS]).sum())
    with subject.autocast(), enough_memory(
            lambda: "a batch does not fit into the memory; give a smaller --batch-size: the result stays the same."):
        if missing:
            tell(outlook(subject, missing))
        measure(subject.denoiser, subject.chain, subject.images, subject.chosen, terms, subject.batch_size, subject.seed,
                stopped, progress=True)
    whole = ~np.isnan(terms[..., BITS]).any(axis=1)
    if not whole.any():
        raise UserError(f"stopped before the first images were done; all that was measured is in {out}: the same command goes "
                        f"on from here.")
    x_0s = (to_x_0(subject.images.batch(subject.chosen[places])[0]) for places in in_batches(len(whole), 256))
    prior = torch.cat([prior_bits(x_0, subject.chain[0].alpha_bar) for x_0 in x_0s])
    found = Likelihood.of(Path(subject.name).name, subject.denoiser, subject.chain, terms[whole],
                          prior[torch.from_numpy(whole)], pixel_variance(subject.data.validation))
    if whole.all():
        write_json(out / "evaluation.json", {**subject.asked, "steps": len(subject.chain), "versions": versions(),
                                             **as_json(found), "terms": subject.terms_file})
        draw(found, out / "evaluation.png")
    return found


def pixel_variance(images: LabelledImages) -> Tensor:
    """Of each pixel of x_0, over up to 2000 images drawn once and for all, float64 [C,H,W]."""
    chosen = torch.from_numpy(permutation(len(images), 0, 0)[:MOST_FOR_VARIANCE].copy())
    total = torch.zeros(2, *images.images.shape, dtype=torch.float64)
    for places in in_batches(len(chosen), 256):
        x_0 = to_x_0(images.batch(chosen[places])[0]).double()
        total += torch.stack([x_0.sum(dim=0), x_0.square().sum(dim=0)])
    mean, square = total / len(chosen)
    return (square - mean.square()).clamp(min=0) * (len(chosen) / (len(chosen) - 1))


@torch.inference_mode()
def outlook(subject: Subject, missing: int) -> str:
    """How long that many steps of an image take here, in words; takes as long as two steps of a batch."""
    B = min(subject.batch_size, len(subject.chosen))
    x_0 = torch.zeros(B, *subject.denoiser.shape, device=subject.device)
    y = torch.zeros(B, dtype=torch.int64, device=subject.device) if subject.denoiser.class_names else None
    for _ in range(2):
        begun = time.perf_counter()
        terms_at(subject.denoiser, subject.chain[0], x_0, y, x_0).cpu()
        seconds = (time.perf_counter() - begun) * missing / B
    told = f"{len(subject.chosen)} images at {len(subject.chain)} steps each, of which {missing} are to be done: about " \
           f"{duration(seconds)} on {device_name(subject.device)}."
    if seconds < LONG:
        return told
    return (f"{told} Fewer --images or --steps (--images 50 --steps 100) tell nearly as much; Ctrl-C loses nothing: the same "
            f"command goes on.")
