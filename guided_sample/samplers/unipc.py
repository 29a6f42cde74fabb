"""UniPC, guided. (UniPC Algorithms 1 and 2, predicting x_0; arXiv 2302.04867)"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import expm1, factorial

import numpy as np
import torch
from torch import Tensor

from guided_sample.model import Model, guided
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step, half_log_snr
from noisy_clf.noise import Noise


@torch.no_grad()
def unipc(model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise, order: int = 2, variant: str = "bh2",
          ) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0, deterministic, with one evaluation a step: where a step has led to, x0_hat corrects that step,
    and starts the next one. Of lower order at the first steps and towards t = 0, where the last one is not corrected."""
    x_t, x_before, p = x_T, x_T, 0
    noisy = sum(step.t_prev >= 0 for step in steps)
    estimates: list[Tensor] = []  # x0_hat of the steps behind, the newest first
    for i, step in enumerate(steps):
        x0_hat, _ = guided(model(x_t, step), x_t, step)
        if i:  # UniC-p
            x_t = step_from(x_before, steps[:i], estimates[:p], variant, x0_hat)
        estimates = [x0_hat, *estimates[:order - 1]]

        # UniP-p
        p = min(order, i + 1, max(noisy - i, 1))
        x_before, x_t = x_t, step_from(x_t, steps[:i + 1], estimates[:p], variant)
        yield Moment(step.t_prev, x_t, x0_hat)


def step_from(x_t: Tensor, steps: Sequence[Step], estimates: Sequence[Tensor], variant: str, reached: Tensor | None = None,
              ) -> Tensor:
    """x_{t-1} = sigma_{t-1} / sigma_t x_t - alpha_{t-1} ((e^{-h} - 1) x0_hat + B(h) sum_k rho_k D_k / r_k), by the last of
    `steps`.

    estimates  x0_hat there and at the steps before it, of which D_k are the differences from the first, r_k steps off
    reached    x0_hat at t-1, where that is known: r = 1
    """
    step, x0_hat = steps[-1], estimates[0]
    behind = steps[::-1][1:len(estimates)]
    r = [(half_log_snr(other.alpha_bar) - half_log_snr(step.alpha_bar)) / step.h for other in behind]
    D = [other - x0_hat for other in estimates[1:]]
    if reached is not None:
        r, D = [*r, 1.0], [*D, reached - x0_hat]
    shift = expm1(-step.h) * x0_hat
    B = expm1(-step.h) if variant == "bh2" else -step.h
    for rho_k, r_k, D_k in zip(weights(step.h, r, B), r, D):
        shift = shift + B * rho_k / r_k * D_k
    return ((1 - step.alpha_bar_prev) / (1 - step.alpha_bar)) ** 0.5 * x_t - step.alpha_bar_prev ** 0.5 * shift


def weights(h: float, r: Sequence[float], B: float) -> list[float]:
    """rho of sum_k rho_k r_k^(n-1) = n! phi_(n+1)(-h) (-h) / B(h), for n = 1 ... as many as there are; of one alone 1/2.
    (UniPC eq. 10; phi_1 = (e^z - 1) / z, phi_(n+1) = (phi_n - 1 / n!) / z)"""
    if len(r) <= 1:
        return [0.5] * len(r)
    z, n = -h, range(1, len(r) + 1)
    phi = [expm1(z) / z]
    for k in n:
        phi.append((phi[-1] - 1 / factorial(k)) / z)
    b = [factorial(k) * phi[k] * z / B for k in n]
    return np.linalg.solve([[r_k ** (k - 1) for r_k in r] for k in n], b).tolist()
