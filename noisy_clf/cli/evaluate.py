"""eval-noisy-clf. Several GPUs: torchrun --nproc-per-node 8 -m noisy_clf.cli.evaluate, with the same options."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.classifier import NoisyClassifier, nameless
from noisy_clf.cli.options import SCHEDULE, Numbers, options, schedule_option
from noisy_clf.datasets import DATASETS, load_dataset
from noisy_clf.datasets.images import Dataset, LabelledImages
from noisy_clf.datasets.order import permutation
from noisy_clf.execution import exact_float32, pick_device
from noisy_clf.errors import FriendlyCommand, UserError, disk_trouble
from noisy_clf.evaluation.by_noise_level import evaluate
from noisy_clf.evaluation.report import Evaluation, Guess, as_json, comparison, draw, table, verdict
from noisy_clf.files import versions, write_json
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.checkpoints.settings import Settings, read_settings
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.loaders.loaded import LoadedClassifier
from noisy_clf.loaders.timm import CLEAN
from noisy_clf.processes import started
from noisy_clf.space import Space
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
@click.option("--levels", type=Numbers(), default=",".join(f"{i / 20:g}" for i in range(21)), show_default=True,
              help="Noise levels t/T.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for evaluation.png and evaluation.json. [default: evaluations/CLASSIFIER]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 256, and fewer above 32 pixels a side]")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
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
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise click.BadParameter(f"noise levels are t/T, from 0 to 1, not {levels}.", param_hint="--levels")
    names = [classifier] if compare is None else [classifier, compare]
    settings = read_settings(classifier_config, classifier_flags, "classifier")
    where = pick_device(device)
    exact_float32()
    with started(where) as processes:
        models, data = load(names, settings, dataset, data_folder, schedule)
        validation = [replace(data.validation, labels=numbers_of(data, name, loaded.classifier)[data.validation.labels])
                      for name, loaded in zip(names, models)]  # its labels as each classifier numbers them
        count = len(data.validation)
        chosen = torch.from_numpy(permutation(count, 0, 0)[:images].copy()).sort().values
        out = writable(out or Path("evaluations") / "-vs-".join(short(names)).replace(":", "-").replace("/", "-"))
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            found = [examined(name, loaded.classifier.to(where), labelled, levels=levels, batch_size=batch_size, seed=seed,
                              progress=name, processes=processes, chosen=chosen)
                     for name, loaded, labelled in zip(short(names), models, validation)]
    if processes.first:
        write_json(out / "evaluation.json", {
            "dataset": data.name, "source": data.source, "images": len(chosen), "of_images": count, "levels": levels,
            "seed": seed, "precision": precision, "guess": asdict(found[0].guess), "versions": versions(), "classifiers": [
                {"classifier": name, "digest": loaded.digest, **as_json(evaluation)}
                for name, loaded, evaluation in zip(names, models, found)]})
        draw(found, out / "evaluation.png")
        click.echo(table(found))
        for loaded, evaluation in zip(models, found):
            click.echo(f"\n{evaluation.name}, on {len(chosen)} validation images of {data.name}:")
            click.echo("\n".join([*verdict(evaluation), *note(loaded.classifier, data)]))
        if len(found) == 2:
            click.echo(f"\n{comparison(*found)}")
        click.echo(f"\nDrawn in {out / 'evaluation.png'}")


def examined(name: str, classifier: NoisyClassifier, images: LabelledImages, chosen: Tensor, **how: Any) -> Evaluation:
    """What is found of the classifier on the chosen images; guessing is by the frequencies in all of them."""
    try:
        rows = evaluate(classifier, images, gradients=True, chosen=chosen, **how)
    except torch.cuda.OutOfMemoryError:
        raise UserError("a batch does not fit into the GPU's memory; give a smaller --batch-size: the result stays the "
                        "same.") from None
    bad = [row.t for row in rows if not math.isfinite(row.nll + (row.gradient_norm or 0))]
    if bad:
        raise UserError(f"{name}'s output or its gradient is not a finite number at t = {bad[0]}; its weights are damaged, or "
                        f"its training diverged.")
    guess = Guess.among(images.labels, len(classifier.class_names))
    return Evaluation(name, classifier.schedule, tuple(rows), len(chosen), guess)


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
        path = Path(name.partition("@")[0]) if name.startswith(CLEAN) else Path(name).resolve()
        return f"{path.parent.name}/{path.name}" if path.name in ("best", "last") else path.name

    last = list(map(ending, names))
    return last if len(set(last)) == len(set(names)) else list(names)


def load(names: Sequence[str], settings: Settings | None, dataset: str | None, folder: Path | None,
         schedule: dict[str, Any]) -> tuple[list[LoadedClassifier], Dataset]:
    """The classifiers and their data. Classifiers of clean images come last: they take schedule and size from the others."""
    noisy = [name for name in names if not name.startswith(CLEAN)]
    if noisy and any(value is not None for value in schedule.values()):
        raise click.UsageError(f"{noisy[0]} has a noise schedule of its own; leave out --noise-schedule, --timesteps and "
                               f"--schedule-from.")
    bare = [name for name in names if Path(name).is_file()] or names[:1]
    loaded = {name: load_classifier_whole(name, settings if name in bare else None) for name in noisy}
    own = {name: whole.classifier for name, whole in loaded.items()}
    if len({(model.image_size, model.channels) for model in own.values()}) > 1:
        raise UserError("two classifiers are compared on the same images; " + ", ".join(
            f"{name} sees {model.image_size} pixels a side in {model.channels} channels" for name, model in own.items()) + ".")
    one = next(iter(own.values()), None)
    data = load_data(names, one, dataset, folder)
    for name in names:
        if name.startswith(CLEAN):
            noise = schedule_option(classifier_recipe(data.name, data.image_size), schedule) if one is None else one.schedule
            loaded[name] = load_classifier_whole(name, settings if name in bare else None,
                                                 Space(noise, data.image_size, data.channels))
    return [loaded[name] for name in names], data


def load_data(names: Sequence[str], model: NoisyClassifier | None, dataset: str | None, folder: Path | None) -> Dataset:
    """The dataset asked for, else the one that the first of the classifiers learned from, else the digits."""
    asked, learned_from = dataset, next(filter(None, map(training_set, names)), None)
    dataset = asked or learned_from or "digits"
    size = classifier_recipe(dataset, None).image_size if model is None else model.image_size
    try:
        data = load_dataset(dataset, size, folder, grey=model is not None and model.channels == 1)
    except UserError as error:
        if asked or not learned_from:
            raise
        raise UserError(f"the classifier learned from {dataset!r}, which cannot be read: {str(error).rstrip('.')}; or give "
                        f"another --dataset.") from error
    if not len(data.validation) or data.validation.labels.unique().numel() < 2:
        raise UserError(f"{dataset} has {len(data.validation)} validation images, of fewer than two classes; an evaluation "
                        f"needs images to tell apart.")
    return data


def training_set(name: str) -> str | None:
    """The dataset that a classifier says it learned from."""
    if name in RELEASED["classifier"]:
        return "imagenet64" if name == "imagenet64" else "imagenet"
    if name.startswith(CLEAN) or Path(name).is_file():
        return None
    training = ModelFolder.open(name, "classifier").config.get("training")
    found = training.get("dataset") if isinstance(training, dict) else None
    return found if isinstance(found, str) else None


def numbers_of(data: Dataset, name: str, classifier: NoisyClassifier) -> Tensor:
    """The classifier's number of each of the data's classes, int64 [K]; UserError where they are not the same classes."""
    theirs, ours = classifier.class_names, data.class_names
    if (classifier.channels, classifier.image_size) == (data.channels, data.image_size):
        if sorted(theirs) == sorted(ours):
            return torch.tensor([theirs.index(one) for one in ours])
        if len(theirs) == len(ours) and nameless(theirs):
            return torch.arange(len(ours))
    raise UserError(f"{name} tells {len(theirs)} classes ({', '.join(theirs[:3])}, ...) in images of {classifier.image_size} "
                    f"pixels a side and {classifier.channels} channels; {data.name} has {len(ours)} ({', '.join(ours[:3])}, "
                    f"...) in {data.image_size} and {data.channels}; give the --dataset that it learned from.")


def note(classifier: NoisyClassifier, data: Dataset) -> list[str]:
    """What was taken for granted."""
    told = nameless(classifier.class_names) and not nameless(data.class_names)
    return [f"Its classes have numbers and no names: they were taken to be the classes of {data.name}, in its order."] * told


if __name__ == "__main__":
    eval_noisy_clf()
