"""train-noisy-encoder. Several GPUs: torchrun --nproc-per-node 8 -m noisy_clf.cli.train_encoder, with the same options."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noisy_clf.checkpoints.by_name import denoiser_record, encoder_folder, encoder_name
from noisy_clf.cli.options import DATA, EXECUTION, SCHEDULE, TRAINING, options, overridden, schedule_option
from noisy_clf.datasets import load_dataset, refuse_unknown
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.recipes import encoder_recipe

MOST_TOLD_APART = 128


@click.command(cls=FriendlyCommand)
@click.option("--encoder", required=True, metavar="NAME", help="What learns to see through noise: a clean image encoder of "
              "timm's (timm:NAME, timm:NAME@WEIGHTS), an image tower of CLIP's (clip:NAME@WEIGHTS, clip:FOLDER, clip:digits), "
              "or what a classifier or an encoder of ours, a name, a folder or a run, sees before it names the class.")
@options(DATA, SCHEDULE)
@click.option("--schedule-from", metavar="DDPM", help="Take schedule and T from this denoiser (a name or a path).")
@click.option("--negatives", type=click.IntRange(min=2), metavar="N",
              help="So many images of a batch are told from each other, and computed at a time; divides the batch size. "
                   f"[default: the batch, at most {MOST_TOLD_APART}]")
@click.option("--logit-scale", type=click.FloatRange(0, min_open=True), metavar="FLOAT",
              help="Of the cosines in the loss; less where the clean encoder sees images of a kind alike. [default: the "
                   "recipe's, mostly 100: CLIP's]")
@options(TRAINING, EXECUTION)
def train_noisy_encoder(encoder: str, dataset: str, data_folder: Path | None, grey: bool, image_size: int | None,
                        out: Path | None, device: str, negatives: int | None, logit_scale: float | None,
                        **given: Any) -> None:
    """Tune an image encoder on noised images, to guide a diffusion model by similarity with: --like, --style, --text.

    A copy of it that is told the timestep learns to see in the noised image what the encoder sees in the clean one; no classes
    are needed. What is not given is the dataset's recipe. Stop it in any way; the same command goes on, to the same result.

    \b
    train-noisy-encoder --encoder clip:digits --schedule-from digits
    train-noisy-encoder --encoder runs/digits-classifier --schedule-from digits --out runs/digits-torso
    train-noisy-encoder --encoder clip:ViT-B-32@openai --dataset photos/ --image-size 256 --schedule-from imagenet256
    train-noisy-encoder --encoder timm:resnet50 --dataset photos/ --schedule-from runs/photos-ddpm
    torchrun --nproc-per-node 8 -m noisy_clf.cli.train_encoder --encoder timm:resnet50 --dataset imagenet
    """
    folder = encoder_folder(encoder)
    image_size = folder.image_size if folder and image_size is None else image_size
    recipe = encoder_recipe(dataset, image_size)
    image_size = recipe.image_size if image_size is None else image_size
    refuse_unknown(dataset, image_size, data_folder, grey)
    schedule = schedule_option(recipe, given)
    training = TrainingConfig(**overridden(recipe.training, given, TrainingConfig))
    group = told_apart(training.batch_size, negatives)
    record: dict[str, Any] = {"encoder": encoder_name(encoder)}
    if given["schedule_from"] is not None:
        record["schedule_from"] = denoiser_record(given["schedule_from"])
    out = out or Path("runs") / f"{Path(dataset).stem}-encoder"

    from noisy_clf.training.execution import Execution, execution  # torch: what names tell is refused by now
    from noisy_clf.training.loop import train
    from noisy_clf.training.new_encoder import new_encoder_task

    with execution(device, image_size, **overridden({}, given, Execution)) as how:
        data = load_dataset(dataset, image_size, data_folder, grey, classes=False)
        task = new_encoder_task(encoder, schedule, data, group, logit_scale or recipe.logit_scale, training.seed, how.device,
                                record)
        train(task, data, training, out, how)
    if how.processes.first:
        click.echo(f"The best model is in {out / 'best'}; look at it with: eval-noisy-encoder {out}")


def told_apart(batch_size: int, negatives: int | None) -> int:
    """How many images of a batch are told from each other. UserError where the batch is not made of so many."""
    group = min(batch_size, MOST_TOLD_APART) if negatives is None else negatives
    if batch_size < 2:
        raise UserError(f"batch-size {batch_size} leaves no other image to tell one from; give 2 or more.")
    if batch_size % group:
        fits = max(size for size in range(1, min(group, batch_size) + 1) if batch_size % size == 0)
        raise UserError(f"a batch of {batch_size} images does not divide into groups of {group} that are told from each other; "
                        f"give --negatives {fits if fits > 1 else batch_size}, or another --batch-size.")
    return group


if __name__ == "__main__":
    train_noisy_encoder()
