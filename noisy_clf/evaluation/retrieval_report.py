"""An encoder's retrieval in words, as a table and as JSON: up to which noise can be guided by similarity with it?"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from noisy_clf.evaluation.judgement import VISIBLE, in_order, share_of, spans
from noisy_clf.evaluation.report import ending, written
from noisy_clf.evaluation.retrieval import Retrieval
from noisy_clf.schedule import NoiseSchedule

SIGNIFICANT = 2  # standard errors
COLUMNS = (("t", "t", 6, "d"), ("top1", "top-1", 8, ".1%"), ("top5", "top-5", 8, ".1%"), ("own", "own", 8, ".3f"),
           ("others", "others", 8, ".3f"))


@dataclass(frozen=True)
class Found:
    """What was found of one encoder: `rows`, one for each level that was asked for, among `images` images."""

    name: str
    schedule: NoiseSchedule
    rows: tuple[Retrieval, ...]
    images: int

    @property
    def chance(self) -> float:
        """How often an encoder that sees nothing finds an image first."""
        return 1 / self.images

    @property
    def by_t(self) -> list[Retrieval]:
        return in_order(self.rows)

    def carries(self, row: Retrieval) -> bool:
        """Whether images are found more often than by chance, by 2 standard errors."""
        return row.top1 > self.chance + SIGNIFICANT * math.sqrt(self.chance * (1 - self.chance) / self.images)

    def spans(self, holds: Callable[[Retrieval], bool]) -> list[tuple[int, int]]:
        """(first t, last t) of each run of neighbouring levels at which it holds."""
        return spans(self.by_t, holds)

    @property
    def share(self) -> float:
        """Of the T sampling steps, those at which it carries something."""
        return share_of(self.spans(self.carries), self.schedule.T)


def verdict(found: Found) -> list[str]:
    """Where does it see the image? A sentence for each thing that there is to say."""
    T, alpha_bar = found.schedule.T, found.schedule.alpha_bar
    carried = [row for row in found.by_t if found.carries(row)]
    lost = [row for row in found.by_t if not found.carries(row)]
    half = [row.t for row in found.by_t if row.top1 >= 0.5]
    if not carried:
        return [f"It carries nothing at any noise level: chance finds 1 of {found.images}, and so does it; guidance by "
                f"similarity with it will not work."]
    told = [f"It carries something at t = {written(found.spans(found.carries))} of {T}, down to alpha_bar = "
            f"{alpha_bar[carried[-1].t]:.2g}: at {found.share:.1%} of the sampling steps."]
    if half:
        told.append(f"It finds at least half of the images up to t = {half[-1]}.")
    if lost:
        told.append(f"It carries nothing at t = {written(found.spans(lambda row: not found.carries(row)))}: there it finds no "
                    f"more images than chance, 1 of {found.images}.")
    if any(alpha_bar[row.t] >= VISIBLE for row in lost):
        told.append("So sees an encoder that learned on clean images only, or too little: tune it with train-noisy-encoder, or "
                    "guide with it at x0_hat alone (--see x0).")
    return told


def comparison(one: Found, other: Found) -> str:
    """Which of the two finds more, level by level."""
    wins = sum(mine.top1 > theirs.top1 for mine, theirs in zip(one.rows, other.rows))
    losses = sum(mine.top1 < theirs.top1 for mine, theirs in zip(one.rows, other.rows))
    told = f"{one.name} finds more images at {wins} of {len(one.rows)} levels and fewer at {losses}; it carries something at " \
           f"{one.share:.1%} of the sampling steps, {other.name} at {other.share:.1%}."
    if not one.schedule.same_as(other.schedule):
        told += (f" They are of different noise schedules ({one.schedule}; {other.schedule}): each saw its own, so that the "
                 f"same t/T is not the same noise.")
    return told


def table(found: Sequence[Found]) -> str:
    """A line a level, the encoders side by side; two stand under their names. At last, what chance gets."""
    T = found[0].schedule.T
    blocks = [["  t/T", *(f"{row.t / T:5.2f}" for row in found[0].rows), "chance"]]
    for one in found:
        lines = block(one)
        blocks.append([ending(one.name, len(lines[0]) - 2).center(len(lines[0])), *lines])
    blocks[0] = [cell.ljust(6) for cell in ["", *blocks[0]]]
    between = " |" if len(found) > 1 else ""
    lines = [between.join(cells).rstrip() for cells in zip(*blocks)]
    return "\n".join(lines if len(found) > 1 else lines[1:])


def block(found: Found) -> list[str]:
    """An encoder's header and its lines."""
    shown = [column for column in COLUMNS if getattr(found.rows[0], column[0]) is not None]
    lines = ["".join(f"{getattr(row, name):>{width}{form}}" for name, _, width, form in shown) for row in found.rows]
    chance = {"top1": found.chance, "top5": 5 * found.chance}
    return ["".join(f"{head:>{width}}" for _, head, width, _ in shown), *lines,
            "".join(f"{chance[name]:>{width}{form}}" if name in chance else " " * width for name, _, width, form in shown)]


def as_json(found: Found) -> dict[str, Any]:
    return {"schedule": found.schedule.to_config(), "verdict": verdict(found), "carries": found.spans(found.carries),
            "share_of_steps": found.share,
            "levels": [{"level": row.t / found.schedule.T, **asdict(row)} for row in found.rows]}
