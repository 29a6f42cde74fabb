from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moment(NamedTuple):
    """A sampler's state after a step: x_t now stands at timestep `t` (-1: clean); x0_hat is what the step took x_0 to be."""

    t: int
    x_t: Tensor
    x0_hat: Tensor
