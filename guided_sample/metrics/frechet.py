"""The Frechet distance of two Gaussians with the moments of two sets of features: FID, sFID and their kind."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dsyr, dsyrk
from tqdm import tqdm

from noisy_clf.errors import UserError

ROWS = 1000  # read at a time
ENOUGH = 8  # images for each dimension, from which on the bias goes with 1/N well enough to be extrapolated


class Moments(NamedTuple):
    """Of N images' features.

    mean        float64 [d]
    covariance  float64 [d,d], divided by N-1
    root        float64 [r,d], root^T root = covariance, where it is at hand: r = N of fewer than d images; None: to be found
    """

    N: int
    mean: np.ndarray
    covariance: np.ndarray
    root: np.ndarray | None = None


def moments(chunks: Iterable[np.ndarray]) -> Moments:
    """Of all chunks [B,d] together, in one pass and in float64. (Chan, Golub & LeVeque 1979)"""
    N, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    kept: list[np.ndarray] = []
    for chunk in chunks:
        rows = np.array(chunk, np.float64, order="C")
        n, own_mean = len(rows), rows.mean(axis=0)
        if not N:
            mean, scatter = np.zeros_like(own_mean), np.zeros((len(own_mean),) * 2, order="F")
        rows -= own_mean
        delta = own_mean - mean
        scatter = dsyrk(1.0, rows.T, beta=1.0, c=scatter, overwrite_c=1)  # the upper triangle, in place
        scatter = dsyr(N * n / (N + n), delta, a=scatter, overwrite_a=1)
        mean, N = mean + delta * (n / (N + n)), N + n
        kept = [*kept, chunk] if N < len(mean) else []
    if N < 2:
        raise UserError(f"there {'is one image' if N else 'are no images'}; a distance between sets of images needs two or "
                        f"more on either side, and thousands to mean something.")
    if not np.isfinite(mean).all():
        raise UserError("the images' features are not finite numbers: the weights of the network that they are of are damaged.")
    covariance = (np.triu(scatter) + np.triu(scatter, 1).T) / (N - 1)
    return Moments(N, mean, covariance, (np.concatenate(kept) - mean) / np.sqrt(N - 1) if kept else None)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2). (Heusel et al. 2017 eq. 6)"""
    apart = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance)
    return max(float(apart - 2 * nuclear_norm(root(a), root(b))), 0.0)


def root(of: Moments) -> np.ndarray:
    """F [r,d] with F^T F = covariance: at hand, by Cholesky's factorisation, or, of a singular one, by its eigenvectors."""
    if of.root is not None:
        return of.root
    try:
        return np.linalg.cholesky(of.covariance).T
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(of.covariance)
        real = values > values[-1] * len(values) * np.finfo(np.float64).eps
        return np.sqrt(values[real])[:, None] * vectors[:, real].T


def nuclear_norm(F_a: np.ndarray, F_b: np.ndarray) -> float:
    """The sum of the singular values of F_a F_b^T, which is tr (S_a S_b)^(1/2).

    Where all d are there, they are the roots of a symmetric matrix's eigenvalues, in half the time; of a zero among them
    that would make 1e-8 of the largest.
    """
    product = F_a @ F_b.T
    if F_a.shape[0] == F_b.shape[0] == F_a.shape[1]:
        return float(np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum())
    return float(np.linalg.svd(product, compute_uv=False).sum())


def frechet_infinity(features: np.ndarray, reference: Moments, seed: int = 0) -> tuple[float, float] | None:
    """The distance from the reference that infinitely many such images would have, and its standard error.

    On a line in 1/N through all images [N,d] and their two halves, drawn by the seed. (Chong & Forsyth 2020 fit it to subsets
    that overlap; of smaller ones the line bends) The error is that of the mean of four quarters, each extrapolated by itself.
    None below 8 d images. The reference's own bias stays.
    """
    N, d = features.shape
    if N < ENOUGH * d:
        return None
    order = np.random.default_rng(seed).permutation(N)
    reference = reference._replace(root=root(reference))
    parts = [part for count in (1, 2, 4, 8) for part in np.array_split(order, count)]  # each holds two of the next
    bar = tqdm(parts, unit="subset", desc="towards infinity", delay=3, leave=False, dynamic_ncols=True)
    found = np.array([frechet_distance(moments(of_these(features, part)), reference) for part in bar])
    quarters = 2 * found[3:7] - found[7:].reshape(4, 2).mean(axis=1)
    return float(2 * found[0] - found[1:3].mean()), float(quarters.std(ddof=1) / 2)


def of_these(features: np.ndarray, indices: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of these indices, in file order, some at a time."""
    indices = np.sort(indices)
    for start in range(0, len(indices), ROWS):
        yield features[indices[start:start + ROWS]]
