"""What an evaluation says of a classifier: at which noise levels it knows the class, informs, or is over-confident."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from noisy_clf.evaluation.by_noise_level import Quality
from noisy_clf.schedule import NoiseSchedule

SIGNIFICANT = 3  # standard errors
VISIBLE = 0.25  # alpha_bar at which half of the amplitude is image: who learned on noise still sees it well


class AtTimestep(Protocol):
    """What was found at timestep t."""

    @property
    def t(self) -> int: ...


Row = TypeVar("Row", bound=AtTimestep)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By t, one of each."""
    return sorted({row.t: row for row in rows}.values(), key=lambda row: row.t)


def spans(rows: Sequence[Row], holds: Callable[[Row], bool]) -> list[tuple[int, int]]:
    """(first t, last t) of each run of neighbouring rows, in order, at which it holds."""
    found: list[tuple[int, int]] = []
    before = False
    for row in rows:
        if holds(row):
            found.append((found.pop()[0] if before else row.t, row.t))
        before = holds(row)
    return found


def share_of(spans: Iterable[tuple[int, int]], T: int) -> float:
    """Of the T timesteps."""
    return sum(last - first + 1 for first, last in spans) / T


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
        shares = torch.bincount(labels, minlength=K).double() / len(labels)
        return cls(shares.max().item(), torch.special.entr(shares).sum().item())


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
        return in_order(self.rows)

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

    def tells_nothing(self, row: Quality) -> bool:
        return not self.knows(row) and not self.informs(row)

    def spans(self, holds: Callable[[Quality], bool]) -> list[tuple[int, int]]:
        """(first t, last t) of each run of neighbouring levels at which it holds."""
        return spans(self.by_t, holds)

    @property
    def share(self) -> float:
        """Of the T sampling steps, those at which the classifier helps."""
        return share_of(self.spans(self.informs), self.schedule.T)

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
