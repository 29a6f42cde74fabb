"""eval-samples: samples become figures that can be compared, honest about their size."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from guided_sample.metrics.measures import METRICS, Measures
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.imports import imported_for_good


def asked_metrics(ctx: click.Context, param: click.Parameter, asked: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in asked.split(",") if name.strip()) if asked else ()


@click.command(cls=FriendlyCommand)
@click.argument("samples", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--reference", metavar="REFERENCE", help="imagenet256, lsun-cat, ... (ADM's, downloaded once), an .npz of images "
              "or moments, a folder of pictures, or a dataset: cifar10, dataset:PATH. [default: what the run's model learned "
              "from]")
@click.option("--features", metavar="NAME", help="Whose features are compared: inception (FID), dinov2, timm:NAME, the latter "
              "two with @FILE, or judge. [default: inception; of the bundled models judge]")
@click.option("--judge", metavar="CLASSIFIER", help="A classifier that never guided the samples: which share does it see as "
              "their class? [default: of the bundled models digits-judge]")
@click.option("--cas", metavar="DATASET", help="Train a classifier on the samples, and test it on the dataset's real "
              "images.")
@click.option("--metrics", metavar="NAME,...", callback=asked_metrics, help=f"Only these of: {', '.join(METRICS)}.")
@click.option("--is-order", type=click.Choice(["file", "shuffled"]), default="file", show_default=True,
              help="Of images in the Inception Score's splits of 5000: ADM's, or (a departure) drawn at random.")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Inception's, if they are not to be downloaded.")
@click.option("--data", type=click.Path(path_type=Path), help="Where a named reference dataset's files are. "
              "[default: data/NAME]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def eval_samples(samples: tuple[Path, ...], device: str, **asked: Any) -> None:
    """Measure samples: FID, sFID, Inception Score, precision and recall as ADM's evaluator has them, KID, and whether they show
    their classes.

    SAMPLES are a run's folder, an .npz (arr_0 uint8 [N,H,W,C], arr_1 labels) or a folder of pictures; runs of several seeds
    give mean, deviation and minimum. Writes evaluation.json beside them; features are kept, so that another metric costs
    nothing.

    \b
    eval-samples samples/digits-class-all-scale-5-ddpm-50-seed-0
    eval-samples samples.npz --reference imagenet256
    eval-samples runs/a runs/b runs/c --reference photos.npz --features dinov2 --judge timm:resnet50
    """
    measures = Measures(**asked)
    if missing := [path for path in samples if not path.exists()]:
        raise UserError(f"there is nothing at {missing[0]}; give a sampling run's folder, an .npz file with arr_0, or a folder "
                        f"of pictures.")

    with imported_for_good():  # torch: from here on something is loaded
        from guided_sample.metrics.evaluation import Evaluator
    from guided_sample.metrics.table import over_seeds, table

    evaluator, found = Evaluator(measures, device), []
    for path in samples:
        found.append(evaluator.evaluate(path))
        click.echo(table(found[-1]))
    if told := over_seeds(samples, found):
        click.echo(told)


if __name__ == "__main__":
    eval_samples()
