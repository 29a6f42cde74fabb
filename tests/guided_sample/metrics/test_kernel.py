from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from guided_sample.metrics import kernel
from guided_sample.metrics.kernel import kernel_distance
from noisy_clf.errors import UserError


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive(a: np.ndarray, b: np.ndarray) -> float:
    """Pair by pair."""
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x.astype(np.float64) @ y) / len(x) + 1) ** 3

    def within(x: np.ndarray) -> float:
        return float(np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(a) + within(b) - 2 * float(np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize("rows", (7, 500))
def test_all_pairs_of_different_images(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "ROWS", rows)
    a, b = normal(1, 40, 9) + 0.5, 1.3 * normal(2, 27, 9)
    assert_allclose(kernel_distance(a, b)[0], naive(a, b), rtol=1e-5)
    assert_allclose(kernel_distance(b, a), kernel_distance(a, b), rtol=1e-6)


def test_a_known_distance() -> None:
    """Of Gaussians N(0, I) and N(m, I), by the moments of z = x.y/d: E (z + 1)^3 = 1 + 3 E z + 3 E z^2 + E z^3."""
    d, m = 4, np.full(4, 0.8)

    def expected(p: np.ndarray, q: np.ndarray) -> float:
        """x ~ N(p, I), y ~ N(q, I): given x, x.y ~ N(x.q, |x|^2); E (x.q)^3 + 3 E x.q |x|^2 and so on."""
        pq, pp, qq = p @ q, p @ p, q @ q
        first, second = pq, pq ** 2 + qq + pp + d
        third = pq ** 3 + 3 * pq * qq + 3 * (pq * (pp + d) + 2 * pq)
        return 1 + 3 * first / d + 3 * second / d ** 2 + third / d ** 3

    zero = np.zeros(d)
    known = expected(zero, zero) + expected(m, m) - 2 * expected(zero, m)
    value, error = kernel_distance(normal(1, 5000, d), normal(2, 5000, d) + m.astype(np.float32))
    assert abs(value - known) < 3 * error < 0.2 * known


@pytest.mark.parametrize("shift", (0.0, 0.3))
def test_it_is_unbiased_and_its_error_is_what_it_says(shift: float) -> None:
    """60 draws of 100 images a side; the truth by ever more of them. Of equal distributions the error is the larger one."""
    drawn = [kernel_distance(normal(2 * i, 100, 16), normal(2 * i + 1, 100, 16) + np.float32(shift)) for i in range(60)]
    values, errors = np.array(drawn).T
    true = kernel_distance(normal(200, 5000, 16), normal(201, 5000, 16) + np.float32(shift))[0] if shift else 0
    assert abs(values.mean() - true) < 3.5 * values.std() / np.sqrt(60)
    assert 0.75 < errors.mean() / values.std() < (1.3 if shift else 2.5)


def test_many_images_are_compared_by_subsets_that_the_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(1, 900, 16), normal(2, 300, 16) + np.float32(0.3)
    exact, error = kernel_distance(a, b)
    monkeypatch.setattr(kernel, "EXACT", 899)
    monkeypatch.setattr(kernel, "SUBSET_SIZE", 200)
    value, its_error = kernel_distance(a, b)
    assert (value, its_error) == kernel_distance(a, b) and value != kernel_distance(a, b, seed=1)[0]
    assert value != exact and abs(value - exact) < error
    assert error < its_error < 1.3 * error
    monkeypatch.setattr(kernel, "SUBSETS", 4)
    few = [kernel_distance(a, b, seed) for seed in range(20)]  # whose drawing adds to the error
    assert np.mean([value[1] for value in few]) > np.hypot(its_error, 0.7 * np.std([value[0] for value in few]))


def test_one_image_is_refused() -> None:
    with pytest.raises(UserError, match="1 and 10 images"):
        kernel_distance(normal(1, 1, 5), normal(2, 10, 5))
