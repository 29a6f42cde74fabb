"""An encoder's retrieval drawn against t/T."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noisy_clf.evaluation.picture import COLOURS
from noisy_clf.evaluation.report import ending
from noisy_clf.evaluation.retrieval_report import Found
from noisy_clf.files import atomic_write


def draw(found: Sequence[Found], path: Path) -> None:
    """How often one or two encoders find the image, and the cosines by which they do, against t/T, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    hits, similar = figure.subplots(1, 2)
    for one, colour in zip(found, COLOURS):
        levels, rows = [row.t / one.schedule.T for row in one.by_t], one.by_t
        hits.plot(levels, [row.top1 for row in rows], "o-", color=colour, markersize=3.5)
        if rows[0].top5 is not None:
            hits.plot(levels, [row.top5 for row in rows], color=colour, linewidth=0.8)
        similar.plot(levels, [row.own for row in rows], "o-", color=colour, markersize=3.5)
        similar.plot(levels, [row.others for row in rows], "--", color=colour, linewidth=1)
    hits.axhline(found[0].chance, color="grey", linestyle=":", linewidth=1.5)
    hits.set_title(f"found among {found[0].images} clean images")
    hits.set_ylim(0, 1.03)
    similar.set_title("cosine of embeddings")
    for axes in (hits, similar):
        axes.set(xlabel="noise level t/T", xlim=(-0.02, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    names = [Line2D([], [], color=colour, marker="o", markersize=3.5, label=ending(one.name, 30))
             for one, colour in zip(found, COLOURS)]
    top5 = [Line2D([], [], color="black", linewidth=0.8, label="top-5")] * (found[0].rows[0].top5 is not None)
    figure.legend(handles=[*names, *top5, Line2D([], [], color="grey", linestyle=":", linewidth=1.5, label="chance"),
                           Line2D([], [], color="black", linestyle="--", linewidth=1, label="to other images")],
                  loc="outside upper center", ncols=3 + len(found), frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
