"""The cases that ADM's evaluator was run on, and the figures that it found: tests/data/README.md tells how."""
from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from tests.guided_sample.metrics import inputs

VECTORS = Path(__file__).parents[2] / "data" / "evaluator" / "eval_vectors.npz"
CASES = ("pool_small", "pool_2048", "gauss", "big")


@cache
def drawn(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The case's features of the reference and of the samples, float32 [N,d], and softmax weights [d,1008]."""
    return inputs.case(**json.loads(str(theirs("meta_json")))["cases"][name])


def theirs(key: str) -> np.ndarray:
    with np.load(VECTORS, allow_pickle=False) as archive:
        return archive[key]
