"""At which noise levels training looks: p(t), and the weight that each loss gets for it."""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from noisy_clf.training.config import read_t_sampling


def timestep_sampler(text: str, T: int) -> TimestepSampler:
    """From how it is written on the command line."""
    kind, numbers = read_t_sampling(text)
    if kind == "uniform":
        return TimestepSampler(torch.ones(T))
    if kind == "importance":
        return ImportanceSampler(T)
    if kind == "beta":
        return TimestepSampler(beta_masses(T, *numbers))
    low, high = numbers
    t = torch.arange(T, dtype=torch.float64)
    return TimestepSampler((t >= min(math.floor(low * T + 1e-6), T - 1)) & (t <= high * T + 1e-6))


def beta_masses(T: int, a: float, b: float) -> Tensor:
    """Beta(a, b)'s of T equal parts of [0,1], float64 [T]."""
    from scipy.stats import beta  # takes a second

    return torch.from_numpy(np.diff(beta(a, b).cdf(np.linspace(0, 1, T + 1))))


class TimestepSampler(nn.Module):
    """Timesteps of fixed probabilities, given up to a factor [T]. Losses count alike: looking more often is what is meant."""

    cumulated: Tensor

    def __init__(self, density: Tensor) -> None:
        super().__init__()
        cumulated = density.double().cumsum(0)
        self.register_buffer("cumulated", cumulated / cumulated[-1], persistent=False)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u in [0,1), float64 [B] -> (t int64 [B], the losses' weights float32 [B])."""
        return torch.searchsorted(self.cumulated, u, right=True), torch.ones_like(u, dtype=torch.float32)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """What the losses [B] were at t [B], where that matters."""


class ImportanceSampler(TimestepSampler):
    """p(t) ~ sqrt(E[L_t^2]) of the last ten losses at each t, weighted by 1 / (T p(t)): the same expected loss, less
    variance. Uniform until every t has ten. (Improved DDPM eq. 18; as in ADM's program, a thousandth of p is uniform.)"""

    history: Tensor
    seen: Tensor
    KEPT, UNIFORM_PART = 10, 0.001

    def __init__(self, T: int) -> None:
        super().__init__(torch.ones(T))
        self.register_buffer("history", torch.zeros(T, self.KEPT, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """p(t), float64 [T]."""
        T = len(self.seen)
        root = self.history.square().mean(dim=1).sqrt()
        p = (1 - self.UNIFORM_PART) * root / root.sum() + self.UNIFORM_PART / T
        return torch.where((self.seen >= self.KEPT).all(), p, 1 / T)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        cumulated = p.cumsum(0)
        t = torch.searchsorted(cumulated / cumulated[-1], u, right=True)
        return t, (1 / (len(p) * p[t])).float()

    def learn(self, t: Tensor, losses: Tensor) -> None:
        t, losses = t.cpu(), losses.cpu()
        finite = losses.isfinite()  # a step that overflowed, and is skipped, teaches nothing
        losses = losses[finite]
        t, order = t[finite].sort(stable=True)
        counts = torch.bincount(t, minlength=len(self.seen))
        nth = torch.arange(len(t), device=t.device) - (counts.cumsum(0) - counts)[t]  # among this batch's at the same t
        last = nth >= counts[t] - self.KEPT
        slots = (self.seen[t] + nth) % self.KEPT
        self.history.index_put_((t[last], slots[last]), losses[order][last].double())
        self.seen += counts
