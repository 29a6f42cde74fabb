"""An evaluation in words, as a table and as JSON: is this classifier good enough to guide with, and at which noise?"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from noisy_clf.evaluation.by_noise_level import Quality
from noisy_clf.evaluation.judgement import Evaluation

CLEAN = 0.9  # alpha_bar above which the image is all but clean
COLUMNS = (("t", "t", 6, "d"), ("accuracy", "accuracy", 10, ".1%"), ("top5", "top-5", 8, ".1%"),
           ("nll", "NLL (nats)", 12, ".4f"), ("ece", "ECE", 7, ".3f"), ("gradient_norm", "gradient", 10, ".3g"))


def verdict(evaluation: Evaluation) -> list[str]:
    """Is it good enough to guide with? A sentence for each thing that there is to say."""
    rows, schedule, known = evaluation.by_t, evaluation.schedule, evaluation.guess.nll
    helping = [row for row in rows if evaluation.informs(row)]
    half = [row.t for row in helping if row.nll <= known / 2]
    told = []
    if helping:
        worst = max(helping, key=lambda row: row.ece)
        told.append(f"It helps at t = {ranges(evaluation, evaluation.informs)} of {schedule.T}, down to alpha_bar = "
                    f"{schedule.alpha_bar[helping[-1].t]:.2g}: at {evaluation.share:.1%} of the sampling steps.")
        told.append(f"Where it helps, its confidence is off by up to {worst.ece:.2f}, at t = {worst.t}.")
    else:
        told.append("It helps at no noise level: guidance with it will not work.")
    if half:
        told.append(f"It tells at least half of the {known:.2f} nats that there are to know up to t = {half[-1]}.")
    if any(map(evaluation.overconfident, rows)):
        told.append(f"It knows the class but is over-confident at t = {ranges(evaluation, evaluation.overconfident)}: its NLL "
                    f"is above the {known:.2f} nats of guessing by class frequency, and its gradient far too strong.")
    if any(map(evaluation.tells_nothing, rows)):
        told.append(f"It tells nothing at t = {ranges(evaluation, evaluation.tells_nothing)}: its gradient there is noise.")
    if schedule.alpha_bar[rows[0].t] > CLEAN and not evaluation.informs(rows[0]):
        told.append(f"At t = {rows[0].t} the image is all but clean: is it trained, and are its weights and the order of its "
                    f"classes right?")
    if evaluation.knows_clean_images_only:
        told.append("So behaves a classifier that learned on clean images only, or too little: train one on noised images, "
                    "with train-noisy-clf.")
    return told


def ranges(evaluation: Evaluation, holds: Callable[[Quality], bool]) -> str:
    """The t at which it holds: "0-400, 600"."""
    return written(evaluation.spans(holds))


def written(spans: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)


def comparison(one: Evaluation, other: Evaluation) -> str:
    """Which of the two is better, level by level."""
    wins = sum(mine.nll < theirs.nll for mine, theirs in zip(one.rows, other.rows))
    told = f"{one.name} has the lower NLL at {wins} of {len(one.rows)} levels; it helps at {one.share:.1%} of the sampling " \
           f"steps, {other.name} at {other.share:.1%}."
    if not one.schedule.same_as(other.schedule):
        told += (f" They are of different noise schedules ({one.schedule}; {other.schedule}): each saw its own, so that the "
                 f"same t/T is not the same noise.")
    return told


def table(evaluations: Sequence[Evaluation]) -> str:
    """A line a level, the classifiers side by side; two stand under their names. At last, what guessing gets."""
    T = evaluations[0].schedule.T
    blocks = [["  t/T", *(f"{row.t / T:5.2f}" for row in evaluations[0].rows), "guess"]]
    for evaluation in evaluations:
        lines = block(evaluation)
        blocks.append([ending(evaluation.name, len(lines[0]) - 2).center(len(lines[0])), *lines])
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


def ending(name: str, width: int) -> str:
    return name if len(name) <= width else "..." + name[3 - width:]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    return {"schedule": evaluation.schedule.to_config(), "verdict": verdict(evaluation),
            "informs": evaluation.spans(evaluation.informs), "overconfident": evaluation.spans(evaluation.overconfident),
            "share_of_steps": evaluation.share, "knows_clean_images_only": evaluation.knows_clean_images_only,
            "levels": [{"level": row.t / evaluation.schedule.T, **asdict(row)} for row in evaluation.rows]}
