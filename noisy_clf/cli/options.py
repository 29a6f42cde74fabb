"""Command-line options that training a classifier and training a denoiser share. An option not given is the recipe's."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import click

from noisy_clf.checkpoints.by_name import denoiser_schedule
from noisy_clf.datasets import DATASETS
from noisy_clf.execution import PRECISIONS
from noisy_clf.networks.config import Resampling
from noisy_clf.schedule import SCHEDULES, NoiseSchedule
from noisy_clf.training.config import T_SAMPLINGS
from noisy_clf.training.recipes import Recipe


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "n,n,..."
    may_be_empty = True  # attention at no size

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in value.split(",") if part]
            return tuple(int(number) if number.is_integer() else number for number in numbers)
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,2,4.", param, ctx)


class Renamed(click.Option):
    """An option that is also taken by its former names, which --help does not show."""

    def __init__(self, *arguments: Any, former: list[str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.former = former

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown, self.opts = self.opts, [*self.opts, *self.former]
        super().add_to_parser(parser, ctx)
        self.opts = shown


DATA = [
    click.option("--dataset", default="digits", show_default=True, metavar="NAME|PATH",
                 help=f"{', '.join(DATASETS)}, a folder of class folders, or a .csv of file and label."),
    click.option("--data", "data_folder", type=click.Path(path_type=Path),
                 help="Where a named dataset's files are, or are downloaded to. [default: data/NAME]"),
    click.option("--grey", is_flag=True, help="Of images of your own: one channel instead of three."),
    click.option("--image-size", type=click.IntRange(min=1), help="Pixels a side. [default: the recipe's]"),
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
    click.option("--precision", type=click.Choice(list(PRECISIONS)), help="Of convolutions and products. [default: float32]"),
    click.option("--t-sampling", metavar="HOW", help=f"At which timesteps: {T_SAMPLINGS}. [default: uniform]"),
    click.option("--random-crop/--no-random-crop", default=None, help="ADM's: 80 to 100 % of the shorter side."),
    click.option("--random-flip/--no-random-flip", default=None, help="A mirror image half of the time."),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1),
                 help="Of weights, data order, timesteps, noise and dropout. [default: 0]"),
    click.option("--validate-every", type=int, help="Iterations between validations."),
    click.option("--save-every", type=int, help="Iterations between writes of the training state."),
]
EXECUTION = [  # none of which changes what is learned, but by rounding
    click.option("--microbatch", type=click.IntRange(min=0),
                 help="Images of a batch that are computed at a time, to save memory; 0: all. [default: all, on a CPU a few]"),
    click.option("--compile", is_flag=True, help="Through torch.compile: slower to start, then faster."),
    click.option("--threads", type=click.IntRange(min=0), default=4, show_default=True,
                 help="That read images ahead of the steps (in each process)."),
    click.option("--keep", type=click.IntRange(min=1), default=2, show_default=True, help="Training states kept on disk."),
    click.option("--keep-every", type=click.IntRange(min=1), metavar="N",
                 help="The model of every N-th step is kept for good, to be named OUT@step-N: for autoguidance (--weak)."),
    click.option("--tensorboard", is_flag=True, help="Metrics for TensorBoard, too (pip install tensorboard)."),
]
NETWORK = [
    click.option("--channels", type=int, help="Base width."),
    click.option("--channel-mult", type=Numbers(), help="Width of each level, in base widths: 1,2,2."),
    click.option("--res-blocks", type=int, help="ResBlocks a level."),
    click.option("--attention-at", type=Numbers(), help="Image sizes with attention, in pixels: 8,4."),
    click.option("--head-channels", type=int, help="Channels of an attention head."),
    click.option("--resample", type=click.Choice(get_args(Resampling))),
    click.option("--dropout", type=float),
]


def options(*groups: list[Callable[..., Any]]) -> Callable[[Any], Any]:
    """All options of the groups, in order, as one decorator."""
    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command
    return decorate


def overridden(settings: dict[str, Any], given: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """The settings, but for those of `kind` that were given."""
    return settings | {field.name: given[field.name] for field in fields(kind) if given.get(field.name) is not None}


def schedule_option(recipe: Recipe, given: dict[str, Any]) -> NoiseSchedule:
    """The schedule that was asked for: a denoiser's, or a named one with T timesteps."""
    name, T, schedule_from = given["noise_schedule"], given["T"], given.get("schedule_from")
    if schedule_from is not None:
        if name or T is not None:
            raise click.UsageError("--schedule-from brings schedule and T of its own; leave out --noise-schedule and --T.")
        return denoiser_schedule(schedule_from)
    return NoiseSchedule.named(name or recipe.schedule, 1000 if T is None else T)


SCHEDULE = [
    click.option("--noise-schedule", type=click.Choice(SCHEDULES), help="alpha_bar's shape. [default: the recipe's]"),
    click.option("--T", "T", cls=Renamed, former=["--timesteps"], type=int, help="Number of timesteps. [default: 1000]"),
]
EVALUATION = [
    click.option("--levels", type=Numbers(), default=",".join(f"{i / 20:g}" for i in range(21)), show_default=True,
                 help="Noise levels t/T."),
    click.option("--batch-size", type=click.IntRange(min=1), help="[default: 256, and fewer above 32 pixels a side]"),
    click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
]


def refuse_no_levels(levels: tuple[float, ...]) -> None:
    """UserError where they are not noise levels t/T."""
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise click.BadParameter(f"noise levels are t/T, from 0 to 1, not {levels}.", param_hint="--levels")
