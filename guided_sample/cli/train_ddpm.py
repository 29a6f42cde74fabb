"""train-ddpm."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from guided_sample.denoiser import unet_denoiser
from guided_sample.training.denoiser_task import denoiser_task
from guided_sample.training.recipes import denoiser_recipe
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.cli.options import DATA, EXECUTION, NETWORK, SCHEDULE, TRAINING, execution, options, overridden, schedule_option
from noisy_clf.datasets import load_dataset
from noisy_clf.errors import FriendlyCommand
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.loop import train


@click.command(cls=FriendlyCommand)
@options(DATA, SCHEDULE)
@click.option("--variance", type=click.Choice(["learned_range", "fixed_small", "fixed_large"]), default="learned_range",
              show_default=True, help="Of the reverse steps. Learned: the hybrid loss; fixed: the simple loss.")
@click.option("--class-conditional", is_flag=True, help="Let the denoiser see the label.")
@click.option("--attention-order", type=click.Choice(["legacy", "new"]))
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
    schedule = schedule_option(recipe, given)
    settings = overridden(recipe.network, given, UNetConfig)
    training = TrainingConfig(**overridden(recipe.training, given, TrainingConfig))
    image_size = recipe.image_size if image_size is None else image_size
    with execution(device, image_size, given) as how:
        data = load_dataset(dataset, image_size, data_folder, grey)
        torch.manual_seed(training.seed)
        network = UNet(UNetConfig(
            **settings, image_size=data.image_size, in_channels=data.channels,
            out_channels=data.channels * (2 if variance == "learned_range" else 1),
            num_classes=len(data.class_names) if class_conditional else None))
        denoiser = unet_denoiser(network, schedule, variance, class_names=data.class_names if class_conditional else None)
        out = out or Path("runs") / f"{Path(dataset).stem}-ddpm"
        train(denoiser_task(denoiser, data), data, training, out, how)
    if how.processes.first:
        click.echo(f"The best model is in {out / 'best'}; sample from it with: guided-sample --model {out} --class none")
