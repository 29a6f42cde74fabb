"""Command-line options that training a classifier and training a denoiser share. An option not given is the recipe's."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from noisy_clf import datasets
from noisy_clf.loaders import denoiser_schedule
from noisy_clf.recipes import Recipe
from noisy_clf.schedule import SCHEDULES, NoiseSchedule
from noisy_clf.training import TrainingConfig


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "n,n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) if part.strip().isdigit() else float(part) for part in value.split(",") if part)
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,2,4.", param, ctx)


DATA = [
    click.option("--dataset", type=click.Choice(datasets.DATASETS), default="digits", show_default=True),
    click.option("--image-size", type=int, help="Pixels a side. [default: the recipe's]"),
    click.option("--out", type=click.Path(path_type=Path), help="The run's folder. [default: runs/DATASET-KIND]"),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
]
TRAINING = [
    click.option("--iterations", type=int, help="Optimizer steps."),
    click.option("--batch-size", type=int, help="Images a step."),
    click.option("--lr", type=float, help="AdamW's learning rate at the start; it falls linearly to 0."),
    click.option("--warmup", type=int, help="Iterations over which the learning rate first rises."),
    click.option("--weight-decay", type=float),
    click.option("--ema", type=float, help="Decay of the weights' moving average, which is what is kept; 0: none."),
    click.option("--grad-clip", type=float, help="Largest norm of the gradient; 0: any."),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1),
                 help="Of weights, data order, timesteps, noise and dropout. [default: 0]"),
    click.option("--validate-every", type=int, help="Iterations between validations."),
    click.option("--save-every", type=int, help="Iterations between writes of the training state."),
]
NETWORK = [
    click.option("--channels", type=int, help="Base width."),
    click.option("--channel-mult", type=Numbers(), help="Width of each level, in base widths: 1,2,2."),
    click.option("--res-blocks", type=int, help="ResBlocks a level."),
    click.option("--attention-at", type=Numbers(), help="Image sizes with attention, in pixels: 8,4."),
    click.option("--head-channels", type=int, help="Channels of an attention head."),
    click.option("--resample", type=click.Choice(["resblock", "conv", "plain"])),
    click.option("--dropout", type=float),
]


def options(*groups: list[Callable[..., Any]]) -> Callable[[Any], Any]:
    """All options of the groups, in order, as one decorator."""
    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command
    return decorate


def resolve(recipe: Recipe, given: dict[str, Any], network_kind: type[Any]) -> tuple[dict[str, Any], TrainingConfig]:
    """(network settings, TrainingConfig): the recipe's, but for what was given."""
    given = {name: value for name, value in given.items() if value is not None}

    def overridden(settings: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
        return settings | {field.name: given[field.name] for field in fields(kind) if field.name in given}

    return overridden(recipe.network, network_kind), TrainingConfig(**overridden(recipe.training, TrainingConfig))


def schedule_option(recipe: Recipe, name: str | None, T: int | None, schedule_from: str | None) -> NoiseSchedule:
    """The schedule that was asked for: a denoiser's, or a named one with T timesteps."""
    if schedule_from is not None:
        if name or T is not None:
            raise click.UsageError("--schedule-from brings schedule and T of its own; "
                                   "leave out --noise-schedule and --timesteps.")
        return denoiser_schedule(schedule_from)
    return NoiseSchedule.named(name or recipe.schedule, 1000 if T is None else T)


SCHEDULE = [
    click.option("--noise-schedule", type=click.Choice(SCHEDULES), help="alpha_bar's shape. [default: the recipe's]"),
    click.option("--timesteps", type=int, help="T. [default: 1000]"),
]
