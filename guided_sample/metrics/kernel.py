"""The kernel distance (KID) of two sets of features: unbiased, whatever their numbers."""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from noisy_clf.errors import UserError

EXACT = 5000  # images a side, up to which all pairs are taken
SUBSETS, SUBSET_SIZE = 100, 1000  # above, as in the paper
ROWS = 500  # of pairs at a time


class Discrepancy(NamedTuple):
    """mmd: unbiased MMD^2; of_a, of_b: the variance of what one image contributes to N times it, of either side."""

    mmd: float
    of_a: float
    of_b: float


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """(KID, its standard error) of features [N,d] and [M,d]: MMD^2 with the kernel (x.y/d + 1)^3. (Binkowski et al. 2018)

    Of more than 5000 images the mean over 100 subsets of at most 1000 of each side, drawn by the seed. The error is that of
    drawing other images and, there, other subsets; where both sides are of one distribution, it is on the large side.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(f"there are {len(a)} and {len(b)} images; KID compares pairs, and needs two or more on either side.")
    if max(len(a), len(b)) <= EXACT:
        found = [discrepancy(a, b)]
    else:
        random = np.random.default_rng(seed)
        bar = tqdm(range(SUBSETS), unit="subset", desc="KID", delay=3, leave=False, dynamic_ncols=True)
        found = [discrepancy(drawn(a, random), drawn(b, random)) for _ in bar]
    mmd, of_a, of_b = np.array(found).T
    between = mmd.var(ddof=1) / len(mmd) if len(mmd) > 1 else 0.0
    return float(mmd.mean()), float(np.sqrt(of_a.mean() / len(a) + of_b.mean() / len(b) + between))


def drawn(features: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """At most 1000 of the rows, each once."""
    return features[np.sort(random.choice(len(features), min(SUBSET_SIZE, len(features)), replace=False))]


def discrepancy(a: np.ndarray, b: np.ndarray) -> Discrepancy:
    """Over all pairs of different images. (Gretton et al. 2012 eq. 3; the variances are those of its first order)"""
    a_to_b, b_to_a = np.empty(len(a)), np.zeros(len(b))
    for rows in blocks(len(a)):
        pairs = kernel(a[rows], b)
        a_to_b[rows] = pairs.mean(axis=1)
        b_to_a += pairs.sum(axis=0) / len(a)
    a_to_a, b_to_b = to_the_others(a), to_the_others(b)
    return Discrepancy(a_to_a.mean() + b_to_b.mean() - 2 * a_to_b.mean(),
                       4 * (a_to_a - a_to_b).var(ddof=1), 4 * (b_to_b - b_to_a).var(ddof=1))


def to_the_others(x: np.ndarray) -> np.ndarray:
    """The mean kernel of each with all others, float64 [N]."""
    mean = np.empty(len(x))
    for rows in blocks(len(x)):
        pairs = kernel(x[rows], x)
        mean[rows] = (pairs.sum(axis=1) - pairs.diagonal(rows.start)) / (len(x) - 1)
    return mean


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 [B,M], of a product in the features' own precision."""
    base = (x @ y.T).astype(np.float64) / x.shape[1] + 1
    return base * base * base


def blocks(N: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, N)) for start in range(0, N, ROWS))
