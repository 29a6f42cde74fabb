"""An evaluation in words, as a table, a picture and JSON: is this classifier good enough to guide with, and at which noise?"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisy_clf.evaluation.by_noise_level import Quality
from noisy_clf.files import atomic_write
from noisy_clf.schedule import NoiseSchedule

SIGNIFICANT = 3  # standard errors
COLOURS = ("tab:blue", "tab:orange")
VISIBLE = 0.25  # alpha_bar at which half of the amplitude is image: who learned on noise still sees it well
COLUMNS = (("t", "t", 6, "d"), ("accuracy", "accuracy", 10, ".1%"), ("top5", "top-5", 8, ".1%"),
           ("nll", "NLL (nats)", 12, ".4f"), ("ece", "ECE", 7, ".3f"), ("gradient_norm", "gradient", 10, ".3g"))


@dataclass(frozen=True)
class Guess:
    """What one gets who never looks at an image, but knows how frequent each class is.

    accuracy  share of the most frequent class
    nll       entropy of the frequencies, nats
    """

    accuracy: float
    nll: float

    @classmethod
    def among(cls, labels: Tensor, K: int) -> Guess:
        """By the frequencies of these labels, int64 [N] in 0..K-1."""
        return cls(shares(labels, K).max().item(), prior_nll(labels, K))


def prior_nll(labels: Tensor, K: int) -> float:
    """Entropy of the class frequencies, nats: the NLL of a classifier that knows nothing but them."""
    return torch.special.entr(shares(labels, K)).sum().item()


def shares(labels: Tensor, K: int) -> Tensor:
    return torch.bincount(labels, minlength=K).double() / len(labels)


@dataclass(frozen=True)
class Evaluation:
    """What was found of one classifier: `rows`, one for each level that was asked for, on `images` images."""

    name: str
    schedule: NoiseSchedule
    rows: tuple[Quality, ...]
    images: int
    guess: Guess

    @property
    def by_t(self) -> list[Quality]:
        return sorted({row.t: row for row in self.rows}.values(), key=lambda row: row.t)

    def knows(self, row: Quality) -> bool:
        """Whether its first choice is right more often than the most frequent class is, by 3 standard errors."""
        chance = self.guess.accuracy
        return row.accuracy > chance + SIGNIFICANT * math.sqrt(chance * (1 - chance) / self.images)

    def informs(self, row: Quality) -> bool:
        """Whether its probabilities are better than the class frequencies. Where most images are of one class, no first
        choice may be better than that class, and yet the probabilities be: these count if they are by 3 standard errors."""
        gain = self.guess.nll - row.nll
        return gain > 0 and (self.knows(row) or self.images > 1 and gain > SIGNIFICANT * row.nll_error)

    def overconfident(self, row: Quality) -> bool:
        return self.knows(row) and not self.informs(row)

    def spans(self, holds: Callable[[Quality], bool]) -> list[tuple[int, int]]:
        """(first t, last t) of each run of neighbouring levels at which it holds."""
        found: list[tuple[int, int]] = []
        before = False
        for row in self.by_t:
            if holds(row):
                found.append((found.pop()[0] if before else row.t, row.t))
            before = holds(row)
        return found

    @property
    def share(self) -> float:
        """Of the T sampling steps, those at which the classifier helps."""
        return sum(last - first + 1 for first, last in self.spans(self.informs)) / self.schedule.T

    @property
    def knows_clean_images_only(self) -> bool:
        """Whether it fails where much of the image is left, or is sure of itself where nothing is.

        Who learned on noise also learned that in nothing but noise, only the class frequencies can be told.
        """
        lowest, highest = self.by_t[0], self.by_t[-1]
        if not self.knows(lowest):
            return False
        fails = any(not self.informs(row) and self.schedule.alpha_bar[row.t] >= VISIBLE for row in self.rows)
        excess = highest.nll - 1.1 * self.guess.nll
        return fails or not self.knows(highest) and excess > SIGNIFICANT * highest.nll_error


def verdict(evaluation: Evaluation) -> list[str]:
    """Is it good enough to guide with? In a few sentences."""
    told, over = [reach(evaluation)], evaluation.spans(evaluation.overconfident)
    if evaluation.share:
        told.append(use(evaluation))
    if over:
        told.append(f"{capital(in_words(over))} it knows the class but is over-confident (its NLL is above the "
                    f"{evaluation.guess.nll:.2f} nats of guessing by class frequency): its gradient points somewhere, but far "
                    f"too strongly{beyond(evaluation, over[-1][1])}.")
    lowest = evaluation.by_t[0]
    if evaluation.schedule.alpha_bar[lowest.t] > 0.9 and not evaluation.informs(lowest):
        told.append(f"At t = {lowest.t} the image is all but clean: is it trained, and are its weights and the order of its "
                    f"classes right?")
    if evaluation.knows_clean_images_only:
        told.append("So behaves a classifier that learned on clean images only, or too little: train one on noised images, "
                    "with train-noisy-clf.")
    return told


def reach(evaluation: Evaluation) -> str:
    """The range of t in which it carries information."""
    rows, T, good = evaluation.by_t, evaluation.schedule.T, evaluation.spans(evaluation.informs)
    if not good:
        return "It is nowhere better than guessing by class frequency: guidance with it will not work as it is." \
            if any(map(evaluation.knows, rows)) else \
            "This classifier tells nothing about noised images: guidance with it will not work."
    last = good[-1][1]
    where = f"{in_words(good)} of {T} (t/T {last / T:.2f}, alpha_bar {evaluation.schedule.alpha_bar[last]:.2g})"
    holes = [(first, end) for first, end in evaluation.spans(lambda row: not evaluation.informs(row)) if first < last]
    if holes:
        where += f", but not {in_words(holes)}"
    elif last == rows[-1].t:
        where += ", at every level tried" if len(rows) > 1 else ", the only level tried"
    return f"It carries information about the class {where}{beyond(evaluation, last)}."


def beyond(evaluation: Evaluation, t: int) -> str:
    later = [row for row in evaluation.by_t if row.t > t]
    known = any(evaluation.knows(row) or evaluation.informs(row) for row in later)
    return "; beyond that its gradient is noise" if later and not known else ""


def use(evaluation: Evaluation) -> str:
    """What that means for sampling, how much it tells, and how calibrated it is."""
    helping = [row for row in evaluation.by_t if evaluation.informs(row)]
    worst = max(helping, key=lambda row: row.ece)
    half = [row.t for row in helping if row.nll <= evaluation.guess.nll / 2]
    tells = f"It tells at least half of the {evaluation.guess.nll:.2f} nats that there are to know up to t = {half[-1]}; its" \
        if half else "Its"
    return (f"Sampling goes from t = {evaluation.schedule.T - 1} down to 0: the classifier helps at "
            f"{percent(evaluation.share)} of the steps. "
            f"{tells} confidence is off by up to {worst.ece:.2f} where it helps (at t = {worst.t}).")


def comparison(one: Evaluation, other: Evaluation) -> str:
    """Which of the two is better, level by level."""
    wins = sum(mine.nll < theirs.nll for mine, theirs in zip(one.rows, other.rows))
    told = f"{one.name} has the lower NLL at {wins} of {len(one.rows)} levels. It helps at {percent(one.share)} of the " \
           f"sampling steps, {other.name} at {percent(other.share)}."
    if not one.schedule.same_as(other.schedule):
        told += (f" They are of different noise schedules ({one.schedule}; {other.schedule}): each saw its own, so that the "
                 f"same t/T is not the same noise.")
    return told


def in_words(spans: Sequence[tuple[int, int]]) -> str:
    """ "from t = 0 to 400 and at t = 600" """
    parts = [f"at t = {first}" if first == last else f"from t = {first} to {last}" for first, last in spans]
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])


def percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def table(evaluations: Sequence[Evaluation]) -> str:
    """A line a level, the classifiers side by side; two stand under their names. At last, what guessing gets."""
    T = evaluations[0].schedule.T
    blocks = [["  t/T", *(f"{row.t / T:5.2f}" for row in evaluations[0].rows), "guess"]]
    for evaluation in evaluations:
        lines = block(evaluation)
        blocks.append([shortened(evaluation.name, len(lines[0]) - 2).center(len(lines[0])), *lines])
    if len(evaluations) == 1:
        blocks[1].pop(0)
    else:
        blocks[0].insert(0, " " * 5)
    return "\n".join((" |" if len(evaluations) > 1 else "").join(cells).rstrip() for cells in zip(*blocks))


def block(evaluation: Evaluation) -> list[str]:
    """A classifier's header and its lines."""
    shown = [column for column in COLUMNS if getattr(evaluation.rows[0], column[0]) is not None]
    lines = ["".join(f"{getattr(row, name):>{width}{form}}" for name, _, width, form in shown) for row in evaluation.rows]
    known = asdict(evaluation.guess)
    guess = "".join(f"{known[name]:>{width}{form}}" if name in known else " " * width for name, _, width, form in shown)
    return ["".join(f"{head:>{width}}" for _, head, width, _ in shown), *lines, guess]


def shortened(name: str, width: int) -> str:
    return name if len(name) <= width else "..." + name[3 - width:]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    return {"schedule": evaluation.schedule.to_config(), "verdict": verdict(evaluation),
            "informs": evaluation.spans(evaluation.informs), "overconfident": evaluation.spans(evaluation.overconfident),
            "share_of_steps": evaluation.share, "knows_clean_images_only": evaluation.knows_clean_images_only,
            "levels": [{"level": row.t / evaluation.schedule.T, **asdict(row)} for row in evaluation.rows]}


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

    names = [Line2D([], [], color=colour, marker="o", markersize=3.5, label=shortened(evaluation.name, 30))
             for evaluation, colour in zip(evaluations, COLOURS)]
    top5 = [Line2D([], [], color="black", linewidth=0.8, label="top-5")] * (evaluations[0].rows[0].top5 is not None)
    return [*names, *top5, Line2D([], [], color="grey", linestyle=":", linewidth=1.5, label="guessing"),
            Patch(color=COLOURS[0] if len(evaluations) == 1 else "grey", alpha=0.15, label="tells the class")]
