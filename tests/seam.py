"""Short ways to compose models and to run samplers."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.guides.classifier import log_prob_of
from guided_sample.model import Guide, Model, clip, labelled, steered, thresholded
from guided_sample.samplers.moment import Moment


def classified(classifier: Any, y: Tensor, scale: Any = 1.0) -> Guide:
    """log p(y | x_t)."""
    return Guide(log_prob_of(classifier, y), scale, "the classifier")


def adm(denoiser: Denoiser, *guides: Guide, y: Tensor | None = None, clipped: bool = True) -> Model:
    """As ADM's algorithms have it."""
    model = labelled(denoiser, y)
    return steered(thresholded(model, clip) if clipped else model, *guides)


def run(sampler: Callable[..., Iterable[Moment]], model: Model, steps: list[Any], noise: Callable[[], Tensor],
        **knobs: Any) -> list[Moment]:
    """All moments; x_T is the noise's first draw."""
    return list(sampler(model, noise(), steps, noise, **knobs))


def last(moments: list[Moment]) -> Tensor:
    return moments[-1].x_t


def normal_noise(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)
