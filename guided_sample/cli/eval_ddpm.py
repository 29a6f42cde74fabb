"""eval-ddpm."""
from __future__ import annotations

from pathlib import Path

import click

from guided_sample.cards import Card, card_of
from guided_sample.steps import kept_timesteps
from noisy_clf.checkpoints.diffusers_scheduler import is_diffusers_folder
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.cli.evaluate import short
from noisy_clf.datasets import DATASETS, refuse_unknown
from noisy_clf.errors import FriendlyCommand, UserError


@click.command(cls=FriendlyCommand)
@click.argument("model")
@click.option("--model-config", metavar="FILE", help="For a .pt file: what its tensors do not tell, as TOML or JSON.")
@click.option("--model-flags", metavar="FLAGS", help="The same, as the flags that guided-diffusion trained it with.")
@click.option("--dataset", metavar="NAME|PATH", help=f"Its validation images are used: {', '.join(DATASETS)}, a folder of "
              "images, or a .csv. [default: what the model learned from]")
@click.option("--data", "data_folder", type=click.Path(path_type=Path),
              help="Where a named dataset's files are, or are downloaded to. [default: data/NAME]")
@click.option("--images", type=click.IntRange(min=1), help="So many of them, drawn once and for all. [default: all]")
@click.option("--steps", metavar="SPEC", help="Of a shorter chain, as guided-sample's: 250, ddim50, ... Its bound is another, "
              "and higher. [default: all T]")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for evaluation.json, evaluation.png and what is measured. [default: evaluations/ and what is asked]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 64 up to 64 pixels, 16 at 128, 4 at 256]")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def eval_ddpm(model: str, model_config: str | None, model_flags: str | None, dataset: str | None, data_folder: Path | None,
              images: int | None, steps: str | None, out: Path | None, batch_size: int | None, precision: str, seed: int,
              device: str) -> None:
    """How well does the denoiser MODEL know images? Their likelihood in bits per dimension, and its errors by noise level.

    The bound on -log p(x_0), its terms by t, and the mean squared errors of eps and x_0, as guided-diffusion's image_nll
    finds them. Stop it in any way; the same command goes on.

    \b
    eval-ddpm digits
    eval-ddpm digits --images 100 --steps 250
    eval-ddpm imagenet64 --data imagenet64/ --images 1000
    eval-ddpm runs/photos-ddpm --dataset photos/
    """
    settings = read_settings(model_config, model_flags, "denoiser")
    card = card_of(model, "denoiser")
    refuse_by_name(model, card, steps)
    learned = known_dataset(model, dataset, data_folder)

    from guided_sample.likelihood.subject import Subject, measured  # torch: what names tell is refused by now
    from guided_sample.likelihood.report import table, verdict
    from noisy_clf.execution import exact_float32, pick_device
    from noisy_clf.files import alone
    from noisy_clf.training.stop import stop_signals

    where = pick_device(device)
    exact_float32()
    subject = Subject.load(model, settings, learned, data_folder, images, steps, where, precision, seed, batch_size)
    out = out or default_out(model, dataset, steps)
    with alone(out, f"evaluates in {out}"), stop_signals() as stop:
        found = measured(subject, out, lambda text: click.echo(text, err=True), lambda: stop.asked)
    N = len(subject.chosen)
    click.echo("\n".join([table(found), f"\n{model}, on {found.images} validation images of {subject.data.name}:",
                          *verdict(found)]))
    if found.images < N:
        raise UserError(f"stopped: the above is of {found.images} of {N} images; all that was measured is in {out}: the same "
                        f"command goes on from here.")
    click.echo(f"\nDrawn in {out / 'evaluation.png'}")


def default_out(model: str, dataset: str | None, steps: str | None) -> Path:
    words = [short([model])[0], Path(dataset).name if dataset else None, f"{steps}steps" if steps else None, "likelihood"]
    return Path("evaluations") / "-".join(word for word in words if word).replace("/", "-")


def refuse_by_name(model: str, card: Card, steps: str | None) -> None:
    """UserError for what is known of a model before it is loaded."""
    if card.small_size:
        raise UserError(f"{model} is an upsampler, whose likelihood is not measured here; give a denoiser of whole images.")
    if steps is not None and card.space is not None:
        kept_timesteps(steps, card.space.schedule)


def known_dataset(model: str, asked: str | None, folder: Path | None) -> str:
    """The dataset asked for, else the one that the model learned from; UserError where it is not there."""
    dataset = asked or learned_from(model)
    try:
        refuse_unknown(dataset, folder=folder)
    except UserError as error:
        if asked or folder:
            raise
        raise UserError(f"{model} learned from {dataset!r}, which is not here; give its path now, or another, as "
                        f"--dataset.") from error
    return dataset


def learned_from(model: str) -> str:
    """The dataset that a denoiser says it learned from; UserError where that is not known."""
    if model in DENOISERS and model.startswith("imagenet"):
        return "imagenet64" if model == "imagenet64" else "imagenet"
    if model not in DENOISERS and not Path(model).is_file() and not is_diffusers_folder(Path(model)):
        training = ModelFolder.open(model, "denoiser").config.get("training")
        if isinstance(training, dict) and isinstance(training.get("dataset"), str):
            return str(training["dataset"])
    raise UserError(f"{model} does not tell what it learned from; give --dataset.")


if __name__ == "__main__":
    eval_ddpm()
