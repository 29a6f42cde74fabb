"""Precision and recall by nearest neighbours, as ADM's evaluator computes them in float32."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from noisy_clf.errors import UserError

BLOCK = 2048  # images; a block of distances is 16 MB


def precision_recall(reference: np.ndarray, samples: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of features float32 [N,d] and [M,d]. (Kynkaanniemi et al. 2019 eq. 1-2)

    The share of samples that lie in the reference's manifold, and the reverse: no farther from some image than its k-th
    nearest neighbour among its own is.
    """
    if min(len(reference), len(samples)) <= k:
        raise UserError(f"there are {len(reference)} real images and {len(samples)} samples; precision and recall look at {k} "
                        f"neighbours, and need more than {k} on either side.")
    count = -(-len(reference) // BLOCK) + -(-len(samples) // BLOCK)
    with tqdm(total=count * (count + 1) // 2, unit="block", desc="precision and recall", delay=3, leave=False,
              dynamic_ncols=True) as bar:
        reference_radii, samples_radii = radii(reference, k, bar), radii(samples, k, bar)
        precise, recalled = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
        for rows in blocks(len(reference)):
            for columns in blocks(len(samples)):
                apart = squared_distances(reference[rows], samples[columns])
                precise[columns] |= (apart <= reference_radii[rows, None]).any(axis=0)
                recalled[rows] |= (apart <= samples_radii[columns]).any(axis=1)
                bar.update()
    return float(precise.mean()), float(recalled.mean())


def precision_recall_by_class(reference: np.ndarray, reference_labels: np.ndarray, samples: np.ndarray,
                              samples_labels: np.ndarray, K: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Both, each class by itself, float64 [K]; NaN where a class has no more than k images on either side."""
    found = np.full((2, K), np.nan)
    for c in tqdm(range(K), unit="class", desc="precision and recall by class", delay=3, leave=False, dynamic_ncols=True):
        own = reference[reference_labels == c], samples[samples_labels == c]
        if min(map(len, own)) > k:
            found[:, c] = precision_recall(*own, k)
    return found[0], found[1]


def radii(features: np.ndarray, k: int, bar: tqdm) -> np.ndarray:
    """The squared distance of each to its k-th nearest neighbour, float32 [N]."""
    nearest = np.full((len(features), k + 1), np.inf, np.float32)  # of each, itself among them
    for rows in blocks(len(features)):
        for columns in blocks(len(features), rows.start):
            apart = squared_distances(features[rows], features[columns])
            nearest[rows] = smallest(nearest[rows], apart)
            if rows != columns:  # the same distances, seen from the other side
                nearest[columns] = smallest(nearest[columns], apart.T)
            bar.update()
    return nearest.max(axis=1)


def smallest(nearest: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """As many as there are in `nearest` [B,k+1], of these and of the columns of `apart` [B,M]."""
    k = nearest.shape[1] - 1
    return np.partition(np.concatenate([nearest, apart], axis=1), k, axis=1)[:, :k + 1]


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x|^2 - 2 x.y + |y|^2, no less than 0, float32 [B,M]."""
    apart = (-2 * x) @ y.T
    apart += np.square(x).sum(axis=1)[:, None]
    apart += np.square(y).sum(axis=1)
    return np.maximum(apart, 0, out=apart)


def blocks(N: int, start: int = 0) -> Iterator[slice]:
    return (slice(begin, min(begin + BLOCK, N)) for begin in range(start, N, BLOCK))
