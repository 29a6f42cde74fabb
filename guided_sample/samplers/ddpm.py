"""Ancestral sampling, guided. (DDPM Algorithm 2; ADM Algorithm 1)"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from guided_sample.model import Model
from guided_sample.posterior import posterior_mean
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.noise import Noise


@torch.no_grad()
def ddpm(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0."""
    x_t = x_T
    for step in steps:
        # p(x_{t-1} | x_t) = N(mean, variance), the mean shifted by variance * gradient
        x0_hat, variance, gradient, _, eps = model(x_t, step)
        if eps is not None:  # the noise in x_t is to be taken for this (CFG++)
            x_t = step.alpha_bar ** 0.5 * x0_hat + (1 - step.alpha_bar) ** 0.5 * eps
        mean = posterior_mean(step, x_t, x0_hat)
        if gradient is not None:
            mean = mean + variance * gradient

        x_t = mean + variance ** 0.5 * noise() if step.t_prev >= 0 else mean  # no noise at the last step
        yield Moment(step.t_prev, x_t, x0_hat)
