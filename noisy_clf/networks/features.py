"""What an encoder sees in images."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Of B images.

    maps       one for each stage of the network, from fine to coarse, float32 [B,C,H,W]
    embedding  of the whole image, float32 [B,D], of any length
    """

    maps: list[Tensor]
    embedding: Tensor
