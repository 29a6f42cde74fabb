"""How good are samples? All that is asked of them against one reference, as ADM's evaluator and others have defined it."""
from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guided_sample.metrics.comparison import Comparison, Found, numbers, score, thousands
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.extractors import extractor_named
from guided_sample.metrics.features import features_of
from guided_sample.metrics.judge import Judge, Judgement, implied_judge, judged, load_judge, warnings_of
from guided_sample.metrics.measures import METRICS, Measures
from guided_sample.metrics.pictures import Pictures, pictures_at
from guided_sample.metrics.references import Reference, implied_reference, reference_named, refuse_misfit
from noisy_clf.errors import UserError
from noisy_clf.execution import exact_float32, pick_device
from noisy_clf.files import versions, write_json

EVALUATION, CONFUSION = "evaluation.json", "confusion.png"
CALLED = {name: {name} for name in METRICS} | {"FD": {"FD", "FID"}, "KID": {"KID", "KD"}}  # by whatever features


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
        compared = reference is not None and asked.wants("FID", "sFID", "FD", "KID", "FD_infinity", "precision", "recall")
        scored = asked.features in (None, "inception") and asked.wants("IS") and (compared or "IS" in asked.metrics)
        if compared or scored:
            extractor = self.extractor(asked, judge)
            digests["features"], told["features"] = extractor.digest, {extractor.name: extractor.digest}
            if scored:
                score(features_of(pictures, extractor), extractor, asked.is_order, found)
        if reference is not None and compared:
            Comparison(asked, extractor, pictures, reference, found).measure()
            digests["reference"] = reference.digest
            told["reference"] = {"name": reference.name, "digest": reference.digest, "N": reference.N}
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
    if reference is None and judge is None and measures.cas is None and "IS" not in measures.metrics:
        raise UserError(f"{pictures.name} does not tell what it should be compared with; give a --reference, a --judge, or "
                        f"both.")
    return replace(measures, reference=reference, judge=judge, features=features)


def judge_samples(judge: Judge, pictures: Pictures, device: torch.device, found: Found) -> None:
    seen: Judgement = judged(pictures, judge.classifier, device)
    found.metrics["agreement"] = seen.agreement
    found.errors["agreement"] = math.sqrt(seen.agreement * (1 - seen.agreement) / len(pictures))
    found.by_class |= {"class_names": list(seen.class_names), "agreement": numbers(seen.agreement_by_class),
                       "confusion": seen.confusion.tolist()}


def beside(samples: Path, name: str) -> Path:
    """Where what is told of samples goes: into their folder, or beside an archive, after its name."""
    return samples / name if samples.is_dir() else samples.with_name(f"{samples.stem}.{name}")
