"""Which images a step of training sees, in which order, and by which random numbers: functions of (seed, position) alone.

Position p is the p-th image that training sees. What happens to it depends on neither batches nor processes.
"""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def training_order(count: int, seed: int, positions: range) -> Tensor:
    """The images at these positions, of `count` there are: each epoch is a permutation of its own."""
    return torch.tensor([int(permutation(count, seed, position // count)[position % count]) for position in positions])


@lru_cache(maxsize=3)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def in_batches(count: int, batch_size: int, share: range | None = None) -> Iterator[Tensor]:
    """All of range(count), or of a process's share of it, in order."""
    share = range(count) if share is None else share
    for start in range(share.start, share.stop, batch_size):
        yield torch.arange(start, min(start + batch_size, share.stop))
