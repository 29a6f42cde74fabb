"""What is made of features: scales, floors, classes, warnings. The features are the pictures' pixels."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guided_sample.metrics.comparison import Comparison, Found
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.frechet import frechet_distance, moments
from guided_sample.metrics.kernel import kernel_distance
from guided_sample.metrics.measures import Measures
from guided_sample.metrics.neighbours import precision_recall
from guided_sample.metrics.pictures import Pictures
from guided_sample.metrics.references import Reference, of_pictures
from noisy_clf.errors import UserError

SIDE = 2
random = np.random.default_rng(0)


def pictures(folder: Path, name: str, N: int, around: float = 100, labels: np.ndarray | None = None,
             class_names: tuple[str, ...] = ()) -> Pictures:
    images = np.random.default_rng(len(name) + N).normal(around, 20, (N, SIDE, SIDE, 1)).clip(0, 255).astype(np.uint8)
    return Pictures(name, (SIDE, SIDE, 1), labels, class_names, lambda rows: images[rows.start:rows.stop], name, folder, N)


def extractor(name: str, scale: float | np.ndarray = 1.0) -> Extractor:
    return Extractor(name, f"{name}{np.sum(scale)}", ("pool",), lambda images: {
        "pool": (images.reshape(len(images), -1) * scale).astype(np.float32)})


def compared(by: Extractor, samples: Pictures, reference: Reference, *metrics: str) -> Found:
    found = Found()
    Comparison(Measures(metrics=metrics), by, samples, reference, found).measure()
    return found


def features(of: Pictures) -> np.ndarray:
    return of.read(range(len(of))).reshape(len(of), -1).astype(np.float32)


def test_figures_are_of_all_samples_against_all_of_the_reference(tmp_path: Path) -> None:
    samples, real = pictures(tmp_path, "samples", 60, around=110), pictures(tmp_path, "real", 90)
    found = compared(extractor("timm:x"), samples, of_pictures(real))
    x, y = features(samples), features(real)
    assert found.metrics["FD[timm:x]"] == pytest.approx(frechet_distance(moments([x]), moments([y])))
    assert (found.metrics["KD[timm:x]"], found.errors["KD[timm:x]"]) == kernel_distance(x, y)
    assert (found.metrics["precision[timm:x]"], found.metrics["recall[timm:x]"]) == precision_recall(y, x)
    assert found.metrics["FD_infinity[timm:x]"] < found.metrics["FD[timm:x]"]  # 60 is more than 8 times 4 features


def test_the_floor_is_of_disjoint_real_images_as_many_as_samples_or_half(tmp_path: Path) -> None:
    real = pictures(tmp_path, "real", 90)
    y = features(real)
    for N, n in ((20, 20), (60, 45)):
        floor = compared(extractor("timm:x"), pictures(tmp_path, "samples", N), of_pictures(real)).floor
        order = np.random.default_rng(0).permutation(90)
        some, rest = y[np.sort(order[:n])], y[np.sort(order[n:])]
        assert floor["N"] == n and not set(order[:n]) & set(order[n:])
        assert floor["FD[timm:x]"] == pytest.approx(frechet_distance(moments([some]), moments([rest])))
        assert (floor["precision[timm:x]"], floor["recall[timm:x]"]) == precision_recall(rest, some)


@pytest.mark.parametrize("name, same", [("judge:x", True), ("timm:x", False)])
def test_a_judges_features_count_in_the_references_deviations(tmp_path: Path, name: str, same: bool) -> None:
    samples, real = pictures(tmp_path, "samples", 60, around=110), of_pictures(pictures(tmp_path, "real", 90))
    one = compared(extractor(name), samples, real).metrics
    other = compared(extractor(name, np.array([1.0, 10.0, 0.1, 3.0])), samples, real).metrics
    for metric, value in one.items():
        assert (other[metric] == pytest.approx(value, rel=1e-3, abs=2e-2)) == same or metric.startswith(("precision", "recall"))
    if same:
        x, y = features(samples), features(real.pictures)  # type: ignore[arg-type]
        deviation = y.std(axis=0, ddof=1)
        by_hand = frechet_distance(moments([x / deviation]), moments([y / deviation]))
        assert one[f"FD[{name}]"] == pytest.approx(by_hand, rel=1e-4)


def test_moments_that_a_reference_brings_are_taken(tmp_path: Path) -> None:
    samples, real = pictures(tmp_path, "samples", 60), pictures(tmp_path, "real", 90)
    stored = moments([features(real) + 50])
    reference = Reference("stored", "", None, {"pool": stored}, None)
    found = compared(extractor("inception"), samples, reference, "FID")
    assert found.metrics == {"FID": pytest.approx(frechet_distance(moments([features(samples)]), stored))}
    assert found.floor == {} and any("moments and no images" in warning for warning in found.warnings)


def test_classes_are_compared_each_with_its_own(tmp_path: Path) -> None:
    names, y = ("a", "b"), np.arange(60) % 2
    samples, real = (pictures(tmp_path, name, 60, labels=y, class_names=names) for name in ("samples", "real"))
    by_class = compared(extractor("timm:x"), samples, of_pictures(real)).by_class
    for c in (0, 1):
        wanted = precision_recall(features(real)[y == c], features(samples)[y == c])
        assert (by_class["precision"][c], by_class["recall"][c]) == wanted
    reverse = replace(real, labels=1 - y, class_names=("b", "a"))
    assert compared(extractor("timm:x"), samples, of_pictures(reverse)).by_class == by_class  # by name
    some = replace(samples, labels=np.where(y == 1, -1, y)), of_pictures(replace(reverse, labels=np.where(y == 1, -1, 1)))
    assert compared(extractor("timm:x"), *some).by_class["recall"] == [by_class["recall"][0], None]  # no label is no class
    nameless = replace(real, class_names=())  # as an archive is
    assert compared(extractor("timm:x"), samples, of_pictures(nameless)).by_class == by_class
    others = compared(extractor("timm:x"), samples, of_pictures(replace(real, class_names=("c", "d"))))
    assert others.by_class == {} and any("not told by class" in warning for warning in others.warnings)


def test_moments_of_another_network_or_of_none_are_refused(tmp_path: Path) -> None:
    samples, y = pictures(tmp_path, "samples", 60), features(pictures(tmp_path, "real", 90))
    short = Reference("short", "", None, {"pool": moments([y[:, :3]])}, None)
    with pytest.raises(UserError, match="short has moments of 3 features, and inception tells 4"):
        compared(extractor("inception"), samples, short)
    spatial = replace(extractor("inception"), kinds=("pool", "spatial"), extract=lambda images: {
        kind: images.reshape(len(images), -1).astype(np.float32) for kind in ("pool", "spatial")})
    found = compared(spatial, samples, Reference("bare", "", None, {"pool": moments([y])}, None))
    assert set(found.metrics) == {"FID", "FD_infinity"} and any("no sFID" in warning for warning in found.warnings)
    with pytest.raises(UserError, match="neither images nor the moments"):
        compared(spatial, samples, Reference("odd", "", None, {"spatial": moments([y])}, None))


def test_few_samples_and_classes_in_turn_are_told(tmp_path: Path) -> None:
    real = of_pictures(pictures(tmp_path, "real", 90))
    labels = np.arange(40) % 4
    told = compared(extractor("timm:x"), pictures(tmp_path, "turns", 40, labels=labels), real, "FD", "KID").warnings
    assert len(told) == 1 and "KID comes out too low" in told[0]
    labelled = of_pictures(pictures(tmp_path, "real", 90, labels=np.arange(90) % 4, class_names=tuple("abcd")))
    one_class = pictures(tmp_path, "one", 40, labels=np.zeros(40, np.int64), class_names=tuple("abcd"))
    told = compared(extractor("timm:x"), one_class, labelled, "FD", "KID").warnings
    assert len(told) == 1 and "the samples show 1 of 4 classes, and real all of them" in told[0]
    told = compared(extractor("timm:x"), pictures(tmp_path, "few", 7), real).warnings
    assert len(told) == 1 and told[0].startswith("7 samples for 4 features are few")
    told = compared(extractor("inception"), pictures(tmp_path, "ours", 40), real, "FID").warnings
    assert len(told) == 1 and "FID-40 compares only with others of as many" in told[0]
