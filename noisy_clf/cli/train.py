"""train-noisy-clf. Several GPUs: torchrun --nproc-per-node 8 -m noisy_clf.cli, with the same options."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from noisy_clf.checkpoints.by_name import denoiser_record
from noisy_clf.cli.options import DATA, EXECUTION, NETWORK, SCHEDULE, TRAINING, options, overridden, schedule_option
from noisy_clf.datasets import load_dataset, refuse_unknown
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.networks.config import EncoderUNetConfig, Pool
from noisy_clf.training.config import ClassifierLoss, FineTuning, TrainingConfig
from noisy_clf.training.recipes import classifier_recipe

ADM_ONLY = ("channels", "channel_mult", "res_blocks", "attention_at", "head_channels", "resample", "pool")
TIMM_ONLY = ("pretrained", "input_size", "batch_norm", "time_input", "layer_decay", "freeze_stages")
BACKBONE = [
    click.option("--pretrained", is_flag=False, flag_value="timm", metavar="[FILE]",
                 help="timm: start from its clean weights, downloaded, or from those in a file."),
    click.option("--input-size", type=click.IntRange(min=1),
                 help="timm: pixels a side that the backbone sees. [default: the image's]"),
    click.option("--batch-norm", type=click.Choice(["frozen", "group"]),
                 help="timm: the clean weights' statistics, kept as they are, or GroupNorm in its place. "
                      "[default: frozen if pretrained, else group]"),
    click.option("--time-input/--no-time-input", default=True, show_default=True, help="timm: whether the backbone is told t."),
    click.option("--layer-decay", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
                 help="timm: factor of the learning rate from each layer to the one below it."),
    click.option("--freeze-stages", type=click.IntRange(min=0), default=0, show_default=True,
                 help="timm: stages, from the image on, that do not learn."),
]
LOSS = [
    click.option("--label-smoothing", type=float, default=0.0, show_default=True),
    click.option("--mixup", type=float, default=0.0, show_default=True, help="a of Beta(a, a); 0: images are not mixed."),
    click.option("--entropy-weight", type=float, default=0.0, show_default=True,
                 help="W of W (log K - H(p)), added to the loss: what is less sure guides for longer. ED-DPM's is 0.1."),
]


@click.command(cls=FriendlyCommand)
@options(DATA, SCHEDULE)
@click.option("--schedule-from", metavar="DDPM", help="Take schedule and T from this denoiser (a name or a path).")
@click.option("--arch", default="adm", show_default=True, metavar="adm|timm:NAME", help="ADM's encoder, or a backbone of timm.")
@click.option("--pool", type=click.Choice(get_args(Pool)))
@options(NETWORK, BACKBONE, LOSS, TRAINING, EXECUTION)
def train_noisy_clf(dataset: str, data_folder: Path | None, grey: bool, image_size: int | None, out: Path | None, device: str,
                    arch: str, **given: Any) -> None:
    """Train a classifier on noised images, to guide a diffusion model with.

    What is not given is the dataset's recipe. Stop it in any way; the same command goes on, to the same result.

    \b
    train-noisy-clf --dataset digits
    train-noisy-clf --dataset imagenet64                   the released 64 px classifier's recipe
    train-noisy-clf --dataset photos/ --arch timm:convnext_tiny --pretrained --layer-decay 0.75
    train-noisy-clf --schedule-from runs/digits-ddpm --out runs/my-classifier
    torchrun --nproc-per-node 8 -m noisy_clf.cli --dataset imagenet64 --precision bf16
    """
    adm = arch == "adm"
    if not adm and not arch.startswith("timm:"):
        raise UserError(f"--arch is adm or timm:NAME, such as timm:convnext_tiny, not {arch!r}.")
    refuse_given(TIMM_ONLY if adm else ADM_ONLY, arch)
    recipe = classifier_recipe(dataset, image_size)
    image_size = recipe.image_size if image_size is None else image_size
    refuse_unknown(dataset, image_size, data_folder, grey)
    schedule = schedule_option(recipe, given)
    record = {} if given["schedule_from"] is None else {"schedule_from": denoiser_record(given["schedule_from"])}
    training = TrainingConfig(**overridden(recipe.training, given, TrainingConfig))
    loss = ClassifierLoss(given["label_smoothing"], given["mixup"], given["entropy_weight"])
    config = EncoderUNetConfig(**overridden(recipe.network, given, EncoderUNetConfig), image_size=image_size, in_channels=1,
                               num_classes=1) if adm else None
    start = given["pretrained"]
    backbone = {"name": arch.removeprefix("timm:"), "time_conditional": given["time_input"], "input_size": given["input_size"],
                "batch_norm": given["batch_norm"] or ("frozen" if start else "group"), "dropout": given["dropout"] or 0.0}
    tuning = FineTuning(start, given["freeze_stages"], given["layer_decay"])
    out = out or Path("runs") / f"{Path(dataset).stem}-classifier"

    from noisy_clf.training.execution import Execution, execution  # torch: what names tell is refused by now
    from noisy_clf.training.loop import train
    from noisy_clf.training.new_classifier import adm_task, timm_task

    with execution(device, image_size, **overridden({}, given, Execution)) as how:
        data = load_dataset(dataset, image_size, data_folder, grey)
        task = adm_task(config, schedule, data, loss, training) if config \
            else timm_task(backbone, schedule, data, loss, training, tuning)
        train(replace(task, record=record), data, training, out, how)
    if how.processes.first:
        click.echo(f"The best model is in {out / 'best'}; look at it with: eval-noisy-clf {out}")


def refuse_given(names: tuple[str, ...], arch: str) -> None:
    """Refuses options that mean nothing for this --arch."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} means nothing for --arch {arch}; leave it out.")
