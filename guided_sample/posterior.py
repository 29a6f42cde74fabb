"""q(x_{t-1} | x_t, x_0), and the kinds of variance that a reverse step may have."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_sample.steps import Step


def posterior_mean(step: Step, x_t: Tensor, x_0: Tensor) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0). (DDPM eq. 7)"""
    return step.mean_x0 * x_0 + step.mean_xt * x_t


def reverse_variance(step: Step, kind: str, v: Tensor | None) -> Any:
    """The variance of p(x_{t-1} | x_t): a number, or [B,C,H,W] where it is learned as `v`."""
    if kind == "fixed_small":
        return step.beta_tilde
    if kind == "fixed_large":  # beta, but at the last step beta_tilde, clipped (ADM's program)
        return step.beta if step.t_prev >= 0 else step.beta_tilde_clipped
    return learned_log_variance(step, kind, v).exp()


def learned_log_variance(step: Step, kind: str, v: Tensor | None) -> Tensor:
    """`learned`: v itself. `learned_range`: v from -1 to 1 runs from log beta_tilde to log beta. (Improved DDPM eq. 15)"""
    assert v is not None, f"variance {kind} needs a network that predicts it"
    if kind == "learned":
        return v
    log = torch.log if isinstance(step.beta, Tensor) else np.log
    fraction = (v + 1) / 2
    return fraction * log(step.beta) + (1 - fraction) * log(step.beta_tilde_clipped)
