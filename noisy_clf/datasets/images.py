"""Labelled images of one size. They stay uint8 [B,C,H,W] until they are on the device, and become x_0 in [-1,1] there."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisy_clf.datasets.preprocessing import random_crop

Generators = Sequence[np.random.Generator]


class Images(Protocol):
    """N images, each read as uint8 [C,H,W]. Read by several threads at once."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, crops: Generators | None) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [B,C,H,W], the indices read): the centres, or with a generator for each, ADM's random crops.

        The indices read are those asked for, but for an image that has become unreadable: another stands in for it.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images in an array, uint8 [N,C,H,W], in memory or mapped to it."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape[1:]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: np.ndarray, crops: Generators | None) -> tuple[np.ndarray, np.ndarray]:
        images = self.array[indices]
        if crops is not None:
            images = np.stack([as_array(random_crop(as_picture(image), image.shape[-1], crop))
                               for image, crop in zip(images, crops)])
        return images, indices


@dataclass(frozen=True)
class Augmentation:
    """How an image differs each time it is seen: ADM's random crop, and a mirror image half of the time."""

    random_crop: bool = False
    random_flip: bool = False


@dataclass(frozen=True)
class LabelledImages:
    """N images and their classes, int64 [N]."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(images uint8 [B,C,H,W], y int64 [B]): the centres of the given images."""
        images, read = self.images.read(indices.numpy(), None)
        return torch.from_numpy(images), self.labels[torch.from_numpy(read)]

    def whole(self) -> tuple[Tensor, Tensor]:
        return self.batch(torch.arange(len(self)))

    def augmented(self, indices: Tensor, augmentation: Augmentation, generators: Generators) -> tuple[Tensor, Tensor]:
        """The same, each image cropped and flipped by its own generator."""
        images, read = self.images.read(indices.numpy(), generators if augmentation.random_crop else None)
        if augmentation.random_flip:
            flipped = np.array([generator.random() < 0.5 for generator in generators])
            images[flipped] = images[flipped][..., ::-1]
        return torch.from_numpy(images), self.labels[torch.from_numpy(read)]


@dataclass(frozen=True)
class Dataset:
    """Training and validation images, split once and for all, with one class list.

    name    of the dataset, or the path of images of one's own
    source  a digest of what they are, wherever they lie: a run that goes on must be given the same
    """

    name: str
    train: LabelledImages
    validation: LabelledImages
    class_names: tuple[str, ...]
    source: str = ""

    @property
    def image_size(self) -> int:
        return self.train.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.train.images.shape[0]


def to_x_0(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1. (ADM's program)"""
    return images.float() / 127.5 - 1


def as_picture(image: np.ndarray) -> Image.Image:
    """uint8 [C,H,W] of 1 or 3 channels."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def as_array(picture: Image.Image) -> np.ndarray:
    """uint8 [C,H,W]."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
