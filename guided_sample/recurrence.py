"""Self-recurrence: each step several times over, x_t made anew from x_{t-1} in between."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from guided_sample.model import Model
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.noise import Noise


def recurrent(sampler: Callable[..., Iterator[Moment]], times: int | Callable[[Step], int]) -> Callable[..., Iterator[Moment]]:
    """A sampler that takes each step of another's `times` times, as the step says or always so many, and yields one Moment a
    step. The other has no memory of the steps before: ddpm, ddim. (Universal guidance sec. 3.3; FreeDoM's time travel)"""
    @torch.no_grad()
    def recurring(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise, **knobs: Any) -> Iterator[Moment]:
        x_t = x_T
        for step in steps:
            moment, = sampler(model, x_t, [step], noise, **knobs)
            for _ in range((times(step) if callable(times) else times) - 1):
                # q(x_t | x_{t-1}), of the chain that is kept
                x_t = (1 - step.beta) ** 0.5 * moment.x_t + step.beta ** 0.5 * noise()
                moment, = sampler(model, x_t, [step], noise, **knobs)
            x_t = moment.x_t
            yield moment
    return recurring
