"""How good are samples? All that is asked of them against one reference, as ADM's evaluator and others have defined it."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guided_sample.metrics.features import Extractor, Features, extractor_named, features_of
from guided_sample.metrics.frechet import Moments, frechet_distance, frechet_infinity, moments
from guided_sample.metrics.inception_score import inception_score
from guided_sample.metrics.judge import Judge, Judgement, implied_judge, judged, load_judge, warnings_of
from guided_sample.metrics.kernel import kernel_distance
from guided_sample.metrics.measures import METRICS, Measures
from guided_sample.metrics.neighbours import precision_recall, precision_recall_by_class
from guided_sample.metrics.pictures import Pictures, pictures_at
from guided_sample.metrics.references import Reference, implied_reference, reference_named, refuse_misfit
from noisy_clf.class_names import same_classes
from noisy_clf.errors import UserError
from noisy_clf.execution import exact_float32, pick_device
from noisy_clf.files import versions, write_json

EVALUATION, CONFUSION = "evaluation.json", "confusion.png"
SHOWN_BY_TEN_THOUSAND = 10_000  # samples from which on papers compare by FID
NEIGHBOURS = 3
CALLED = {name: {name} for name in METRICS} | {"FD": {"FD", "FID"}, "KID": {"KID", "KD"}}  # by whatever features
Standardised = Callable[[np.ndarray], np.ndarray]


@dataclass
class Found:
    """What was measured: figures, their errors and floors by the metrics' names, warnings, and what else is told."""

    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Evaluator:
    """Evaluates samples by the same measures: networks and references are loaded once, at first use."""

    def __init__(self, measures: Measures, device: str = "auto") -> None:
        self.measures, self.device_name = measures, device
        self.references: dict[tuple[str, int, int], Reference] = {}
        self.judges: dict[tuple[str, int, int], Judge] = {}
        self.extractors: dict[str, Extractor] = {}

    @cached_property
    def device(self) -> torch.device:
        exact_float32()
        return pick_device(self.device_name)

    def evaluate(self, samples: Path) -> dict[str, Any]:
        """Of the samples at a path: a run's folder, an .npz, a folder of pictures. Writes evaluation.json, and a picture of the
        confusion matrix, beside them; returns what it tells."""
        pictures = pictures_at(samples)
        found = self.measured(pictures)
        write_json(beside(samples, EVALUATION), found)
        if found.get("by_class", {}).get("confusion"):
            from guided_sample.metrics.confusion_picture import draw_confusion

            draw_confusion(np.array(found["by_class"]["confusion"]), tuple(found["by_class"]["class_names"]),
                           beside(samples, CONFUSION))
        return found

    def measured(self, pictures: Pictures) -> dict[str, Any]:
        asked = filled(self.measures, pictures)
        found, digests = Found(), {"samples": pictures.digest} | (pictures.manifest.digests if pictures.manifest else {})
        told: dict[str, Any] = {"samples": pictures.name, "N": len(pictures)}
        reference, judge = self.reference(asked, pictures), self.judge(asked, pictures)
        if judge is not None:
            found.warnings += judge.warnings
            digests["judge"] = judge.digest
            if asked.wants("agreement") and (pictures.labels is not None or self.measures.judge or self.measures.metrics):
                judge_samples(judge, pictures, self.device, found)
        if reference is not None and asked.wants("FID", "sFID", "IS", "FD", "KID", "FD_infinity", "precision", "recall"):
            extractor = self.extractor(asked, judge)
            Comparison(asked, extractor, pictures, reference, found).measure()
            digests |= {"reference": reference.digest, "features": extractor.digest}
            told |= {"features": {extractor.name: extractor.digest},
                     "reference": {"name": reference.name, "digest": reference.digest, "N": reference.N}}
        if asked.cas is not None:
            found.metrics["CAS"] = self.accuracy_score(asked.cas, pictures)
        if lacking := [name for name in asked.metrics if not {one.partition("[")[0] for one in found.metrics} & CALLED[name]]:
            found.warnings.append(f"{', '.join(lacking)} could not be measured: see what is said of the reference, the judge "
                                  f"and the number of samples.")
        names = {name: f"{name}-{thousands(len(pictures))}" for name in found.metrics}
        return told | {"metrics": found.metrics, "errors": found.errors, "floor": found.floor, "names": names, "by_class":
                       found.by_class, "digests": digests, "warnings": found.warnings, "versions": versions()}

    def reference(self, asked: Measures, pictures: Pictures) -> Reference | None:
        if asked.reference is None:
            return None
        H, W, C = pictures.shape
        key = asked.reference, W, C
        if key not in self.references:
            self.references[key] = reference_named(asked.reference, W, C, asked.data)
        refuse_misfit(pictures, self.references[key])
        return self.references[key]

    def judge(self, asked: Measures, pictures: Pictures) -> Judge | None:
        """UserError where it has guided these samples."""
        if asked.judge is None:
            return None
        _, W, C = pictures.shape
        key = asked.judge, W, C
        if key not in self.judges:
            self.judges[key] = load_judge(asked.judge, None, W, C)
        loaded = self.judges[key]
        return loaded._replace(warnings=warnings_of(asked.judge, loaded.digest, pictures.manifest) if pictures.manifest else [])

    def extractor(self, asked: Measures, judge: Judge | None) -> Extractor:
        name = asked.features or "inception"
        if name != "judge":
            if name not in self.extractors:
                self.extractors[name] = extractor_named(name, self.device, asked.weights)
            return self.extractors[name]
        if judge is None:
            raise UserError("the features are to be a judge's, and there is none; name one by --judge, or give other "
                            "--features.")
        if judge.digest not in self.extractors:
            from guided_sample.metrics.backbones import judge_extractor

            self.extractors[judge.digest] = judge_extractor(str(asked.judge), judge.classifier, judge.digest, self.device)
        return self.extractors[judge.digest]

    def accuracy_score(self, dataset: str, pictures: Pictures) -> float:
        from guided_sample.metrics.cas import classification_accuracy_score
        from noisy_clf.datasets import load_dataset

        _, W, C = pictures.shape
        return classification_accuracy_score(pictures, load_dataset(dataset, W, self.measures.data, grey=C == 1), self.device)


def filled(measures: Measures, pictures: Pictures) -> Measures:
    """With what the samples' manifest implies, where nothing is said. UserError where nothing is left to measure."""
    manifest = pictures.manifest
    reference = measures.reference or (implied_reference(manifest) if manifest else None)
    judge = measures.judge or (implied_judge(manifest) if manifest else None)
    own = judge is not None and measures.reference is None and measures.judge is None  # a bundled model's
    features = measures.features or ("judge" if own and measures.weights is None else None)
    if reference is None and judge is None and measures.cas is None:
        raise UserError(f"{pictures.name} does not tell what it should be compared with; give a --reference, a --judge, or "
                        f"both.")
    return replace(measures, reference=reference, judge=judge, features=features)


def judge_samples(judge: Judge, pictures: Pictures, device: torch.device, found: Found) -> None:
    seen: Judgement = judged(pictures, judge.classifier, device)
    found.metrics["agreement"] = seen.agreement
    found.errors["agreement"] = math.sqrt(seen.agreement * (1 - seen.agreement) / len(pictures))
    found.by_class |= {"class_names": list(seen.class_names), "agreement": numbers(seen.agreement_by_class),
                       "confusion": seen.confusion.tolist()}


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
        self.warn(theirs["pool"])
        scaled = self.scaling(theirs["pool"])
        self.distances(mine, theirs, scaled)
        if self.extractor.softmax is not None and self.asked.wants("IS"):
            value, error = inception_score(in_order(mine, self.asked.is_order), self.extractor.softmax)
            self.found.metrics["IS"], self.found.errors["IS"] = value, error
        samples = scaled(mine.whole("pool"))
        if self.asked.wants("FD_infinity") and (beyond := frechet_infinity(samples, of_scaled(theirs["pool"], scaled))):
            self.found.metrics[self.named("FD_infinity")], self.found.errors[self.named("FD_infinity")] = beyond
        if real is None:
            self.found.warnings.append(f"{self.reference.name} has moments and no images: no KID, precision, recall or floor.")
            return
        others = scaled(real.whole("pool"))
        self.pairs(samples, others)
        self.floor(real, others, len(samples), scaled)
        self.classes(samples, others)

    def named(self, metric: str) -> str:
        """FID and KID are Inception's alone."""
        if self.extractor.name == "inception":
            return {"FD": "FID", "KD": "KID"}.get(metric, metric)
        return f"{metric}[{self.extractor.name}]"

    def scaling(self, reference: Moments) -> Standardised:
        """A judge's features, whose scale means nothing, in the reference's standard deviations; others as they are."""
        if not self.extractor.name.startswith("judge:"):
            return lambda features: features
        deviation = np.sqrt(reference.covariance.diagonal())
        deviation = np.where(deviation > 0, deviation, 1).astype(np.float32)
        return lambda features: features / deviation

    def distances(self, mine: Features, theirs: dict[str, Moments], scaled: Standardised) -> None:
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

    def floor(self, real: Features, others: np.ndarray, N: int, scaled: Standardised) -> None:
        """Real against real: as many as there are samples, or half, drawn once and for all, against those that are left."""
        n = min(N, len(others) // 2)
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

    def warn(self, reference: Moments) -> None:
        N, d = len(self.pictures), len(reference.mean)
        if self.extractor.name == "inception" and N < SHOWN_BY_TEN_THOUSAND:
            self.found.warnings.append(
                f"{N} samples are few: FID has a bias that falls with 1/N, so that FID-{thousands(N)} compares only with "
                f"others of as many; papers take 50,000, at least 10,000.")
        elif N < 2 * d:
            self.found.warnings.append(
                f"{N} samples for {d} features are few: the distance is mostly bias; look at it over its floor.")
        if self.extractor.softmax is not None and N < 5000 and self.asked.wants("IS"):
            self.found.warnings.append(f"the Inception Score is of splits of 5000, and comes out low of {N} samples.")
        if self.asked.is_order == "shuffled":
            self.found.warnings.append("the Inception Score is of shuffled images; ADM's program takes them in file order.")
        if self.asked.wants("KID") and self.in_turn:
            self.found.warnings.append("the samples' classes were drawn in turn and not at random, so that KID comes out too "
                                       "low: it is without a bias for --class random.")

    @property
    def in_turn(self) -> bool:
        """Whether there are as many samples of each class: more evenly spread than chance does it."""
        labels = self.pictures.labels
        return labels is not None and len(labels) >= 20 and int(np.ptp(np.unique(labels, return_counts=True)[1])) <= 1


def known(real: Features | None) -> Features:
    assert real is not None  # Reference.moments_by has refused one without moments or images
    return real


def of_scaled(reference: Moments, scaled: Standardised) -> Moments:
    """Moments of features that are divided by something each."""
    by = scaled(np.ones(len(reference.mean), np.float32)).astype(np.float64)
    root = None if reference.root is None else reference.root * by
    return reference._replace(mean=reference.mean * by, covariance=reference.covariance * np.outer(by, by), root=root)


def in_order(features: Features, order: str) -> Iterable[np.ndarray]:
    if order == "file":
        return features.chunks("pool")
    return shuffled(features.whole("pool"))


def shuffled(features: np.ndarray) -> Iterator[np.ndarray]:
    yield features[np.random.default_rng(0).permutation(len(features))]


def beside(samples: Path, name: str) -> Path:
    """Where what is told of samples goes: into their folder, or beside an archive, after its name."""
    return samples / name if samples.is_dir() else samples.with_name(f"{samples.stem}.{name}")


def numbers(values: np.ndarray) -> list[float | None]:
    """As JSON has them: NaN is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def thousands(N: int) -> str:
    return f"{N // 1000}k" if N >= 1000 and N % 1000 == 0 else str(N)
