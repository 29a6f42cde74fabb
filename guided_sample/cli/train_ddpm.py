"""train-ddpm."""
from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from guided_sample.training.recipes import denoiser_recipe
from guided_sample.unet_config import UNetConfig
from noisy_clf.checkpoints.run_folder import averages
from noisy_clf.cli.options import DATA, EXECUTION, NETWORK, SCHEDULE, TRAINING, options, overridden, schedule_option
from noisy_clf.datasets import load_dataset, refuse_unknown
from noisy_clf.errors import FriendlyCommand
from noisy_clf.networks.config import AttentionOrder
from noisy_clf.training.config import TrainingConfig


@click.command(cls=FriendlyCommand)
@options(DATA, SCHEDULE)
@click.option("--predicts", type=click.Choice(["eps", "velocity", "x_0"]), default="eps", show_default=True,
              help="What the network is asked for.")
@click.option("--variance", type=click.Choice(["learned_range", "learned", "fixed_small", "fixed_large"]),
              default="learned_range", show_default=True,
              help="Of the reverse steps. Learned: the hybrid loss; fixed: the simple loss.")
@click.option("--class-conditional", is_flag=True, help="Let the denoiser see the label.")
@click.option("--drop-labels", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
              help="Of a class-conditional one: for so many of the images it sees none, and so learns to do without, too; 0.1 "
                   "for classifier-free guidance.")
@click.option("--attention-order", type=click.Choice(get_args(AttentionOrder)))
@options(NETWORK, TRAINING, EXECUTION)
def train_ddpm(dataset: str, data_folder: Path | None, grey: bool, image_size: int | None, out: Path | None, device: str,
               predicts: str, variance: str, class_conditional: bool, drop_labels: float, **given: Any) -> None:
    """Train a denoising diffusion model, to sample from with guided-sample.

    What is not given is the dataset's recipe, or for images of your own that of their size. Classes are not needed, but for
    --class-conditional. Stop it in any way; the same command goes on, to the same result.

    \b
    train-ddpm --dataset digits
    train-ddpm --dataset photos/ --image-size 32           a folder of images; a GPU for a few days
    train-ddpm --dataset photos/ --image-size 32 --channels 64 --res-blocks 1 --iterations 20000
    train-ddpm --dataset digits --class-conditional --drop-labels 0.1 --out runs/cond
    train-ddpm --variance fixed_small --noise-schedule linear --out runs/simple
    torchrun --nproc-per-node 8 -m guided_sample.cli train-ddpm --dataset imagenet64 --precision bf16
    """
    if drop_labels and not class_conditional:
        raise click.UsageError("--drop-labels drops what only --class-conditional shows; give both, or leave it out.")
    recipe = denoiser_recipe(dataset, image_size)
    image_size = recipe.image_size if image_size is None else image_size
    refuse_unknown(dataset, image_size, data_folder, grey)
    schedule = schedule_option(recipe, given)
    config = UNetConfig(**overridden(recipe.network, given, UNetConfig), image_size=image_size, in_channels=1, out_channels=1)
    training = TrainingConfig(**overridden(recipe.training, given, TrainingConfig))
    out = out or Path("runs") / f"{Path(dataset).stem}-ddpm"

    from guided_sample.training.denoiser_task import denoiser_task, new_denoiser  # torch: what names tell is refused by now
    from noisy_clf.training.execution import Execution, execution
    from noisy_clf.training.loop import train

    with execution(device, image_size, **overridden({}, given, Execution)) as how:
        data = load_dataset(dataset, image_size, data_folder, grey, classes=class_conditional)
        denoiser = new_denoiser(config, schedule, variance, data, class_conditional, training.seed, predicts,
                                null_class=drop_labels > 0)
        train(denoiser_task(denoiser, data, drop_labels), data, training, out, how)
    if how.processes.first:
        plainly = "--cfg 2" if drop_labels else "--scale 0" if class_conditional else "--class none"
        first = min(averages(out), default=training.iterations)
        weak = f" (an earlier one, for autoguidance: --weak {out}@step-{first})" * (first < training.iterations)
        click.echo(f"The best model is in {out / 'best'}{weak}, what it drew on the way in {out / 'previews'}; sample from it "
                   f"with: guided-sample --model {out} {plainly}")
