"""The inputs that eval_vectors.npz and eval_graph_vectors.npz were computed from, drawn anew by numpy's frozen RandomState."""
from __future__ import annotations

import zlib

import numpy as np


def features(seed: int, n: int, d: int, kind: str) -> np.ndarray:
    """float32 [n,d]. pool: non-negative and correlated, as pooled Inception features; big: squared norms beyond float16."""
    r = np.random.RandomState(seed)
    if kind == "pool":
        mix = r.standard_normal((32, d)) / np.sqrt(32)
        z = r.standard_normal((n, 32))
        return np.maximum(0.35 + 0.45 * z.dot(mix) + 0.25 * r.standard_normal((n, d)), 0).astype(np.float32)
    return (r.standard_normal((n, d)) * {"gauss": 1, "big": 20}[kind]).astype(np.float32)


def shifted(x: np.ndarray, seed: int) -> np.ndarray:
    return (1.05 * x + 0.05 * np.random.RandomState(seed).standard_normal((1, x.shape[1]))).astype(np.float32)


def case(kind: str, n_ref: int, n_sam: int, d: int, seeds: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(reference features, sample features, softmax weight [d,1008]) of a case, as eval_vectors.npz's meta_json names it."""
    weight = np.random.RandomState(seeds[0] + 1000).standard_normal((d, 1008)) * (3 / np.sqrt(d))
    if kind == "pool":  # one mixing matrix for both
        both = features(seeds[0], n_ref + n_sam, d, kind)
        return both[:n_ref], np.maximum(shifted(both[n_ref:], seeds[2]), 0).astype(np.float32), weight.astype(np.float32)
    return features(seeds[0], n_ref, d, kind), shifted(features(seeds[1], n_sam, d, kind), seeds[2]), weight.astype(np.float32)


def images(seed: int, n: int, size: int) -> np.ndarray:
    """uint8 [n,size,size,3], whose resized forms resize_SIZE_every23 holds (seed 200 + size, n = 1)."""
    r, (y, x) = np.random.RandomState(seed), np.mgrid[0:size, 0:size] / size
    out = np.empty((n, size, size, 3), np.uint8)
    for i in range(n):
        f, p, a = r.uniform(1, 6, (3, 2)), r.uniform(0, 6.28, 3), r.uniform(30, 110, 3)
        waves = np.stack([128 + a[c] * np.sin(6.28 * (f[c, 0] * x + f[c, 1] * y) + p[c]) for c in range(3)], -1)
        out[i] = np.clip(np.round(waves + r.standard_normal((size, size, 3)) * r.uniform(0, 25)), 0, 255).astype(np.uint8)
    return out


# The random Inception: each tensor from the name of its node in the 2015 graph (mixed_6/conv is Mixed_6d.branch1x1, and so on).

def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def conv_weight(node: str, o: int, i: int, kh: int, kw: int) -> np.ndarray:
    """float32 [o,i,kh,kw]"""
    return (_stream(node + "/conv2d_params").standard_normal((o, i, kh, kw)) * np.sqrt(2 / (i * kh * kw))).astype(np.float32)


def batch_norm(node: str, c: int) -> tuple[np.ndarray, ...]:
    """gamma, beta, mean, variance, float32 [c]; epsilon is 1e-3."""
    r = _stream(node + "/batchnorm")
    return tuple(r.uniform(low, high, c).astype(np.float32) for low, high in ((.8, 1.2), (-.1, .2), (-.1, .1), (.8, 1.2)))


def softmax_layer() -> tuple[np.ndarray, np.ndarray]:
    """weight [1008,2048], bias [1008] (which the Inception Score leaves out)."""
    r = _stream("softmax")
    return (r.standard_normal((1008, 2048)) * 0.15).astype(np.float32), r.uniform(-.5, .5, 1008).astype(np.float32)
