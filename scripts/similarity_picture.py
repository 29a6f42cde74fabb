"""Makes the README's picture of similarity guidance: ten pictures, and a row each of samples that should be like them.

    python scripts/similarity_picture.py
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from guided_sample.pictures import picture_file
from guided_sample.plan import Plan
from guided_sample.request import Request
from noisy_clf.files import atomic_write

OUT = Path(__file__).parent / "pictures" / "similarity.png"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PICTURES = tuple(f"digits:{name}" for name in NAMES)
WORDS = tuple(f"an {name}" if name == "eight" else f"a {name}" for name in NAMES)
CLEAN = {"encoder": "clip:digits"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("--like, tuned on noise", {"like": PICTURES}), ("--like, CLIP's, tuned", {"like": PICTURES, "encoder": "digits-clip"}),
    ("the same, untuned", {"like": PICTURES} | CLEAN), ("untuned, --see x0", {"like": PICTURES, "see": "x0"} | CLEAN),
    ("--text, CLIP's, tuned", {"text": WORDS}), ("the same, untuned", {"text": WORDS} | CLEAN)]


def main() -> None:
    rows = [[np.asarray(Image.open(picture_file(name))) for name in PICTURES]]
    rows += [list(Plan.of(Request(model="digits", **asked), "cpu").draw(range(10)).images[..., 0]) for _, asked in ROWS]
    whole = np.vstack([np.pad(np.hstack([np.pad(image, 1, constant_values=255) for image in row]), 1, constant_values=255)
                       for row in rows])
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255)
    axes.set_yticks([10 + 20 * row for row in range(len(rows))], ["the pictures", *(title for title, _ in ROWS)], fontsize=9)
    axes.set_xticks([10 + 18 * column for column in range(10)], WORDS, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    with atomic_write(OUT) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
