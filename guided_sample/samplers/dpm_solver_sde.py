"""SDE-DPM-Solver++(2M), guided: with fresh noise at each step, as DDPM. (DPM-Solver++'s SDE solvers)"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, expm1

import torch
from torch import Tensor

from guided_sample.model import Model, guided
from guided_sample.samplers.dpm_solver import Estimates
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.noise import Noise


@torch.no_grad()
def dpm_solver_sde(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0."""
    x_t, estimates = x_T, Estimates(steps)
    for step in steps:
        x0_hat, _ = guided(model(x_t, step), x_t, step)
        D = estimates.midway(x0_hat)
        # x_{t-1} = sigma_{t-1} / sigma_t e^{-h} x_t + alpha_{t-1} (1 - e^{-2h}) D + sigma_{t-1} sqrt(1 - e^{-2h}) noise
        shrunk = ((1 - step.alpha_bar_prev) / (1 - step.alpha_bar)) ** 0.5
        gone = -expm1(-2 * step.h)
        x_t = shrunk * exp(-step.h) * x_t + step.alpha_bar_prev ** 0.5 * gone * D
        if step.t_prev >= 0:  # no noise at the last step
            x_t = x_t + ((1 - step.alpha_bar_prev) * gone) ** 0.5 * noise()
        yield Moment(step.t_prev, x_t, x0_hat)
