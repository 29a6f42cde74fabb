"""How good are samples? All that is asked of them against one reference, as ADM's evaluator and others have defined it."""
from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guided_sample.labels import word_of
from guided_sample.manifest import Manifest
from guided_sample.metrics.comparison import Comparison, Found, numbers_or_null, score
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.extractors import extractor_named
from guided_sample.metrics.features import features_of
from guided_sample.metrics.judge import Judge, Judgement, implied_judge, judged, load_judge, warnings_of
from guided_sample.metrics.measures import METRICS, OF_INCEPTION, Measures, measures_told
from guided_sample.metrics.pictures import Pictures, pictures_at
from guided_sample.metrics.references import Reference, implied_reference, reference_named, refuse_misfit
from guided_sample.metrics.words import thousands
from noisy_clf.datasets import DATASETS
from noisy_clf.errors import UserError
from noisy_clf.execution import exact_float32, pick_device
from noisy_clf.files import read_json, versions, write_json

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
        asked = filled(self.measures, pictures.name, pictures.manifest)
        place = beside(pictures, samples, EVALUATION)
        found = with_earlier(place, self.measured(pictures, asked))
        write_json(place, found)
        if found["by_class"].get("confusion"):
            from guided_sample.metrics.confusion_picture import draw_confusion

            draw_confusion(np.array(found["by_class"]["confusion"]), tuple(found["by_class"]["class_names"]),
                           beside(pictures, samples, CONFUSION))
        if asked.cas is not None:  # the last: it may take an hour, or be refused
            self.score_by_training(asked.cas, pictures, found)
            write_json(place, found)
        return found

    def check(self, manifest: Manifest | None, shape: tuple[int, int, int], labelled: bool) -> None:
        """UserError for what can be told of samples of that shape (H, W, C) before they are drawn."""
        asked = filled(self.measures, "the run", manifest)
        self.reference(asked, "the samples", shape)
        if (judge := self.judge(asked, shape)) and manifest is not None:
            warnings_of(str(asked.judge), judge.digest, manifest)
        if "agreement" in asked.metrics and not labelled:
            raise UserError("agreement is what a judge sees of the classes asked for, and samples of none are drawn.")

    def measured(self, pictures: Pictures, asked: Measures) -> dict[str, Any]:
        found, digests = Found(), {"samples": pictures.digest} | (pictures.manifest.digests if pictures.manifest else {})
        told: dict[str, Any] = {"samples": pictures.name, "N": len(pictures), "measures": measures_told(self.measures)}
        reference, judge = self.reference(asked, pictures.name, pictures.shape), self.judge(asked, pictures.shape)
        if judge is not None and asked.wants("agreement") and self.of_classes(pictures, asked, found):
            found.warnings += warnings_of(str(asked.judge), judge.digest, pictures.manifest) if pictures.manifest else []
            judge_samples(judge, pictures, self.device, found)
            digests["judge"], told["judge"] = judge.digest, asked.judge
        if asked.wants("similarity"):
            for kind, values in pictures.similarities.items():
                found.metrics[f"similarity[{kind}]"] = float(values.mean())
                found.errors[f"similarity[{kind}]"] = float(values.std() / math.sqrt(len(values)))
        if "similarity" in asked.metrics and not pictures.similarities:
            found.warnings.append(f"{pictures.name} tells no similarity of each sample: were they guided by --like, --style or "
                                  f"--text?")
        scored = asked.features in (None, "inception") and asked.wants("IS") and (reference is not None or bool(asked.metrics))
        if scored or reference is not None:
            extractor = self.extractor(asked, judge)
            digests[extractor.name], told["features"] = extractor.digest, {extractor.name: extractor.digest}
            if scored:
                score(features_of(pictures, extractor), extractor, asked.is_order, found)
        if reference is not None:
            Comparison(asked, extractor, pictures, reference, found).measure()
            digests["reference"] = reference.digest
            told["reference"] = {"name": reference.name, "digest": reference.digest, "N": reference.N}
        measured = {one.partition("[")[0] for one in found.metrics}
        if lacking := [name for name in asked.metrics if name not in ("CAS", "similarity") and not measured & CALLED[name]]:
            found.warnings.append(f"{', '.join(lacking)} could not be measured: see what is said of the reference, the judge "
                                  f"and the number of samples.")
        return told | {"metrics": found.metrics, "errors": found.errors, "floor": found.floor,
                       "names": {name: f"{name}-{thousands(pictures.labelled if name == 'agreement' else len(pictures))}"
                                 for name in found.metrics},
                       "by_class": found.by_class, "digests": digests, "warnings": found.warnings, "versions": versions()}

    def of_classes(self, pictures: Pictures, asked: Measures, found: Found) -> bool:
        """Whether samples have classes to be judged by; where that is what was asked, judging refuses those without."""
        if pictures.labels is not None or "agreement" in asked.metrics or self.measures.judge and asked.features != "judge":
            return True
        if self.measures.judge or pictures.manifest and word_of(pictures.manifest.request.get("class")) != "none":
            found.warnings.append(f"{pictures.name} has no labels: no agreement.")
        return False

    def reference(self, asked: Measures, samples: str, shape: tuple[int, int, int]) -> Reference | None:
        """None where nothing that is asked for needs one."""
        if asked.reference is None or not asked.wants("FID", "sFID", "FD", "KID", "FD_infinity", "precision", "recall"):
            return None
        _, W, C = shape
        key = asked.reference, W, C
        if key not in self.references:
            self.references[key] = reference_named(asked.reference, W, C, asked.data)
        refuse_misfit(samples, shape, self.references[key])
        return self.references[key]

    def judge(self, asked: Measures, shape: tuple[int, int, int]) -> Judge | None:
        """None where nothing that is asked for needs one."""
        if asked.judge is None or not (asked.wants("agreement") or asked.features == "judge"):
            return None
        _, W, C = shape
        key = asked.judge, W, C
        if key not in self.judges:
            self.judges[key] = load_judge(asked.judge, W, C)
        return self.judges[key]

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

    def score_by_training(self, dataset: str, pictures: Pictures, found: dict[str, Any]) -> None:
        from guided_sample.metrics.cas import classification_accuracy_score, examination
        from noisy_clf.datasets import load_dataset

        _, W, C = pictures.shape
        data = load_dataset(dataset, W, self.measures.data, grey=C == 1 and dataset not in DATASETS)
        found["warnings"] += left_out(pictures, "CAS")
        found["metrics"]["CAS"] = classification_accuracy_score(pictures, data, self.device)
        found["names"]["CAS"] = f"CAS-{thousands(pictures.labelled)}"
        found["digests"]["CAS"] = examination(data)


def filled(measures: Measures, samples: str, manifest: Manifest | None) -> Measures:
    """With what the samples' manifest implies, where nothing is said. UserError where nothing is left to measure."""
    reference = measures.reference or (implied_reference(manifest) if manifest else None)
    judge = measures.judge or (implied_judge(manifest) if manifest else None)
    bundled = judge is not None and measures.reference is None and measures.judge is None
    by_judge = bundled and measures.weights is None and not set(measures.metrics) & set(OF_INCEPTION)
    if "agreement" in measures.metrics and judge is None:
        raise UserError("agreement is what a judge sees of the classes that were asked for; name one by --judge.")
    if reference is None and judge is None and measures.cas is None and not {"IS", "similarity"} & set(measures.metrics):
        raise UserError(f"{samples} does not tell what it should be compared with; give a --reference, a --judge, or both.")
    return replace(measures, reference=reference, judge=judge, features=measures.features or ("judge" if by_judge else None))


def judge_samples(judge: Judge, pictures: Pictures, device: torch.device, found: Found) -> None:
    seen: Judgement = judged(pictures, judge.classifier, device)
    found.warnings += left_out(pictures, "agreement")
    found.metrics["agreement"], N = seen.agreement, len(seen.asked)
    p = (seen.agreement * N + 2) / (N + 4)  # 40 of 40 are not without error (Agresti & Coull 1998)
    found.errors["agreement"] = math.sqrt(p * (1 - p) / (N + 4))
    found.by_class |= {"class_names": list(seen.class_names), "agreement": numbers_or_null(seen.agreement_by_class),
                       "confusion": seen.confusion.tolist()}


def left_out(pictures: Pictures, metric: str) -> list[str]:
    """A warning, where some have no label."""
    N, count = len(pictures), len(pictures) - pictures.labelled
    return [f"{count} of {N} samples were asked for no one class; {metric} leaves them out."] * bool(count)


def with_earlier(place: Path, found: dict[str, Any]) -> dict[str, Any]:
    """With what was measured before of the same samples against the same reference, by the same networks, and not now."""
    with suppress(UserError, KeyError, TypeError, AttributeError):  # none there, or none of ours
        before = read_json(place)
        digests = before["digests"]
        if digests["samples"] == found["digests"]["samples"] and all(
                digests.get(key, digest) == digest for key, digest in found["digests"].items()) and before["N"] == found["N"]:
            found = {key: before[key] for key in ("reference", "judge") if key in before} | found
            for key in ("features", "metrics", "errors", "floor", "names", "by_class", "digests"):
                found[key] = before.get(key, {}) | found.get(key, {})
    return found


def beside(pictures: Pictures, samples: Path, name: str) -> Path:
    """Where what is told of samples goes: into their run's folder; beside an archive or a folder of pictures, by its name."""
    return samples / name if pictures.manifest else samples.with_name(f"{samples.resolve().stem}.{name}")
