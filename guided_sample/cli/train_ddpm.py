"""train-ddpm."""
from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from guided_sample.training.recipes import denoiser_recipe
from guided_sample.unet_config import UNetConfig
from noisy_clf.cli.options import DATA, EXECUTION, NETWORK, SCHEDULE, TRAINING, options, overridden, schedule_option
from noisy_clf.datasets import load_dataset, refuse_unknown
from noisy_clf.errors import FriendlyCommand
from noisy_clf.networks.config import AttentionOrder
from noisy_clf.training.config import TrainingConfig


@click.command(cls=FriendlyCommand)
@options(DATA, SCHEDULE)
@click.option("--variance", type=click.Choice(["learned_range", "fixed_small", "fixed_large"]), default="learned_range",
              show_default=True, help="Of the reverse steps. Learned: the hybrid loss; fixed: the simple loss.")
@click.option("--class-conditional", is_flag=True, help="Let the denoiser see the label.")
@click.option("--attention-order", type=click.Choice(get_args(AttentionOrder)))
@options(NETWORK, TRAINING, EXECUTION)
def train_ddpm(dataset: str, data_folder: Path | None, grey: bool, image_size: int | None, out: Path | None, device: str,
               variance: str, class_conditional: bool, **given: Any) -> None:
    """Train a denoising diffusion model, to sample from with guided-sample.

    What is not given is the dataset's recipe. Stop it in any way; the same command goes on, to the same result.

    \b
    train-ddpm --dataset digits
    train-ddpm --variance fixed_small --noise-schedule linear --out runs/simple
    """
    recipe = denoiser_recipe(dataset)
    image_size = recipe.image_size if image_size is None else image_size
    refuse_unknown(dataset, image_size, data_folder)
    schedule = schedule_option(recipe, given)
    config = UNetConfig(**overridden(recipe.network, given, UNetConfig), image_size=image_size, in_channels=1, out_channels=1)
    training = TrainingConfig(**overridden(recipe.training, given, TrainingConfig))
    out = out or Path("runs") / f"{Path(dataset).stem}-ddpm"

    from guided_sample.training.denoiser_task import denoiser_task, new_denoiser  # torch: what names tell is refused by now
    from noisy_clf.training.execution import Execution, execution
    from noisy_clf.training.loop import train

    with execution(device, image_size, **overridden({}, given, Execution)) as how:
        data = load_dataset(dataset, image_size, data_folder, grey)
        denoiser = new_denoiser(config, schedule, variance, data, class_conditional, training.seed)
        train(denoiser_task(denoiser, data), data, training, out, how)
    if how.processes.first:
        click.echo(f"The best model is in {out / 'best'}; sample from it with: guided-sample --model {out} --class none")
