"""Tiny networks and a tiny dataset."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.schedule import NoiseSchedule
from tests.reference import with_drawn_weights

TINY: dict[str, Any] = {
    "image_size": 8, "in_channels": 1, "channels": 32, "channel_mult": (1,), "res_blocks": 1, "head_channels": 32,
    "num_classes": 10}
TINY_FLAGS = ("--image-size=8 --channels=32 --channel-mult=1 --res-blocks=1 --attention-at= --head-channels=32 "
              "--batch-size=8 --device=cpu").split()


def tiny_network(**settings: Any) -> EncoderUNet:
    return EncoderUNet(EncoderUNetConfig(**{**TINY, **settings}))


class TouchesAFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.fixture
def classifier() -> NoisyClassifier:
    """Untrained, yet with no weight at 0: every part of it matters to its logits."""
    network = with_drawn_weights(tiny_network())
    return NoisyClassifier(network, NoiseSchedule.named("cosine", 100), digits(8).class_names)


def first_of(part: LabelledImages, count: int) -> LabelledImages:
    images, labels = part.batch(torch.arange(count))
    return LabelledImages(ArrayImages(images.numpy()), labels)


@pytest.fixture(scope="session")
def few_digits() -> Dataset:
    """30 images to train on and 12 to validate."""
    whole = digits(8)
    train, validation = (first_of(part, count) for part, count in ((whole.train, 30), (whole.validation, 12)))
    return Dataset("digits", train, validation, whole.class_names)


@pytest.fixture
def x_t() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
