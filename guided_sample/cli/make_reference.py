"""make-reference."""
from __future__ import annotations

from pathlib import Path

import click

from guided_sample.metrics.extractors import extractor_named
from guided_sample.metrics.extractors import refuse_unknown as refuse_unknown_features
from guided_sample.metrics.references import dataset_named, write_reference
from noisy_clf.datasets import refuse_unknown
from noisy_clf.errors import FriendlyCommand, UserError, disk_trouble


@click.command(cls=FriendlyCommand)
@click.argument("dataset")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels a side, those of the samples. [default: the dataset's "
              "own, 256 for ImageNet, 64 for images of your own]")
@click.option("--count", type=click.IntRange(min=2), help="So many of the images, drawn once and for all. [default: all]")
@click.option("--features", default="inception", show_default=True, metavar="NAME",
              help="Of which the moments are: inception, dinov2, timm:NAME, the latter two with @FILE.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE",
              help="Inception's, if they are not to be downloaded.")
@click.option("--data", "data_folder", type=click.Path(path_type=Path),
              help="Where a named dataset's files are, or are downloaded to. [default: data/NAME]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def make_reference(dataset: str, out: Path, image_size: int | None, count: int | None, features: str, weights: Path | None,
                   data_folder: Path | None, device: str) -> None:
    """Write the training images of DATASET, and the moments of their features, into OUT: a reference for eval-samples.

    DATASET is a name, a folder of images, or a .csv of file and label. OUT is an .npz as ADM's evaluator takes it. Stopped in
    any way, the same command goes on.

    \b
    make-reference digits digits.npz --image-size 16 --features timm:resnet18
    make-reference imagenet64 imagenet64.npz --data imagenet64/
    make-reference photos/ photos.npz --image-size 128 --count 10000
    """
    refuse_unknown(dataset, image_size, data_folder)
    refuse_place(out)
    if features == "judge":
        raise UserError("a judge's features are of one run's classes, and its moments are found where it judges; give "
                        "--features inception, dinov2 or timm:NAME.")
    refuse_unknown_features(features)

    from guided_sample.metrics.pictures import pictures_of  # torch: what names tell is refused by now
    from noisy_clf.execution import exact_float32, pick_device

    where = pick_device(device)
    exact_float32()
    pictures = pictures_of(dataset_named(dataset, image_size, data_folder), count)
    extractor = extractor_named(features, where, weights)
    write_reference(out, pictures, extractor)
    click.echo(f"{len(pictures)} images of {pictures.shape[1]} x {pictures.shape[0]} pixels, and the moments of their "
               f"{extractor.name} features, are in {out}; compare samples with them: eval-samples SAMPLES --reference {out}")


def refuse_place(out: Path) -> None:
    """UserError, now and not after an hour, where nothing can be written there."""
    if out.suffix != ".npz":
        raise UserError(f"{out} does not end in .npz, as a reference does; give OUT such as {out}.npz.")
    if out.exists():
        raise UserError(f"{out} is there already; give another OUT, or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(disk_trouble(error, out.parent)) from error


if __name__ == "__main__":
    make_reference()
