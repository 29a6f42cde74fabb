"""The Inception Score, as ADM's evaluator computes it."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.special import log_softmax, xlogy


def inception_score(features: Iterable[np.ndarray], softmax: np.ndarray, split_size: int = 5000) -> tuple[float, float]:
    """Mean and deviation of exp E KL(p(y|x) || p(y)) over consecutive splits. (Salimans et al. 2016 sec. 4)

    features  in file order, chunks [B,d]; the last split may be a ragged one, and weighs as much
    softmax   of logits = features @ softmax, [d,K]; without the bias, as ADM does
    """
    scores = []
    for N, mass, negentropy in splits(features, softmax, split_size):
        scores.append(np.exp(negentropy / N - xlogy(mass / N, mass / N).sum()))
    return float(np.mean(scores)), float(np.std(scores))


def splits(features: Iterable[np.ndarray], softmax: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray, float]]:
    """Of each split the number of images, the sum of their p(y|x), float64 [K], and that of their sum_y p log p."""
    N, mass, negentropy = 0, np.zeros(softmax.shape[1]), 0.0
    for chunk in features:
        while len(chunk):
            piece, chunk = chunk[:size - N], chunk[size - N:]
            log_p = log_softmax((piece @ softmax).astype(np.float64), axis=1)
            p = np.exp(log_p)  # 0 where it underflows, log_p being finite
            N, mass, negentropy = N + len(piece), mass + p.sum(axis=0), negentropy + float((p * log_p).sum())
            if N == size:
                yield N, mass, negentropy
                N, mass, negentropy = 0, np.zeros_like(mass), 0.0
    if N:
        yield N, mass, negentropy
