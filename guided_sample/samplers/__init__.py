"""The samplers by name. One sampler a file, and an entry here: flags, requests and manifests follow from it.

Nothing here imports a sampler before it is used.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import click

from guided_sample.kinds import Real, Whole


@dataclass(frozen=True)
class Knob:
    """A sampler's own setting: its default, what it may be, and what --help says."""

    default: Any
    kind: click.ParamType
    help: str


@dataclass(frozen=True)
class Sampler:
    """A sampler's entry.

    function  "module:name" of (model, x_T, steps, noise, **knobs) -> an iterator of Moments, the last of which is the sample
    steps     ADM's number of them, or the authors', as --steps has it
    knobs     by the names of the function's arguments
    has_mean  its steps have a mean, at which the gradient could be taken (--grad-at mean)
    memory    it remembers the x0_hat of steps before: guided first, thresholded last
    like      the sampler whose scale a model's advice has for it, too
    """

    function: str
    steps: str
    knobs: dict[str, Knob] = field(default_factory=dict)
    has_mean: bool = False
    memory: bool = False
    like: str = "ddpm"

    def load(self) -> Callable[..., Any]:
        module, name = self.function.split(":")
        return getattr(import_module(module), name)


SAMPLERS = {
    "ddpm": Sampler("guided_sample.samplers.ddpm:ddpm", "250", has_mean=True),
    "ddim": Sampler("guided_sample.samplers.ddim:ddim", "ddim25", {
        "eta": Knob(0.0, Real(0, 1), "DDIM's noise: from 0, none, to 1, as DDPM.")}, like="ddim"),
    "dpm++": Sampler("guided_sample.samplers.dpm_solver:dpm_solver", "logsnr20", memory=True, like="ddim"),
    "dpm++sde": Sampler("guided_sample.samplers.dpm_solver_sde:dpm_solver_sde", "logsnr20", memory=True),
    "unipc": Sampler("guided_sample.samplers.unipc:unipc", "logsnr20", {
        "order": Knob(2, Whole(min=2, max=3), "UniPC's order: 2 or 3."),
        "variant": Knob("bh2", click.Choice(["bh1", "bh2"]), "UniPC's B(h): h or e^h - 1.")}, memory=True, like="ddim"),
}
KNOBS = {name: knob for sampler in SAMPLERS.values() for name, knob in sampler.knobs.items()}
