"""The random numbers of training. Position p is the p-th sample that training sees; its draws follow from (seed, p) alone, so
that they depend neither on the batch nor on the number of processes that share it."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from noisy_clf.networks.layers import Dropout


def keys(seed: int, positions: range, use: int) -> np.ndarray:
    """A random uint64 for each position, another one for each use. (SplitMix64: Steele, Lea & Flood 2014)"""
    z = np.arange(positions.start, positions.stop, dtype=np.uint64)
    for number in (seed, use):
        z = scrambled(z) + np.uint64(number)
    return scrambled(z)


def scrambled(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, positions: range, use: int = 0) -> Tensor:
    """A number in [0,1) for each position, float64 [B]: what its timestep is drawn by, or by another use what else."""
    return torch.from_numpy((keys(seed, positions, use) >> np.uint64(11)) * 2.0 ** -53)


class Draws:
    """The draws of the samples at some positions: noise, then dropout, from a generator of each one's own."""

    def __init__(self, seed: int, positions: range, device: torch.device) -> None:
        self.seed, self.positions = seed, positions
        seeds = keys(seed, positions, use=1) >> np.uint64(1)
        self.generators = [torch.Generator(device).manual_seed(int(number)) for number in seeds]

    def noise_like(self, x_0: Tensor) -> Tensor:
        """eps, standard normal, of x_0's shape [B,...]."""
        eps = torch.empty_like(x_0)
        for row, generator in zip(eps, self.generators):
            row.normal_(generator=generator)
        return eps

    def beta_of_pairs(self, a: float) -> Tensor:
        """A draw from Beta(a, a) that each two neighbours share, float32 [B]."""
        drawn = [np.random.default_rng(int(key)).beta(a, a) for key in keys(self.seed, self.positions, use=2)[::2]]
        return torch.tensor(drawn, dtype=torch.float32).repeat_interleave(2)

    def chosen(self, probability: float, device: torch.device) -> Tensor:
        """Whether each sample is among those that something happens to, bool [B]."""
        return (uniform(self.seed, self.positions, use=4) < probability).to(device)

    @contextmanager
    def decide_dropout(self, network: nn.Module) -> Iterator[None]:
        """Within, the network drops out by each sample's own generator."""
        layers = [module for module in network.modules() if isinstance(module, Dropout)]
        for layer in layers:
            layer.generators = self.generators
        try:
            yield
        finally:
            for layer in layers:
                layer.generators = None


def augmentation_generators(seed: int, positions: range) -> list[np.random.Generator]:
    """What crops and flips each sample."""
    return [np.random.default_rng(int(key)) for key in keys(seed, positions, use=3)]
