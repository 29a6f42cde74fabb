"""eval-noisy-encoder. Several GPUs: torchrun --nproc-per-node 8 -m noisy_clf.cli.evaluate_encoder, with the same options."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noisy_clf.checkpoints.by_name import encoder_folder
from noisy_clf.cli.evaluate import folder_of, short, writable
from noisy_clf.cli.options import EVALUATION, SCHEDULE, options, refuse_no_levels, schedule_option
from noisy_clf.datasets import DATASETS, refuse_unknown
from noisy_clf.errors import FriendlyCommand
from noisy_clf.training.recipes import encoder_recipe


@click.command(cls=FriendlyCommand)
@click.argument("encoder", default="digits")
@click.option("--compare", metavar="OTHER", help="A second encoder, on the same images and the same noise.")
@options(SCHEDULE)
@click.option("--schedule-from", metavar="DDPM", help="Take schedule and T from this denoiser (a name or a path).")
@click.option("--dataset", metavar="NAME|PATH", help=f"Its validation images are used: {', '.join(DATASETS)}, a folder of "
              "images, or a .csv of files. [default: what the encoder learned from, else digits]")
@click.option("--data", "data_folder", type=click.Path(path_type=Path),
              help="Where a named dataset's files are, or are downloaded to. [default: data/NAME]")
@click.option("--images", type=click.IntRange(min=2),
              help="So many of them, drawn once and for all. [default: 1000, or all]")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for evaluation.png and evaluation.json. [default: evaluations/ENCODER]")
@options(EVALUATION)
def eval_noisy_encoder(encoder: str, compare: str | None, dataset: str | None, data_folder: Path | None, images: int | None,
                       levels: tuple[float, ...], out: Path | None, batch_size: int | None, precision: str, seed: int,
                       device: str, **schedule: Any) -> None:
    """Does ENCODER still see the image in its noise? By noise level: how often it finds the clean one among many.

    Each clean image is seen by the same encoder, told t = 0. ENCODER is a name or a path, of an encoder or of a classifier,
    or a clean one of timm's or CLIP's: timm:NAME, clip:NAME@WEIGHTS, clip:digits. These take the noise schedule of the encoder
    that they are compared with, or the one given here.

    \b
    eval-noisy-encoder digits
    eval-noisy-encoder runs/digits-encoder --compare runs/digits-classifier
    eval-noisy-encoder runs/photos-encoder --compare timm:resnet50 --images 5000
    eval-noisy-encoder clip:digits --schedule-from digits
    """
    refuse_no_levels(levels)
    names = [encoder] if compare is None else [encoder, compare]
    noisy = [name for name in names if encoder_folder(name)]
    if noisy and any(value is not None for value in schedule.values()):
        raise click.UsageError(f"{noisy[0]} has a noise schedule of its own; leave out --noise-schedule, --T and "
                               f"--schedule-from.")
    if dataset is not None:
        refuse_unknown(dataset, folder=data_folder)
    recipe = encoder_recipe(dataset or "digits", None)
    noise = None if noisy else schedule_option(recipe, schedule)

    from noisy_clf.evaluation.retrieval_subjects import examined, in_words, load, write  # torch: what names tell is refused
    from noisy_clf.execution import exact_float32, pick_device
    from noisy_clf.processes import started

    where = pick_device(device)
    exact_float32()
    with started(where) as processes:
        subjects = load(names, short(names), dataset, data_folder, noise, recipe.image_size)
        out = writable(out or folder_of(short(names)))
        found = examined(subjects, images, where, precision, levels=levels, batch_size=batch_size, seed=seed,
                         processes=processes)
    if processes.first:
        write(out, subjects, found, {"levels": levels, "seed": seed, "precision": precision})
        click.echo(f"{in_words(subjects, found)}\n\nDrawn in {out / 'evaluation.png'}")


if __name__ == "__main__":
    eval_noisy_encoder()
