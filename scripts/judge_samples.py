"""How many of a run's samples an independent judge sees as what was asked for, and on how many real images it is right itself.

    python scripts/judge_samples.py data/patches --image-size 32 samples/*/

The judge, scikit-learn's SVC, learns from the dataset's clean training images and never guides; it is tried on those that
are held out.
"""
from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from sklearn.svm import SVC

from noisy_clf.datasets import load_dataset


@click.command()
@click.argument("dataset")
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--image-size", type=int)
def main(dataset: str, runs: tuple[Path, ...], image_size: int | None) -> None:
    data = load_dataset(dataset, image_size)
    (real, labels), (held_out, wanted) = ((images.flatten(1).numpy() / 255, y.numpy()) for images, y in (
        data.train.whole(), data.validation.whole()))
    judge = SVC().fit(real, labels)
    click.echo(f"the judge is right on {judge.score(held_out, wanted):.1%} of {len(held_out)} held-out images")
    for run in runs:
        with np.load(run / "samples.npz") as archive:
            samples, asked = archive["arr_0"], archive["arr_1"]
        seen = judge.predict(samples.transpose(0, 3, 1, 2).reshape(len(samples), -1) / 255)
        shares = ", ".join(f"{share:.0%} {name}" for name, share in zip(
            data.class_names, np.bincount(seen, minlength=len(data.class_names)) / len(seen)))
        agreement = f"{(seen == asked).mean():.1%} as asked; " if (asked >= 0).all() else ""
        click.echo(f"{run}: {agreement}it sees {shares} in {len(samples)} samples")


if __name__ == "__main__":
    main()
