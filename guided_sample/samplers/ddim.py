"""DDIM, guided. (DDIM eq. 12 and 16; ADM Algorithm 2)"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from guided_sample.model import Model, guided
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.noise import Noise


@torch.no_grad()
def ddim(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise, eta: float = 0.0) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0; deterministic where eta is 0, as noisy as DDPM where it is 1."""
    x_t = x_T
    for step in steps:
        alpha_bar, alpha_bar_prev = step.alpha_bar, step.alpha_bar_prev

        # eps shifted by -sqrt(1 - alpha_bar) * gradient, and the x0_hat of that
        x0_hat, eps = guided(model(x_t, step), x_t, step)

        sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * step.beta) ** 0.5
        x_t = alpha_bar_prev ** 0.5 * x0_hat + (1 - alpha_bar_prev - sigma ** 2) ** 0.5 * eps
        if eta and step.t_prev >= 0:  # no noise at the last step
            x_t = x_t + sigma * noise()
        yield Moment(step.t_prev, x_t, x0_hat)
