"""DPM-Solver++(2M), guided. (DPM-Solver++ Algorithm 2)"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import expm1

import torch
from torch import Tensor

from guided_sample.model import Model, guided
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.noise import Noise

FEW = 10  # steps through noise below which the last of them is of first order (DPM-Solver's program)


@torch.no_grad()
def dpm_solver(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0, deterministic: the ODE's solution to second order in the steps of log SNR."""
    x_t, estimates = x_T, Estimates(steps, FEW)
    for step in steps:
        x0_hat, _ = guided(model(x_t, step), x_t, step)
        D = estimates.midway(x0_hat)
        # x_{t-1} = sigma_{t-1} / sigma_t x_t - alpha_{t-1} (e^{-h} - 1) D
        shrunk = ((1 - step.alpha_bar_prev) / (1 - step.alpha_bar)) ** 0.5
        x_t = shrunk * x_t - step.alpha_bar_prev ** 0.5 * expm1(-step.h) * D
        yield Moment(step.t_prev, x_t, x0_hat)


class Estimates:
    """The x0_hat of the chain's steps, as they come. The last step through noise is of first order where there are fewer than
    `few` of them."""

    def __init__(self, steps: Sequence[Step], few: int = 0) -> None:
        noisy = sum(step.t_prev >= 0 for step in steps)
        self.steps, self.i, self.last = steps, 0, noisy - 1 if noisy < few else None
        self.before: Tensor

    def midway(self, x0_hat: Tensor) -> Tensor:
        """D = x0_hat + h_i / (2 h_{i-1}) (x0_hat - x0_hat of the step before): where it will be half a step on. x0_hat itself
        in steps of first order: the first one, and one that ends clean, infinitely far off."""
        steps, i = self.steps, self.i
        first_order = i in (0, self.last) or steps[i].t_prev < 0
        D = x0_hat if first_order else x0_hat + steps[i].h / (2 * steps[i - 1].h) * (x0_hat - self.before)
        self.before, self.i = x0_hat, i + 1
        return D
