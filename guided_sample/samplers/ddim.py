"""DDIM, guided. (DDIM eq. 12 and 16; ADM Algorithm 2)"""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.guidance import Guidance
from noisy_clf.noise import Noise
from guided_sample.posterior import Step
from guided_sample.samplers.moment import Moment


@torch.no_grad()
def ddim(denoiser: Denoiser, steps: list[Step], guide: Guidance | None, noise: Noise, y: Tensor | None = None,
         clip: bool = True, eta: float = 0.0) -> Iterator[Moment]:
    """From x_T ~ N(0, I) to x_0, along `steps`; deterministic after x_T where eta is 0, as noisy as DDPM where it is 1.

    y     labels int64 [B] for a class-conditional denoiser; the guide brings its own
    clip  x0_hat to [-1,1], before it is guided (not after, as in ADM's program)
    """
    x_t = noise()
    for step in steps:
        t = torch.full((len(x_t),), step.t, device=x_t.device)
        alpha_bar, alpha_bar_prev = step.alpha_bar, step.alpha_bar_prev

        x0_hat, _ = denoiser(x_t, t, y)
        if clip:
            x0_hat = x0_hat.clamp(-1, 1)
        eps = (x_t - alpha_bar ** 0.5 * x0_hat) / (1 - alpha_bar) ** 0.5

        # eps shifted by -sqrt(1 - alpha_bar) * scale * grad log p(y | x_t)
        if guide:
            eps = eps - (1 - alpha_bar) ** 0.5 * guide(x_t, t)
            x0_hat = (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar ** 0.5

        sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * step.beta) ** 0.5
        x_t = alpha_bar_prev ** 0.5 * x0_hat + (1 - alpha_bar_prev - sigma ** 2) ** 0.5 * eps
        if eta and step.t_prev >= 0:  # no noise at the last step
            x_t = x_t + sigma * noise()
        yield Moment(step.t_prev, x_t, x0_hat)
