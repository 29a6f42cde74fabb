from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from guided_sample.metrics import frechet
from guided_sample.metrics.frechet import Moments, frechet_distance, frechet_infinity, moments, root
from noisy_clf.errors import UserError
from tests.guided_sample.metrics.evaluator_cases import CASES, drawn, theirs


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def without_root(of: Moments) -> Moments:
    """What is read from a file."""
    return of._replace(root=None)


@pytest.mark.parametrize("name", CASES)
def test_adms_evaluator_draws_and_finds_the_same(name: str) -> None:
    """Its means are float32 and so is the square of their difference, which moves the distance in the sixth digit; with these,
    and where covariances are not singular (of which a matrix's square root is a noisy one), it is the same to the twelfth."""
    reference, samples, weight = drawn(name)
    for ours, corner in ((reference, "in_ref_8"), (samples, "in_sam_8"), (weight, "w_8")):
        assert_allclose(ours[:8, :8], theirs(f"{name}/{corner}"), rtol=1e-6)
    a, b = moments([reference]), moments([samples])
    assert_allclose(b.covariance.diagonal(), theirs(f"{name}/sigma_sam_diag"), rtol=1e-12)
    assert_allclose(b.mean, theirs(f"{name}/mu_sam"), rtol=1e-5, atol=1e-5)
    distance, fid = frechet_distance(a, b), theirs(f"{name}/fid")
    assert_allclose(distance, fid, rtol=3e-6)
    delta = theirs(f"{name}/mu_ref") - theirs(f"{name}/mu_sam")
    with_theirs = distance - np.square(a.mean - b.mean).sum() + float(delta.dot(delta))
    assert_allclose(with_theirs, fid, rtol=1e-12 if a.root is None else 1e-6)


@pytest.mark.parametrize("sizes", ([50], [1, 49], [20, 20, 10], [1] * 50))
@pytest.mark.parametrize("d", (7, 50, 80))
def test_moments_are_numpys_whatever_the_chunks(sizes: list[int], d: int) -> None:
    features = (normal(1, 50, d) + 1000).astype(np.float32)  # far from 0, where sums of squares would lose digits
    found = moments(np.split(features, np.cumsum(sizes)[:-1]))
    assert found.N == 50 and (found.root is not None) == (d > 50)
    assert_allclose(found.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-14)
    assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("d", (7, 50, 80))
def test_a_root_squared_is_the_covariance(d: int) -> None:
    found = moments([normal(1, 50, d)])
    for one in (found, without_root(found)):
        F = root(one)
        assert_allclose(F.T @ F, found.covariance, atol=1e-12)


def test_gaussians_with_commuting_covariances() -> None:
    """|m|^2 + sum (s_a - s_b)^2, of the spreads s along common axes; turned, it stays."""
    turn = np.linalg.qr(normal(1, 30, 30))[0]
    spread_a, spread_b, m = np.linspace(0.1, 3, 30), np.linspace(2, 0.5, 30), normal(2, 30)
    a = Moments(10, np.zeros(30), turn @ np.diag(spread_a ** 2) @ turn.T)
    b = Moments(10, m, turn @ np.diag(spread_b ** 2) @ turn.T)
    known = np.sum(m ** 2) + np.sum((spread_a - spread_b) ** 2)
    assert_allclose(frechet_distance(a, b), known, rtol=1e-12)
    assert_allclose(frechet_distance(b, a), known, rtol=1e-12)


def test_gaussians_in_two_dimensions_that_do_not_commute() -> None:
    """There tr (S_a S_b)^(1/2) = sqrt(tr S_a S_b + 2 sqrt(det S_a S_b))."""
    S_a, S_b = np.array([[2, 0.9], [0.9, 1]]), np.array([[1, -0.6], [-0.6, 3]])
    product = S_a @ S_b
    known = np.trace(S_a) + np.trace(S_b) - 2 * np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert_allclose(frechet_distance(Moments(9, np.zeros(2), S_a), Moments(9, np.zeros(2), S_b)), known, rtol=1e-12)


@pytest.mark.parametrize("N", (40, 400))
def test_order_rotation_and_a_common_shift_change_nothing(N: int) -> None:
    x, y, turn = normal(1, N, 64), 1.3 * normal(2, N, 64), np.linalg.qr(normal(3, 64, 64))[0]
    distance = frechet_distance(moments([x]), moments([y]))
    assert_allclose(frechet_distance(moments([x[::-1]]), moments([y])), distance, rtol=1e-11)
    assert_allclose(frechet_distance(moments([x @ turn + 5]), moments([y @ turn + 5])), distance, rtol=1e-11)


@pytest.mark.parametrize("N", (40, 400))
def test_a_set_is_at_no_distance_from_itself_and_at_its_square_from_itself_shifted(N: int) -> None:
    x = normal(1, N, 64)
    itself = moments([x])
    assert frechet_distance(itself, itself) < 1e-10
    assert_allclose(frechet_distance(itself, moments([x + 2])), 4 * 64, rtol=1e-12)


@pytest.mark.parametrize("sizes", ((20, 30), (20, 200), (200, 20), (30, 30)))
def test_few_images_give_the_same_by_their_rows_and_by_their_covariances(sizes: tuple[int, int]) -> None:
    a, b = (moments([normal(seed, N, 60) + seed]) for seed, N in enumerate(sizes))
    by_rows = frechet_distance(a, b)
    assert_allclose(frechet_distance(without_root(a), without_root(b)), by_rows, rtol=1e-11)
    assert_allclose(frechet_distance(without_root(a), b), by_rows, rtol=1e-11)


def test_features_that_never_vary_or_depend_on_others() -> None:
    """Such covariances have no Cholesky factor: the distance is that of the features that are left."""
    x, y = normal(1, 300, 20), 1.2 * normal(2, 300, 20)
    known = frechet_distance(moments([x]), moments([y]))
    dead = np.zeros((300, 3))
    assert_allclose(frechet_distance(moments([np.hstack([x, dead])]), moments([np.hstack([y, dead])])), known, rtol=1e-11)
    assert_allclose(frechet_distance(moments([np.hstack([x, x])]), moments([np.hstack([y, y])])), 2 * known, rtol=1e-9)
    constant, spread = moments([np.ones((300, 20))]), np.trace(moments([x]).covariance)
    assert_allclose(frechet_distance(constant, moments([x])), spread + np.square(x.mean(axis=0) - 1).sum(), rtol=1e-12)


@pytest.mark.parametrize("sets, told", (([], "there are no images"), ([np.zeros((1, 4))], "there is one image")))
def test_one_image_or_none_is_refused(sets: list[np.ndarray], told: str) -> None:
    with pytest.raises(UserError, match=told):
        moments(sets)


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="not finite numbers"):
        moments([np.array([[0.0, 1], [np.nan, 2]])])


def gaussian_64() -> tuple[Moments, np.ndarray, float]:
    """(the reference, exact; a factor that samples are drawn by; the true distance .64) in 64 dimensions."""
    factor = np.diag(np.full(64, 1.1))
    return Moments(10 ** 9, np.zeros(64), np.eye(64)), factor, 64 * 0.1 ** 2


def test_infinity_is_nearer_to_the_truth_by_ten() -> None:
    """At 8 d images, the least that it is computed from; the mean of 12 drawings."""
    reference, factor, true = gaussian_64()
    plain, infinite = [], []
    for seed in range(12):
        samples = normal(seed, 512, 64) @ factor
        plain.append(frechet_distance(moments([samples]), reference))
        found = frechet_infinity(samples, reference)
        assert found is not None
        infinite.append(found)
    values, errors = np.array(infinite).T
    assert np.mean(plain) - true > 2
    assert abs(values.mean() - true) < 0.1 * (np.mean(plain) - true)
    assert values.std() / 2 < errors.mean() < 4 * values.std()


def test_infinity_depends_on_the_seed_alone_and_needs_8_images_a_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, factor, _ = gaussian_64()
    samples = normal(1, 513, 64) @ factor
    found = frechet_infinity(samples, reference)
    assert found == frechet_infinity(samples, reference) and found != frechet_infinity(samples, reference, seed=1)
    assert found is not None
    monkeypatch.setattr(frechet, "ROWS", 7)
    assert_allclose(frechet_infinity(samples, reference), found, rtol=1e-7)
    assert frechet_infinity(samples[:511], reference) is None
