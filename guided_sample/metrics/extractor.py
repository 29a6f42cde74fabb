"""What images are compared by: a network's features."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Extractor:
    """A network whose features images are compared by.

    name        "inception", "dinov2", "timm:NAME", "judge:NAME"
    digest      SHA-256 of its weights
    kinds       of features: ("pool", "spatial") for inception, else ("pool",)
    extract     uint8 [B,H,W,C] -> float32 [B,d] of each kind
    softmax     [2048,1008], Inception's last layer without its bias, for the Inception Score
    """

    name: str
    digest: str
    kinds: tuple[str, ...]
    extract: Callable[[np.ndarray], dict[str, np.ndarray]]
    softmax: np.ndarray | None = None
    batch_size: int = 64
