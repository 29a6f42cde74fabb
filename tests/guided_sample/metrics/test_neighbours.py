from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tqdm import tqdm

from guided_sample.metrics import neighbours
from guided_sample.metrics.neighbours import precision_recall, precision_recall_by_class, radii, squared_distances
from noisy_clf.errors import UserError
from tests.guided_sample.metrics.evaluator_cases import CASES, drawn, theirs


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive(reference: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, float]:
    """All distances at once, in float64, by their differences."""
    def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(x[:, None].astype(np.float64) - y).sum(axis=2)

    r, s = (np.sort(apart(x, x), axis=1)[:, k] for x in (reference, samples))
    across = apart(reference, samples)
    return (across <= r[:, None]).any(axis=0).mean(), (across <= s).any(axis=1).mean()


@pytest.mark.parametrize("name", CASES)
def test_adms_evaluator_finds_the_same(name: str) -> None:
    reference, samples, _ = drawn(name)
    assert precision_recall(reference, samples) == (theirs(f"{name}/precision_f32branch"), theirs(f"{name}/recall_f32branch"))
    for features, which in ((reference, "ref"), (samples, "sam")):  # whose radii are in float16
        assert_allclose(radii(features, 3, tqdm(disable=True)), theirs(f"{name}/radii_{which}"), rtol=4e-3)


@pytest.mark.parametrize("k", (1, 3, 5))
@pytest.mark.parametrize("block", (7, 32, 64, 2048))
def test_blocks_are_nothing_but_blocks(block: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    reference, samples = normal(1, 100, 6), 1.2 * normal(2, 71, 6) + 0.3
    assert precision_recall(reference, samples, k) == naive(reference, samples, k)


def test_the_reverse_and_any_order_and_rotation() -> None:
    reference, samples, turn = normal(1, 200, 8), 1.3 * normal(2, 150, 8), np.linalg.qr(normal(3, 8, 8))[0]
    precision, recall = precision_recall(reference, samples)
    assert precision_recall(samples, reference) == (recall, precision)
    assert precision_recall(reference[::-1], np.roll(samples, 40, axis=0)) == (precision, recall)
    assert precision_recall(reference @ turn, samples @ turn) == (precision, recall)


def test_identical_and_disjoint_sets() -> None:
    x = normal(1, 200, 8)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)


def test_one_mode_of_two_is_precise_and_recalls_half() -> None:
    reference = normal(1, 400, 4)
    reference[200:] += 1000
    precision, recall = precision_recall(reference, reference[:200])
    assert (precision, recall) == (1, 0.5)


def test_the_edge_belongs_to_a_ball_and_the_third_neighbour_is_meant() -> None:
    """On a line, whole numbers: 0, 1, 2, 3 has its third neighbour at 3, so its balls reach from -3 to 6."""
    reference = np.arange(4, dtype=np.float32)[:, None]
    samples = np.array([-3, 6, -4, 7], np.float32)[:, None]
    assert precision_recall(reference, samples)[0] == 0.5
    assert precision_recall(samples, reference)[1] == 0.5


def test_no_squared_distance_is_negative() -> None:
    """As rounding would have it, of copies far from 0."""
    x = normal(1, 300, 50) + 100
    assert squared_distances(x, x).min() == 0


def test_by_class_is_each_class_by_itself_and_nan_where_there_are_too_few() -> None:
    reference, samples = normal(1, 90, 5), 1.3 * normal(2, 80, 5)
    of_reference, of_samples = np.arange(90) % 3, np.arange(80) % 2
    of_samples[:3] = 2  # no more than three samples of class 2; none of 3
    precision, recall = precision_recall_by_class(reference, of_reference, samples, of_samples, 4)
    assert_array_equal(np.isnan(precision), [False, False, True, True])
    assert_array_equal(np.isnan(recall), [False, False, True, True])
    for c in (0, 1):
        assert (precision[c], recall[c]) == naive(reference[of_reference == c], samples[of_samples == c], 3)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match="3 real images and 10 samples"):
        precision_recall(normal(1, 3, 5), normal(2, 10, 5))
