"""The reverse steps of a chain of kept timesteps: q(x_{t-1} | x_t, x_0) and the kinds of variance.

A step goes from t to t_prev, the next lower kept timestep (-1, where alpha_bar is 1, at the end).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisy_clf.schedule import NoiseSchedule


@dataclass(frozen=True)
class Step:
    """One reverse step in plain numbers; or many at once, as float64 [S] or float32 [B,1,1,1].

    alpha_bar, alpha_bar_prev  the signal's variance at t and t_prev
    beta                       1 - alpha_bar / alpha_bar_prev
    mean_x0, mean_xt           the posterior mean's weights of x_0 and of x_t   (DDPM eq. 7)
    beta_tilde                 the posterior variance, 0 at the last step       (DDPM eq. 7)
    beta_tilde_clipped         at the last step that of the step before it      (ADM's program)
    """

    t: Any
    t_prev: Any
    alpha_bar: Any
    alpha_bar_prev: Any
    beta: Any
    mean_x0: Any
    mean_xt: Any
    beta_tilde: Any
    beta_tilde_clipped: Any

    def at(self, t: Tensor) -> Step:
        """From the table of every timestep: the steps from t [B], as float32 [B,1,1,1] on t's device."""
        return Step(*(torch.from_numpy(getattr(self, field.name)).to(t.device, torch.float32)[t, None, None, None]
                      for field in fields(self)))


def step_table(schedule: NoiseSchedule, timesteps: Sequence[int]) -> Step:
    """The steps of the chain that keeps `timesteps` (ascending), as float64 [S]."""
    t = np.array(timesteps)
    t_prev = np.append(-1, t[:-1])
    alpha_bar = schedule.alpha_bar[t]
    alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / alpha_bar_prev
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    return Step(t, t_prev, alpha_bar, alpha_bar_prev, beta,
                mean_x0=np.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar),
                mean_xt=np.sqrt(1 - beta) * (1 - alpha_bar_prev) / (1 - alpha_bar),
                beta_tilde=beta_tilde,
                beta_tilde_clipped=np.append(beta_tilde[1:2] if len(t) > 1 else beta, beta_tilde[1:]))


def reverse_steps(schedule: NoiseSchedule, timesteps: Sequence[int]) -> list[Step]:
    """The steps of the chain that keeps `timesteps` (ascending), in a sampler's order: the largest t first."""
    table = step_table(schedule, timesteps)
    return [Step(*(getattr(table, field.name)[i].item() for field in fields(table)))
            for i in reversed(range(len(timesteps)))]


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
