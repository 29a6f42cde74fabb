from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.reference import FOLDER


@pytest.mark.parametrize("name, T", [("linear", 1000), ("linear", 4000), ("cosine", 1000), ("cosine", 4000)])
def test_betas_are_guided_diffusions(name: str, T: int) -> None:
    with np.load(FOLDER / "betas.npz") as theirs:
        np.testing.assert_allclose(NoiseSchedule.named(name, T).betas, theirs[f"{name}_{T}"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("T", [21, 100, 4000])
def test_linear_alpha_bar_is_the_product_of_an_arithmetic_sequence(T: int) -> None:
    betas = [0.1 / T * 1000 * (1e-3 + (0.2 - 1e-3) * t / (T - 1)) for t in range(T)]
    expected = np.exp(np.cumsum(np.log1p(-np.array(betas))))
    np.testing.assert_allclose(NoiseSchedule.named("linear", T).alpha_bar, expected, rtol=1e-12)


def test_cosine_alpha_bar_telescopes_to_f_of_t_over_f_of_0() -> None:
    T = 20
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = f[1:] / f[0]
    expected[-1] = expected[-2] * (1 - 0.999)  # f(T) is 0, so the last beta alone is clipped
    np.testing.assert_allclose(NoiseSchedule.named("cosine", T).alpha_bar, expected, rtol=1e-12)


def test_from_betas_and_from_alpha_bar_invert_betas_and_alpha_bar() -> None:
    betas = np.array([0.1, 0.5, 0.25])
    schedule = NoiseSchedule.from_betas(betas)
    np.testing.assert_allclose(schedule.alpha_bar, [0.9, 0.45, 0.3375], rtol=1e-15)
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-15)
    np.testing.assert_array_equal(NoiseSchedule.from_alpha_bar(schedule.alpha_bar).alpha_bar, schedule.alpha_bar)


@pytest.mark.parametrize("schedule", [
    NoiseSchedule.named("linear", 30), NoiseSchedule.named("cosine", 7), NoiseSchedule.from_betas([0.1, 0.3])], ids=str)
def test_config_round_trip_is_exact(schedule: NoiseSchedule) -> None:
    again = NoiseSchedule.from_config(schedule.to_config())
    np.testing.assert_array_equal(again.alpha_bar, schedule.alpha_bar)
    assert (again.name, again.T) == (schedule.name, schedule.T)


def test_add_noise_uses_each_samples_own_t() -> None:
    schedule = NoiseSchedule.from_alpha_bar([0.81, 0.64, 0.25])
    x_0, eps = torch.full((3, 1, 2, 2), 2.0), torch.full((3, 1, 2, 2), -1.0)
    x_t = schedule.add_noise(x_0, torch.tensor([2, 0, 1]), eps)
    for sample, (signal, noise) in zip(x_t, [(0.5, 0.75 ** 0.5), (0.9, 0.19 ** 0.5), (0.8, 0.6)]):
        assert_close(sample, torch.full((1, 2, 2), 2 * signal - noise))


def test_add_noise_has_the_mean_and_variance_of_q() -> None:
    schedule, N = NoiseSchedule.from_alpha_bar([0.64]), 400_000
    x_0 = torch.full((N, 1, 1, 1), 0.5)
    x_t = schedule.add_noise(x_0, torch.zeros(N, dtype=torch.long), torch.randn(x_0.shape, generator=torch.Generator()))
    deviation = 0.36 ** 0.5
    assert abs(x_t.mean() - 0.8 * 0.5) < 4 * deviation / N ** 0.5
    assert abs(x_t.var() - 0.36) < 4 * 0.36 * (2 / N) ** 0.5


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_signal_and_noise_keep_unit_variance(name: str) -> None:
    signal, noise = NoiseSchedule.named(name, 1000).at(torch.arange(1000))
    assert signal.shape == noise.shape == (1000, 1, 1, 1) and signal.dtype == torch.float32
    assert_close(signal ** 2 + noise ** 2, torch.ones(1000, 1, 1, 1), rtol=0, atol=3e-7)


def test_same_as_compares_numbers_and_not_names() -> None:
    linear = NoiseSchedule.named("linear", 1000)
    assert linear.same_as(NoiseSchedule.from_alpha_bar(linear.alpha_bar))
    assert linear.same_as(NoiseSchedule.from_betas(linear.betas))
    assert not linear.same_as(NoiseSchedule.named("cosine", 1000))
    assert not linear.same_as(NoiseSchedule.named("linear", 2000))
    assert not linear.same_as(NoiseSchedule("linear", linear.alpha_bar * 0.999))


def test_same_as_sees_a_difference_in_the_smallest_noise_and_the_smallest_signal() -> None:
    alpha_bar = NoiseSchedule.named("linear", 1000).alpha_bar
    for t, changed in ((0, 1 - (1 - alpha_bar[0]) * 1.001), (-1, alpha_bar[-1] * 0.999)):
        other = alpha_bar.copy()
        other[t] = changed
        assert not NoiseSchedule.from_alpha_bar(alpha_bar).same_as(NoiseSchedule.from_alpha_bar(other))


def test_a_schedule_cannot_be_changed() -> None:
    given = np.array([0.9, 0.5])
    schedule = NoiseSchedule.from_alpha_bar(given)
    given[0] = 0.6
    assert schedule.alpha_bar[0] == 0.9
    with pytest.raises(ValueError, match="read-only"):
        schedule.alpha_bar[0] = 0.6
    with pytest.raises(FrozenInstanceError):
        schedule.alpha_bar = given  # type: ignore[misc]


def test_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="unknown noise schedule 'sigmoid'; there are: linear, cosine"):
        NoiseSchedule.named("sigmoid")


@pytest.mark.parametrize("name, T, smallest", [("linear", 20, 21), ("cosine", 0, 1), ("cosine", -5, 1)])
def test_too_few_timesteps_are_refused(name: str, T: int, smallest: int) -> None:
    with pytest.raises(UserError, match=f"{name} schedule needs at least {smallest} timesteps, not {T}"):
        NoiseSchedule.named(name, T)
    assert NoiseSchedule.named(name, smallest).T == smallest


@pytest.mark.parametrize("alpha_bar", [
    [0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0], [0.5, -0.1], [1.2, 0.5], [0.9, float("nan")]])
def test_alpha_bar_that_does_not_fall_between_1_and_0_is_refused(alpha_bar: list[float]) -> None:
    with pytest.raises(UserError, match="alpha_bar must fall strictly, and lie between 0 and 1"):
        NoiseSchedule.from_alpha_bar(alpha_bar)


@pytest.mark.parametrize("betas", [[0.1, 0.0], [0.1, 1.0], [0.1, 1.5], [-0.1]])
def test_betas_outside_0_to_1_are_refused(betas: list[float]) -> None:
    with pytest.raises(UserError, match="alpha_bar must fall strictly"):
        NoiseSchedule.from_betas(betas)


@pytest.mark.parametrize("alpha_bar", [[], [[0.9, 0.5]], 0.5])
def test_what_is_not_a_list_of_alpha_bar_is_refused(alpha_bar: object) -> None:
    with pytest.raises(UserError, match="one a timestep"):
        NoiseSchedule.from_alpha_bar(alpha_bar)
