"""Samples compared with a reference by one network's features: how far, how much of each the other covers, and the floor."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.features import Features, features_of
from guided_sample.metrics.frechet import Moments, frechet_distance, frechet_infinity, moments, of_these
from guided_sample.metrics.inception_score import inception_score
from guided_sample.metrics.kernel import kernel_distance
from guided_sample.metrics.measures import Measures
from guided_sample.metrics.neighbours import precision_recall, precision_recall_by_class
from guided_sample.metrics.pictures import Pictures
from guided_sample.metrics.references import Reference
from guided_sample.metrics.words import thousands
from noisy_clf.class_names import numbers_of
from noisy_clf.errors import UserError

COMPARED_FROM = 10_000  # samples, on which papers compare by FID
NEIGHBOURS = 3
SPLIT = 5000  # of the Inception Score
Scaling = Callable[[np.ndarray], np.ndarray]


@dataclass
class Found:
    """What was measured: figures, their errors and floors by the metrics' names, warnings, and what else is told."""

    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """Of pictures with a reference, by the features of one network."""

    asked: Measures
    extractor: Extractor
    pictures: Pictures
    reference: Reference
    found: Found

    def measure(self) -> None:
        stored = self.reference.moments_by(self.extractor)
        mine = features_of(self.pictures, self.extractor)
        real = features_of(self.reference.pictures, self.extractor) if self.reference.pictures is not None else None
        theirs = self.moments_of_reference(stored, mine, real)
        self.warn(len(theirs["pool"].mean))
        scaled = self.scaling(theirs["pool"])
        self.distances(mine, theirs, scaled)
        if real is None:
            self.found.warnings.append(f"{self.reference.name} has moments and no images: no KID, precision, recall or floor.")
        if not self.asked.wants("FD_infinity", "KID", "precision", "recall"):
            return self.floor(real, None, scaled)
        samples = scaled(mine.whole("pool"))
        if self.asked.wants("FD_infinity") and (beyond := frechet_infinity(samples, of_scaled(theirs["pool"], scaled))):
            self.found.metrics[self.named("FD_infinity")], self.found.errors[self.named("FD_infinity")] = beyond
        if real is not None:
            others = scaled(real.whole("pool"))
            self.pairs(samples, others)
            self.classes(samples, others)
            self.floor(real, others, scaled)

    def moments_of_reference(self, stored: dict[str, Moments], mine: Features, real: Features | None) -> dict[str, Moments]:
        """By kind of features: as its file has them, or of its images. UserError where they are not of such features."""
        found = {}
        for kind in ["pool"] + ["spatial"] * ("spatial" in self.extractor.kinds and self.asked.wants("sFID")):
            if kind not in stored and real is None:
                if kind == "spatial":
                    self.found.warnings.append(f"{self.reference.name} has no moments of spatial features (mu_s): no sFID.")
                    continue
                raise UserError(f"{self.reference.name} has neither images nor the moments (mu, sigma) of pooled features; "
                                f"make it again with make-reference.")
            found[kind] = stored[kind] if kind in stored else moments(real.chunks(kind))  # type: ignore[union-attr]
            if len(found[kind].mean) != (d := next(mine.chunks(kind)).shape[1]):
                raise UserError(f"{self.reference.name} has moments of {len(found[kind].mean)} features, and "
                                f"{self.extractor.name} tells {d}: they are another network's; give a reference of the same "
                                f"--features.")
        return found

    def named(self, metric: str) -> str:
        """FID and KID are Inception's alone."""
        if self.extractor.name == "inception":
            return {"FD": "FID", "KD": "KID"}.get(metric, metric)
        return f"{metric}[{self.extractor.name}]"

    def scaling(self, reference: Moments) -> Scaling:
        """A judge's features, whose scale means nothing, in the reference's standard deviations; others as they are."""
        if not self.extractor.name.startswith("judge:"):
            return lambda features: features
        deviation = np.sqrt(reference.covariance.diagonal())
        deviation = np.where(deviation > 0, deviation, 1).astype(np.float32)
        return lambda features: features / deviation

    def distances(self, mine: Features, theirs: dict[str, Moments], scaled: Scaling) -> None:
        if self.asked.wants("FID", "FD"):
            own = moments(map(scaled, mine.chunks("pool")))
            self.found.metrics[self.named("FD")] = frechet_distance(own, of_scaled(theirs["pool"], scaled))
        if "spatial" in theirs:
            self.found.metrics["sFID"] = frechet_distance(moments(mine.chunks("spatial")), theirs["spatial"])

    def pairs(self, samples: np.ndarray, others: np.ndarray) -> None:
        if self.asked.wants("KID"):
            self.found.metrics[self.named("KD")], self.found.errors[self.named("KD")] = kernel_distance(samples, others)
        if self.asked.wants("precision", "recall") and min(len(samples), len(others)) > NEIGHBOURS:
            found = precision_recall(others, samples, NEIGHBOURS)
            self.found.metrics |= dict(zip((self.named("precision"), self.named("recall")), found))

    def floor(self, real: Features | None, others: np.ndarray | None, scaled: Scaling) -> None:
        """Real against real: as many as there are samples, or half, drawn once and for all, against those that are left.

        others  all real features of the pool, scaled, where they are at hand
        """
        n = min(len(self.pictures), real.N // 2) if real else 0
        if real is None or n <= NEIGHBOURS:
            return
        order = np.random.default_rng(0).permutation(real.N)
        parts, floor = (order[:n], order[n:]), self.found.floor
        floor["N"] = n
        if self.asked.wants("FID", "FD"):
            pool = scaled(real.whole("pool")) if others is None else others
            floor[self.named("FD")] = frechet_distance(*(moments(of_these(pool, part)) for part in parts))
        if "sFID" in self.found.metrics:
            spatial = real.whole("spatial")
            floor["sFID"] = frechet_distance(*(moments(of_these(spatial, part)) for part in parts))
        if "IS" in self.found.metrics and self.extractor.softmax is not None:
            floor["IS"] = inception_score(of_these(real.whole("pool"), parts[0]), self.extractor.softmax, SPLIT)[0]
        if others is None:
            return
        some, rest = (others[np.sort(part)] for part in parts)
        if self.asked.wants("KID"):
            floor[self.named("KD")] = kernel_distance(some, rest)[0]
        if self.asked.wants("precision", "recall"):
            floor |= dict(zip((self.named("precision"), self.named("recall")), precision_recall(rest, some, NEIGHBOURS)))

    def classes(self, samples: np.ndarray, others: np.ndarray) -> None:
        """Precision and recall of each class by itself; an archive without names numbers its classes as the other side does."""
        ours, theirs = self.pictures, self.reference.pictures
        if theirs is None or ours.labels is None or theirs.labels is None or not self.asked.wants("precision", "recall"):
            return
        names = ours.class_names or theirs.class_names
        numbers = numbers_of(theirs.class_names or names, names)
        most = max(ours.labels.max(), theirs.labels.max())
        if numbers is None or not names or most >= len(names):
            self.found.warnings.append("precision and recall are not told by class: samples and reference have other classes.")
            return
        labels = np.array([*numbers, -1])[theirs.labels]
        found = precision_recall_by_class(others, labels, samples, ours.labels, len(names), NEIGHBOURS)
        self.found.by_class |= {"class_names": list(names)} | dict(zip(("precision", "recall"), map(numbers_or_null, found)))

    def warn(self, d: int) -> None:
        """Of d features."""
        N, warnings = len(self.pictures), self.found.warnings
        if self.extractor.name == "inception" and N < COMPARED_FROM:
            warnings.append(f"{N} samples are few: FID has a bias that falls with 1/N, so that FID-{thousands(N)} compares "
                            f"only with others of as many; papers take 50,000, at least 10,000.")
        elif N < 2 * d:
            warnings.append(f"{N} samples for {d} features are few: the distance is mostly bias; look at it over its floor.")
        ours, theirs = (len(np.unique(side.labels[side.labels >= 0])) if side is not None and side.labels is not None else 0
                        for side in (self.pictures, self.reference.pictures))
        if 0 < ours < theirs:
            warnings.append(f"the samples show {ours} of {theirs} classes, and {self.reference.name} all of them: distance and "
                            f"recall tell of that above all.")
        elif self.asked.wants("KID") and self.in_turn:
            warnings.append("the samples' classes were drawn in turn and not at random, so that KID comes out too low: it is "
                            "without a bias for --class random.")

    @property
    def in_turn(self) -> bool:
        """Whether there are as many samples of each class: more evenly spread than chance does it."""
        labels = self.pictures.labels
        return labels is not None and len(labels) >= 10 and int(np.ptp(np.unique(labels, return_counts=True)[1])) <= 1


def of_scaled(reference: Moments, scaled: Scaling) -> Moments:
    """Moments of features that are divided by something each."""
    by = scaled(np.ones(len(reference.mean), np.float32)).astype(np.float64)
    root = None if reference.root is None else reference.root * by
    return reference._replace(mean=reference.mean * by, covariance=reference.covariance * np.outer(by, by), root=root)


def score(features: Features, extractor: Extractor, order: str, found: Found) -> None:
    """The Inception Score, which needs no reference; in file order, or "shuffled", which ADM's program does not do."""
    if order == "shuffled":
        rows = features.whole("pool")
        chunks: Iterable[np.ndarray] = [rows[np.random.default_rng(0).permutation(len(rows))]]
        found.warnings.append("the Inception Score is of shuffled images; ADM's program takes them in file order.")
    else:
        chunks = features.chunks("pool")
    assert extractor.softmax is not None
    found.metrics["IS"], deviation = inception_score(chunks, extractor.softmax, SPLIT)
    if features.N > SPLIT:
        found.errors["IS"] = deviation
    if features.N < SPLIT:
        found.warnings.append(f"the Inception Score is of splits of {SPLIT}, and comes out low of {features.N} samples.")


def numbers_or_null(values: np.ndarray) -> list[float | None]:
    """As JSON has them."""
    return [float(value) if math.isfinite(value) else None for value in values]
