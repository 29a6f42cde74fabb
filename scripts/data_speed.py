"""How fast down-sampled ImageNet is converted, and read.

    python scripts/data_speed.py

Writes random images in the official format (as .npz and as pickles), converts them, then reads batches as training does:
in the order of an epoch, cropped and flipped, by some threads.
"""
from __future__ import annotations

import pickle
import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from noisy_clf.datasets.downsampled_imagenet import downsampled_imagenet
from noisy_clf.datasets.images import Augmentation, LabelledImages
from noisy_clf.datasets.order import training_order
from noisy_clf.training.draws import augmentation_generators
from noisy_clf.datasets.read_ahead import read_ahead


def write(folder: Path, size: int, rows: int, pickled: bool) -> int:
    """The eleven files; their bytes."""
    random = np.random.default_rng(0)
    for name in [f"train_data_batch_{i}" for i in range(1, 11)] + ["val_data"]:
        batch = {"data": random.integers(0, 256, (rows, 3 * size * size), dtype=np.uint8),
                 "labels": random.integers(1, 1001, rows).tolist()}
        if pickled:
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            np.savez(folder / f"{name}.npz", **batch)
    return sum(path.stat().st_size for path in folder.iterdir())


def images_per_second(images: LabelledImages, augmentation: Augmentation, threads: int, batch: int = 256,
                      seconds: float = 5.0) -> float:
    def read(step: int) -> int:
        positions = range(step * batch, (step + 1) * batch)
        indices = training_order(len(images), 0, positions)
        if augmentation == Augmentation():
            return len(images.batch(indices)[1])
        return len(images.augmented(indices, augmentation, augmentation_generators(0, positions))[1])

    started, count = time.perf_counter(), 0
    for read_now in read_ahead(read, range(10 ** 9), threads):
        count += read_now
        if time.perf_counter() - started > seconds:
            return count / (time.perf_counter() - started)
    raise AssertionError


@click.command()
@click.option("--size", default=64, show_default=True)
@click.option("--rows", default=6000, show_default=True, help="In each of the eleven files; ImageNet's have 128,117.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write. [default: a temporary one]")
def main(size: int, rows: int, folder: Path | None) -> None:
    top = Path(tempfile.mkdtemp(dir=folder))
    try:
        for pickled in (True, False):
            place = top / ("pickles" if pickled else "npz")
            place.mkdir()
            written = write(place, size, rows, pickled)
            started = time.perf_counter()
            data = downsampled_imagenet(size, place)
            took = time.perf_counter() - started
            print(f"{place.name}: {written / 1e6:.0f} MB converted in {took:.1f} s, {written / took / 1e6:.0f} MB/s")
        for augmentation in (Augmentation(), Augmentation(random_flip=True), Augmentation(random_crop=True, random_flip=True)):
            for threads in (1, 2, 4):
                print(f"{augmentation}, {threads} threads: {images_per_second(data.train, augmentation, threads):.0f} images/s")
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
