"""Exact answers: data whose eps, p(y | x_t) and reverse process are known in closed form.

A Gaussian mixture of K components of equal spread: x_0 | y ~ N(mean_y, std^2), so x_t | y ~ N(signal mean_y, v) with
v = signal^2 std^2 + noise^2, signal = sqrt(alpha_bar_t), noise = sqrt(1 - alpha_bar_t).
"""
from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from guided_sample.denoiser import Denoiser
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.schedule import NoiseSchedule


class Mixture:
    """K components with means [K,C,H,W] and one std; equal weights unless given."""

    def __init__(self, means: Tensor, std: float, schedule: NoiseSchedule, weights: list[float] | None = None) -> None:
        self.means, self.std, self.schedule = means.double(), std, schedule
        self.log_weights = torch.tensor(weights or [1 / len(means)] * len(means), dtype=torch.float64).log()

    def spread(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """signal, noise and v, each float64 [B,1,1,1]."""
        alpha_bar = torch.from_numpy(self.schedule.alpha_bar.copy())[t, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), alpha_bar * self.std ** 2 + 1 - alpha_bar

    def logits(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y, x_t) up to a term without y, float64 [B,K]: their softmax is p(y | x_t)."""
        signal, _, v = self.spread(t)
        distance = (x_t.double()[:, None] - signal[:, None] * self.means).square().flatten(2).sum(dim=2)
        return self.log_weights - distance / (2 * v.flatten()[:, None])

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[eps | x_t] = noise (x_t - signal E[mean_y | x_t]) / v, float64."""
        signal, noise, v = self.spread(t)
        expected = torch.einsum("bk,kchw->bchw", self.logits(x_t, t).softmax(dim=1), self.means)
        return noise * (x_t.double() - signal * expected) / v

    def grad_log_prob(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """d/dx_t log p(y | x_t) = signal (mean_y - E[mean_y | x_t]) / v, float64."""
        signal, _, v = self.spread(t)
        expected = torch.einsum("bk,kchw->bchw", self.logits(x_t, t).softmax(dim=1), self.means)
        return signal * (self.means[y] - expected) / v

    def denoiser(self, variance: str = "fixed_small") -> Denoiser:
        C, size = self.means.shape[1], self.means.shape[2]
        return Denoiser(Exact(lambda x_t, t, y=None: self.eps(x_t, t)), self.schedule, (C, size, size), variance)

    def classifier(self) -> NoisyClassifier:
        K, C, size, _ = self.means.shape
        network = Exact(self.logits, in_channels=C, num_classes=K, image_size=size)
        return NoisyClassifier(network, self.schedule, tuple(f"component {k}" for k in range(K)))  # type: ignore[arg-type]


class Exact(nn.Module):
    """A formula in a network's place."""

    def __init__(self, formula, **config) -> None:
        super().__init__()
        self.formula, self.config = formula, SimpleNamespace(**config)

    def forward(self, *args):
        return self.formula(*args)
