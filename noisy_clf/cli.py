"""train-noisy-clf and eval-noisy-clf."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from noisy_clf import evaluation
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.cli_options import DATA, NETWORK, SCHEDULE, TRAINING, Numbers, options, resolve, schedule_option
from noisy_clf.datasets import DATASETS, load_dataset
from noisy_clf.device import exact_float32, pick_device
from noisy_clf.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.files import write_json
from noisy_clf.foreign.settings import read_settings
from noisy_clf.loaders import load_classifier
from noisy_clf.objective import classifier_task
from noisy_clf.recipes import CLASSIFIERS
from noisy_clf.training import train


@click.command(cls=FriendlyCommand)
@options(DATA, SCHEDULE)
@click.option("--schedule-from", metavar="DDPM", help="Take schedule and T from this denoiser (a name or a path).")
@click.option("--pool", type=click.Choice(["attention", "adaptive", "spatial", "spatial_v2"]))
@options(NETWORK, TRAINING)
def train_noisy_clf(dataset: str, image_size: int | None, out: Path | None, device: str, noise_schedule: str | None,
                    timesteps: int | None, schedule_from: str | None, **given: Any) -> None:
    """Train a classifier on noised images, to guide a diffusion model with.

    What is not given is the dataset's recipe. Stop it in any way; the same command goes on, to the same result.

    \b
    train-noisy-clf --dataset digits
    train-noisy-clf --schedule-from runs/digits-ddpm --out runs/my-classifier
    train-noisy-clf --noise-schedule linear --timesteps 4000 --pool adaptive --seed 1
    """
    recipe = CLASSIFIERS[dataset]
    schedule = schedule_option(recipe, noise_schedule, timesteps, schedule_from)
    settings, training = resolve(recipe, given, EncoderUNetConfig)
    where = pick_device(device)
    exact_float32()
    data = load_dataset(dataset, recipe.image_size if image_size is None else image_size)
    torch.manual_seed(training.seed)
    network = EncoderUNet(EncoderUNetConfig(
        **settings, image_size=data.image_size, in_channels=data.channels, num_classes=len(data.class_names)))
    classifier = NoisyClassifier(network, schedule, data.class_names)
    out = out or Path("runs") / f"{dataset}-classifier"
    train(classifier_task(classifier, data), data, training, out, where)
    click.echo(f"The best model is in {out / 'best'}; look at it with: eval-noisy-clf {out}")


@click.command(cls=FriendlyCommand)
@click.argument("classifier", default="digits")
@click.option("--classifier-config", metavar="FILE", help="For a .pt file: what its tensors do not tell, as TOML or JSON.")
@click.option("--classifier-flags", metavar="FLAGS", help="The same, as the flags that guided-diffusion trained it with.")
@click.option("--dataset", type=click.Choice(DATASETS), default="digits", show_default=True,
              help="Its validation images are used.")
@click.option("--levels", type=Numbers(), default=",".join(f"{i / 20:g}" for i in range(20)), show_default=True,
              help="Noise levels t/T.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for evaluation.png and evaluation.json. [default: evaluations/CLASSIFIER]")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def eval_noisy_clf(classifier: str, classifier_config: str | None, classifier_flags: str | None, dataset: str,
                   levels: tuple[float, ...], out: Path | None, batch_size: int, seed: int, device: str) -> None:
    """Accuracy, NLL and calibration error of CLASSIFIER (a name or a path) by noise level, as a table and a picture.

    \b
    eval-noisy-clf digits
    eval-noisy-clf runs/digits-classifier --levels 0,0.25,0.5,0.75,0.9
    """
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise click.BadParameter(f"noise levels are t/T, from 0 to 1, not {levels}.", param_hint="--levels")
    exact_float32()
    settings = read_settings(classifier_config, classifier_flags, "classifier")
    model = load_classifier(classifier, settings).to(pick_device(device))
    data = load_dataset(dataset, model.image_size)
    if data.class_names != model.class_names or data.channels != model.channels:
        raise UserError(f"{classifier} tells {len(model.class_names)} classes ({', '.join(model.class_names[:3])}, ...) "
                        f"in images of {model.channels} channels; {dataset} has {len(data.class_names)} "
                        f"({', '.join(data.class_names[:3])}, ...) in {data.channels}.")
    rows = evaluation.evaluate(model, data.validation, levels, batch_size, seed, progress=True)
    T = model.schedule.T
    click.echo(evaluation.table(rows, T))
    out = out or Path("evaluations") / Path(classifier).name
    write_json(out / "evaluation.json", {"classifier": classifier, "dataset": dataset, "images": len(data.validation),
                                         "seed": seed, "T": T, "levels": evaluation.as_json(rows)})
    evaluation.draw(rows, T, len(data.class_names), out / "evaluation.png")
    click.echo(f"Drawn in {out / 'evaluation.png'}")
