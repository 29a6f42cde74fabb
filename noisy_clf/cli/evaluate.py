"""eval-noisy-clf. Several GPUs: torchrun --nproc-per-node 8 -m noisy_clf.cli.evaluate, with the same options."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from noisy_clf.checkpoints.by_name import CLEAN, CLIP, classifier_folder
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.cli.options import EVALUATION, SCHEDULE, options, refuse_no_levels, schedule_option
from noisy_clf.datasets import DATASETS, refuse_unknown
from noisy_clf.errors import FriendlyCommand, UserError, disk_trouble
from noisy_clf.training.recipes import classifier_recipe


@click.command(cls=FriendlyCommand)
@click.argument("classifier", default="digits")
@click.option("--compare", metavar="OTHER", help="A second classifier, on the same images and the same noise.")
@click.option("--classifier-config", metavar="FILE", help="For a .pt file: what its tensors do not tell, as TOML or JSON.")
@click.option("--classifier-flags", metavar="FLAGS", help="The same, as the flags that guided-diffusion trained it with.")
@options(SCHEDULE)
@click.option("--schedule-from", metavar="DDPM", help="Take schedule and T from this denoiser (a name or a path).")
@click.option("--dataset", metavar="NAME|PATH", help=f"Its validation images are used: {', '.join(DATASETS)}, a folder of "
              "class folders, or a .csv of file and label. [default: what the classifier learned from, else digits]")
@click.option("--data", "data_folder", type=click.Path(path_type=Path),
              help="Where a named dataset's files are, or are downloaded to. [default: data/NAME]")
@click.option("--images", type=click.IntRange(min=1), help="So many of them, drawn once and for all. [default: all]")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for evaluation.png and evaluation.json. [default: evaluations/CLASSIFIER]")
@options(EVALUATION)
def eval_noisy_clf(classifier: str, compare: str | None, classifier_config: str | None, classifier_flags: str | None,
                   dataset: str | None, data_folder: Path | None, images: int | None, levels: tuple[float, ...],
                   out: Path | None, batch_size: int | None, precision: str, seed: int, device: str, **schedule: Any) -> None:
    """Is CLASSIFIER good enough to guide with? Accuracy, NLL, calibration error and gradient by noise level.

    CLASSIFIER is a name or a path, or one of timm's that never saw noise: timm:NAME, timm:NAME@WEIGHTS. That one takes the
    noise schedule of the classifier it is compared with, or the one given here.

    \b
    eval-noisy-clf digits
    eval-noisy-clf runs/digits-classifier --levels 0,0.25,0.5,0.75,0.9
    eval-noisy-clf runs/photos-classifier --compare timm:resnet50@resnet50.safetensors
    eval-noisy-clf imagenet64 --data imagenet64/ --images 2000
    """
    refuse_no_levels(levels)
    names = [classifier] if compare is None else [classifier, compare]
    settings = read_settings(classifier_config, classifier_flags, "classifier")
    for name in names:
        classifier_folder(name)  # which there must be, of that name
    noisy = [name for name in names if not name.startswith(CLEAN)]
    if noisy and any(value is not None for value in schedule.values()):
        raise click.UsageError(f"{noisy[0]} has a noise schedule of its own; leave out --noise-schedule, --T and "
                               f"--schedule-from.")
    if dataset is not None:
        refuse_unknown(dataset, folder=data_folder)
    recipe = classifier_recipe(dataset or "digits", None)
    noise = None if noisy else schedule_option(recipe, schedule)

    from noisy_clf.evaluation.side_by_side import examined, in_words, load, write  # torch: what names tell is refused by now
    from noisy_clf.execution import exact_float32, pick_device
    from noisy_clf.processes import started

    where = pick_device(device)
    exact_float32()
    with started(where) as processes:
        subjects = load(names, short(names), settings, dataset, data_folder, noise, recipe.image_size)
        out = writable(out or folder_of(short(names)))
        found = examined(subjects, images, where, precision, levels=levels, batch_size=batch_size, seed=seed,
                         processes=processes)
    if processes.first:
        write(out, subjects, found, {"levels": levels, "seed": seed, "precision": precision})
        click.echo(f"{in_words(subjects, found)}\n\nDrawn in {out / 'evaluation.png'}")


def folder_of(called: Sequence[str]) -> Path:
    """Where the evaluation of what is called so goes by default."""
    return Path("evaluations") / "-vs-".join(called).replace(":", "-").replace("/", "-")


def writable(out: Path) -> Path:
    """The folder, made now: an hour later would be too late to learn that it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(disk_trouble(error, out)) from error
    return out


def short(names: Sequence[str]) -> list[str]:
    """What to call them: the last part of a path, or where two share it, all of it."""
    def ending(name: str) -> str:
        path = Path(name.partition("@")[0]) if name.startswith((CLEAN, CLIP)) else Path(name).resolve()
        return f"{path.parent.name}/{path.name}" if path.name in ("best", "last") else path.name

    last = list(map(ending, names))
    return last if len(set(last)) == len(set(names)) else list(names)


if __name__ == "__main__":
    eval_noisy_clf()
