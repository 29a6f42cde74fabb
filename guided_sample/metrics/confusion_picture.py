"""A confusion matrix, drawn."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noisy_clf.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED, NUMBERED = 50, 20  # up to so many classes there are names along the sides, and shares in the cells
LONGEST_NAME = 16


def draw_confusion(counts: np.ndarray, class_names: tuple[str, ...], path: Path) -> None:
    """Counts [K,K], row asked for, column seen, as shares of each row, as a PNG."""
    with atomic_write(path) as temporary:
        confusion_figure(counts, class_names).savefig(temporary, format="png", dpi=120)


def confusion_figure(counts: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    from matplotlib.figure import Figure

    K, asked = len(class_names), counts.sum(axis=1, keepdims=True)
    shares = np.where(asked > 0, counts / np.maximum(asked, 1), np.nan)  # a class not asked for stays empty
    side = min(max(0.52 * K + 1.8, 4.5), 11) if K <= NAMED else 8
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="seen by the judge", ylabel="asked for" if K <= NAMED else f"asked for (of {K} classes)")
    axes.set_title(f"{counts.diagonal().sum() / max(counts.sum(), 1):.1%} of {counts.sum()} samples as asked for", fontsize=11)
    axes.spines[:].set_visible(False)
    name_sides(axes, class_names)
    if K <= NUMBERED:
        for row, column in np.argwhere(shares > 0):
            axes.text(column, row, in_percent(shares[row, column]), ha="center", va="center", fontsize=8,
                      color="white" if shares[row, column] > 0.5 else "black")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the class asked for", format=lambda share, _: f"{100 * share:.0f}")
    return figure


def name_sides(axes: Any, class_names: tuple[str, ...]) -> None:
    K = len(class_names)
    if K > NAMED:
        axes.set(xticks=[], yticks=[])
        return
    names = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME - 1]}…" for name in class_names]
    size = 9 if K <= NUMBERED else 7
    axes.set_xticks(range(K), names, rotation=0 if max(map(len, names)) <= 5 and K <= NUMBERED else 90, fontsize=size)
    axes.set_yticks(range(K), names, fontsize=size)


def in_percent(share: float) -> str:
    """Short enough for a cell; never 100 of what is less, nor 0 of what is more."""
    percent = 100 * share
    return "<1" if percent < 1 else ">99" if 99.5 <= percent < 100 else f"{percent:.0f}"
