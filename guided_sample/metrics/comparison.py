"""Samples compared with a reference by one network's features: how far, how much of each the other covers, and the floor."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.features import Features, features_of
from guided_sample.metrics.frechet import Moments, frechet_distance, frechet_infinity, moments
from guided_sample.metrics.inception_score import inception_score
from guided_sample.metrics.kernel import kernel_distance
from guided_sample.metrics.measures import Measures
from guided_sample.metrics.neighbours import precision_recall, precision_recall_by_class
from guided_sample.metrics.pictures import Pictures
from guided_sample.metrics.references import Reference
from noisy_clf.class_names import same_classes

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
        theirs = {kind: stored[kind] if kind in stored else moments(known(real).chunks(kind)) for kind in self.extractor.kinds}
        self.warn(len(theirs["pool"].mean))
        scaled = self.scaling(theirs["pool"])
        self.distances(mine, theirs, scaled)
        samples = scaled(mine.whole("pool"))
        if self.asked.wants("FD_infinity") and (beyond := frechet_infinity(samples, of_scaled(theirs["pool"], scaled))):
            self.found.metrics[self.named("FD_infinity")], self.found.errors[self.named("FD_infinity")] = beyond
        if real is None:
            self.found.warnings.append(f"{self.reference.name} has moments and no images: no KID, precision, recall or floor.")
            return
        others = scaled(real.whole("pool"))
        self.pairs(samples, others)
        self.floor(real, others)
        self.classes(samples, others)

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
        for kind, metrics in (("pool", ("FID", "FD")), ("spatial", ("sFID",))):
            if kind in self.extractor.kinds and self.asked.wants(*metrics):
                rescale = scaled if kind == "pool" else lambda features: features
                distance = frechet_distance(moments(map(rescale, mine.chunks(kind))), of_scaled(theirs[kind], rescale))
                self.found.metrics[self.named("FD") if kind == "pool" else "sFID"] = distance

    def pairs(self, samples: np.ndarray, others: np.ndarray) -> None:
        if self.asked.wants("KID"):
            name = self.named("KD")
            self.found.metrics[name], self.found.errors[name] = kernel_distance(samples, others)
        if self.asked.wants("precision", "recall") and min(len(samples), len(others)) > NEIGHBOURS:
            found = precision_recall(others, samples, NEIGHBOURS)
            self.found.metrics |= dict(zip((self.named("precision"), self.named("recall")), found))

    def floor(self, real: Features, others: np.ndarray) -> None:
        """Real against real: as many as there are samples, or half, drawn once and for all, against those that are left."""
        n = min(len(self.pictures), len(others) // 2)
        if n <= NEIGHBOURS:
            return
        order = np.random.default_rng(0).permutation(len(others))
        some, rest = np.sort(order[:n]), np.sort(order[n:])
        floor: dict[str, float] = {"N": n}
        if self.asked.wants("FID", "FD"):
            floor[self.named("FD")] = frechet_distance(moments([others[some]]), moments([others[rest]]))
        if "spatial" in self.extractor.kinds and self.asked.wants("sFID"):
            spatial = real.whole("spatial")
            floor["sFID"] = frechet_distance(moments([spatial[some]]), moments([spatial[rest]]))
        if self.asked.wants("precision", "recall"):
            found = precision_recall(others[rest], others[some], NEIGHBOURS)
            floor |= dict(zip((self.named("precision"), self.named("recall")), found))
        self.found.floor |= floor

    def classes(self, samples: np.ndarray, others: np.ndarray) -> None:
        """Precision and recall of each class by itself, where both sides tell the same classes."""
        ours, theirs = self.pictures, self.reference.pictures
        if theirs is None or ours.labels is None or theirs.labels is None or not self.asked.wants("precision", "recall") \
                or not ours.class_names or not same_classes(ours.class_names, theirs.class_names):
            return
        K = len(ours.class_names)
        precision, recall = precision_recall_by_class(others, theirs.labels, samples, ours.labels, K, NEIGHBOURS)
        self.found.by_class |= {"class_names": list(ours.class_names), "precision": numbers(precision),
                                "recall": numbers(recall)}

    def warn(self, d: int) -> None:
        """Of d features."""
        N, warnings = len(self.pictures), self.found.warnings
        if self.extractor.name == "inception" and N < COMPARED_FROM:
            warnings.append(f"{N} samples are few: FID has a bias that falls with 1/N, so that FID-{thousands(N)} compares "
                            f"only with others of as many; papers take 50,000, at least 10,000.")
        elif N < 2 * d:
            warnings.append(f"{N} samples for {d} features are few: the distance is mostly bias; look at it over its floor.")
        if self.asked.wants("KID") and self.in_turn:
            warnings.append("the samples' classes were drawn in turn and not at random, so that KID comes out too low: it is "
                            "without a bias for --class random.")

    @property
    def in_turn(self) -> bool:
        """Whether there are as many samples of each class: more evenly spread than chance does it."""
        labels = self.pictures.labels
        return labels is not None and len(labels) >= 20 and int(np.ptp(np.unique(labels, return_counts=True)[1])) <= 1


def known(real: Features | None) -> Features:
    assert real is not None  # Reference.moments_by has refused one without moments or images
    return real


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


def numbers(values: np.ndarray) -> list[float | None]:
    """As JSON has them: NaN is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def thousands(N: int) -> str:
    return f"{N // 1000}k" if N >= 1000 and N % 1000 == 0 else str(N)
