"""Scales that change with the step. They compose: within(interval, every(2, steps, 5.0))."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_sample.model import Look, Scale, at
from guided_sample.steps import Step

Amount = Scale | float | Tensor


def times(factor: Callable[[Step], float], scale: Amount) -> Scale:
    """The scale times the step's factor; plain 0, at which a guide is not run, where that is 0."""
    def at_step(step: Step) -> float | Tensor:
        found = factor(step)
        return found * at(scale, step) if found else 0.0
    return at_step


def within(interval: tuple[float, float], scale: Amount) -> Scale:
    """The scale where low < sigma <= high, and 0 elsewhere. (Kynkaanniemi et al. 2024)"""
    low, high = interval
    return times(lambda step: float(low < step.sigma <= high), scale)


def every(n: int, steps: Sequence[Step], scale: Amount) -> Scale:
    """The scale at the first of the steps and each n-th after it, and 0 in between."""
    due = {step.t for step in steps[::n]}
    return times(lambda step: float(step.t in due), scale)


def scheduled(kind: str | Sequence[float], steps: Sequence[Step], scale: Amount) -> Scale:
    """The scale times a factor that rises and falls along the steps: by name, of mean 1 over them; or a table from the first
    step to the last, linear in between. (constant, linear, cosine, sine: Wang et al. 2024; alpha, beta: TFG's "increase" and
    "decrease")"""
    way = (np.arange(len(steps)) + 0.5) / len(steps)  # from noise, 0, to the image, 1
    shapes: dict[str, Any] = {
        "constant": np.ones_like(way), "linear": way, "cosine": 1 - np.cos(math.pi * way), "sine": np.sin(math.pi * way),
        "alpha": np.array([1 - step.beta for step in steps]), "beta": np.array([step.beta for step in steps])}
    if isinstance(kind, str):
        factors = shapes[kind] / fmean(shapes[kind])
    else:
        factors = np.interp(np.linspace(0, len(kind) - 1, len(steps)), np.arange(len(kind)), kind)
    by_t = {step.t: float(factor) for step, factor in zip(steps, factors)}
    return times(lambda step: by_t[step.t], scale)


def held(n: int, steps: Sequence[Step], log_density: Callable[[Look], Tensor]) -> Callable[[Look], Tensor]:
    """The log-density at the first of the steps and each n-th after it, and in between its tangent there: the same gradient
    again, for which no network is run. A guide's memory of one chain; another chain begins with a step at which it is due."""
    due = {step.t for step in steps[::n]}
    kept: list[Tensor] = []

    def density(look: Look) -> Tensor:
        if look.step.t in due or not kept:
            value = log_density(look)
            gradient, = torch.autograd.grad(value.sum(), look.x_t, retain_graph=True)
            kept[:] = value.detach(), gradient.clone(), look.x_t.detach()  # cloned: a CUDA graph overwrites its own
        value, gradient, there = kept
        return value + (gradient * (look.x_t - there)).flatten(1).sum(dim=1)
    return density
