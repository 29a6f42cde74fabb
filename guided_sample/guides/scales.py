"""Scales that change with the step."""
from __future__ import annotations

from guided_sample.model import Scale
from guided_sample.steps import Step


def within(interval: tuple[float, float], scale: float) -> Scale:
    """The scale where low < sigma <= high, and 0, at which a guide is not run, elsewhere. (Kynkaanniemi et al. 2024)"""
    low, high = interval

    def at(step: Step) -> float:
        return scale if low < step.sigma <= high else 0.0
    return at
