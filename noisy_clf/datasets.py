"""Labelled images. A dataset knows its class names; images are uint8 [N,C,H,W] and become x_0 in [-1,1] at the door."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noisy_clf.errors import UserError

DATASETS = ("digits",)


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory: uint8 [N,C,H,W], labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0 float32 [B,C,H,W] in [-1,1], y int64 [B]) of the given images."""
        return to_x_0(self.images[indices]), self.labels[indices]


@dataclass(frozen=True)
class Dataset:
    """Training and validation images, split once and for all, with one class list."""

    name: str
    train: LabelledImages
    validation: LabelledImages
    class_names: tuple[str, ...]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]


def to_x_0(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1. (ADM's program)"""
    return images.float() / 127.5 - 1


def load_dataset(name: str, image_size: int | None = None) -> Dataset:
    """The dataset of that name at `image_size` pixels a side (default: its own)."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}; there are: {', '.join(DATASETS)}.")
    return digits(16 if image_size is None else image_size)


def digits(image_size: int = 16) -> Dataset:
    """scikit-learn's 1797 handwritten digits of 8x8 grey pixels, enlarged bicubically.

    Every fifth image of each class is kept for validation: 1433 to train on, 364 to validate.
    """
    from sklearn.datasets import load_digits

    if image_size < 8:
        raise UserError(f"the digits are 8 pixels a side; {image_size} would be smaller.")
    raw = load_digits()
    small = torch.from_numpy(raw.images / 16).float()[:, None]
    large = F.interpolate(small, size=(image_size, image_size), mode="bicubic") if image_size > 8 else small
    images = large.clamp(0, 1).mul(255).round().to(torch.uint8)
    labels = torch.from_numpy(raw.target).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[(labels == label).nonzero().flatten()[::5]] = True
    return Dataset(
        "digits", LabelledImages(images[~held_out], labels[~held_out]), LabelledImages(images[held_out], labels[held_out]),
        class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))


def training_order(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """The images of training step `step`: each epoch is a permutation of its own, batches run on across epochs.

    A function of its arguments alone, so that resuming needs no state.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return torch.tensor([int(permutation(count, seed, position // count)[position % count]) for position in positions])


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def in_batches(count: int, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, count, batch_size):
        yield torch.arange(start, min(start + batch_size, count))
