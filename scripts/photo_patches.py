"""A small dataset of real colour images, without a download: 32-pixel patches of photographs that installed packages bring.

    python scripts/photo_patches.py data/patches && train-noisy-clf --dataset data/patches --image-size 32

Three classes (a temple, a flower, a person). Training patches are from the left two thirds of each photograph, validation
ones from the rest.
"""
from __future__ import annotations

from pathlib import Path

import click
import matplotlib.cbook
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

SIZE, STRIDE = 32, 8


def photographs() -> dict[str, np.ndarray]:
    """uint8 [H,W,3], all some 400 pixels high."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        person = Image.open(file).convert("RGB").resize((342, 401))
    return {"temple": load_sample_image("china.jpg"), "flower": load_sample_image("flower.jpg"), "person": np.asarray(person)}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    for name, photograph in photographs().items():
        height, width, _ = photograph.shape
        border = 2 * width // 3
        for split, left, right in (("train", 0, border), ("val", border, width)):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for y in range(0, height - SIZE + 1, STRIDE):
                for x in range(left, right - SIZE + 1, STRIDE):
                    Image.fromarray(photograph[y:y + SIZE, x:x + SIZE]).save(place / f"{y:03d}-{x:03d}.png")
            click.echo(f"{split}/{name}: {len(list(place.iterdir()))} patches")


if __name__ == "__main__":
    main()
