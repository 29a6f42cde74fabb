from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from guided_sample.metrics.inception_score import inception_score
from tests.guided_sample.metrics.evaluator_cases import CASES, drawn, theirs


@pytest.mark.parametrize("split_size", (5000, 200))
@pytest.mark.parametrize("name", CASES)
def test_adms_evaluator_finds_the_same(name: str, split_size: int) -> None:
    """Where it finds anything: its 0 log 0 is NaN."""
    _, samples, weight = drawn(name)
    found, known = inception_score([samples], weight, split_size)[0], theirs(f"{name}/is_{split_size}")
    assert_allclose(found, known, rtol=3e-7) if name != "big" else np.testing.assert_(np.isnan(known) and found > 100)


def one_hot(classes: np.ndarray) -> np.ndarray:
    """Features whose softmax by 1000 I is one-hot, to the last bit."""
    return np.eye(10, dtype=np.float32)[classes]


SURE = 1000 * np.eye(10, dtype=np.float32)


def test_sure_of_ten_classes_alike_it_is_ten_and_of_one_it_is_one() -> None:
    assert_allclose(inception_score([one_hot(np.arange(500) % 10)], SURE), (10, 0), rtol=1e-12, atol=1e-12)
    assert_allclose(inception_score([one_hot(np.full(500, 3))], SURE), (1, 0), rtol=1e-12, atol=1e-12)


def test_seeing_the_same_in_every_image_it_is_one() -> None:
    features = np.random.default_rng(1).standard_normal((500, 10)).astype(np.float32)
    assert_allclose(inception_score([features], np.zeros((10, 7), np.float32)), (1, 0), atol=1e-12)
    assert_allclose(inception_score([features[:1].repeat(500, axis=0)], SURE / 1000), (1, 0), atol=1e-12)


def test_splits_are_consecutive_and_the_ragged_one_weighs_as_much() -> None:
    """Sorted by class, whole splits see one class: 1; the last, of two images of two classes: 2."""
    classes = np.concatenate([np.zeros(20, int), np.ones(20, int), [3, 4]])
    assert_allclose(inception_score([one_hot(classes)], SURE, split_size=20), ((1 + 1 + 2) / 3, np.std([1, 1, 2])))


@pytest.mark.parametrize("split_size", (5000, 200, 64, 7))
def test_chunks_need_not_end_where_splits_do(split_size: int) -> None:
    _, samples, weight = drawn("gauss")
    whole = inception_score([samples], weight, split_size)
    for chunk in (1, 33, 200, 640):
        chunks = (samples[start:start + chunk] for start in range(0, len(samples), chunk))
        assert_allclose(inception_score(chunks, weight, split_size), whole, rtol=1e-6, atol=1e-12)


def test_order_matters_between_splits_and_not_within() -> None:
    _, samples, weight = drawn("gauss")
    shuffled = samples[np.random.default_rng(1).permutation(len(samples))]
    assert_allclose(inception_score([shuffled], weight), inception_score([samples], weight), rtol=1e-6, atol=1e-12)
    assert abs(inception_score([shuffled], weight, 200)[0] - inception_score([samples], weight, 200)[0]) > 0.01
