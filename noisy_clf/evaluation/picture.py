"""An evaluation drawn against t/T."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisy_clf.evaluation.judgement import Evaluation
from noisy_clf.evaluation.report import ending
from noisy_clf.files import atomic_write

COLOURS = ("tab:blue", "tab:orange")


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Accuracy, NLL, calibration error and gradient of one or two classifiers against t/T, as a PNG."""
    from matplotlib.figure import Figure

    guess, first = evaluations[0].guess, evaluations[0].rows[0]
    panels = [("accuracy", "accuracy", guess.accuracy), ("nll", "NLL (nats)", guess.nll), ("ece", "calibration error", None)]
    if first.gradient_norm is not None:
        panels.append(("gradient_norm", "gradient's norm", None))
    figure = Figure(figsize=(9, 5.6 if len(panels) == 4 else 3.1), layout="constrained")
    grid = figure.subplots(2, 2) if len(panels) == 4 else figure.subplots(1, 3)
    for axes, (name, title, guessed) in zip(grid.flat, panels):
        for place, evaluation in enumerate(evaluations):
            T, rows, colour = evaluation.schedule.T, evaluation.by_t, COLOURS[place]
            levels = [row.t / T for row in rows]
            axes.plot(levels, [getattr(row, name) for row in rows], "o-", color=colour, markersize=3.5, label=evaluation.name)
            if name == "accuracy" and first.top5 is not None:
                axes.plot(levels, [row.top5 for row in rows], color=colour, linewidth=0.8)
            bottom, top, alpha = (0, 1, 0.1) if len(evaluations) == 1 else (1.06 - 0.05 * place, 1.1 - 0.05 * place, 0.3)
            for low, high in evaluation.spans(evaluation.informs):  # two have a bar each above the panel
                axes.axvspan(low / T, high / T, bottom, top, color=colour, alpha=alpha, linewidth=0, clip_on=False)
        if guessed is not None:
            axes.axhline(guessed, color="grey", linestyle=":", linewidth=1.5)
        axes.set(xlabel="noise level t/T", xlim=(-0.02, 1.02))
        axes.set_title(title, pad=6 if len(evaluations) == 1 else 18)
        if name != "gradient_norm":
            axes.set_ylim(0, 1.03 if name == "accuracy" else None)
        elif any(row.gradient_norm for evaluation in evaluations for row in evaluation.rows):
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=legend(evaluations), loc="outside upper center", ncols=3 + len(evaluations), frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def legend(evaluations: Sequence[Evaluation]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [Line2D([], [], color=colour, marker="o", markersize=3.5, label=ending(evaluation.name, 30))
             for evaluation, colour in zip(evaluations, COLOURS)]
    top5 = [Line2D([], [], color="black", linewidth=0.8, label="top-5")] * (evaluations[0].rows[0].top5 is not None)
    return [*names, *top5, Line2D([], [], color="grey", linestyle=":", linewidth=1.5, label="guessing"),
            Patch(color=COLOURS[0] if len(evaluations) == 1 else "grey", alpha=0.15, label="tells the class")]
