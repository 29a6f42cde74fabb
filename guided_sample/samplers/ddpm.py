"""Ancestral sampling, guided. (DDPM Algorithm 2; ADM Algorithm 1)"""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.guidance import Guidance
from noisy_clf.noise import Noise
from guided_sample.posterior import Step, posterior_mean, reverse_variance
from guided_sample.samplers.moment import Moment


@torch.no_grad()
def ddpm(denoiser: Denoiser, steps: list[Step], guide: Guidance | None, noise: Noise, y: Tensor | None = None,
         clip: bool = True, grad_at: str = "x_t") -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0, along `steps`.

    y        labels int64 [B] for a class-conditional denoiser; the guide brings its own
    clip     x0_hat to [-1,1]
    grad_at  where the guide's gradient is taken: at x_t with t (ADM's program), or at the mean with t_prev (ADM's paper)
    """
    x_t = noise()
    for step in steps:
        t = torch.full((len(x_t),), step.t, device=x_t.device)

        # p(x_{t-1} | x_t) = N(mean, variance)
        x0_hat, v = denoiser(x_t, t, y)
        if clip:
            x0_hat = x0_hat.clamp(-1, 1)
        mean = posterior_mean(step, x_t, x0_hat)
        variance = reverse_variance(step, denoiser.variance, v)

        # shifted by variance * scale * grad log p(y | x_t)
        if guide:
            where = {"x_t": (x_t, t), "mean": (mean, torch.full_like(t, max(step.t_prev, 0)))}[grad_at]
            mean = mean + variance * guide(*where)

        x_t = mean + variance ** 0.5 * noise() if step.t_prev >= 0 else mean  # no noise at the last step
        yield Moment(step.t_prev, x_t, x0_hat)
