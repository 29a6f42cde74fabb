"""At which noise levels training looks, and that importance sampling leaves the expected loss as it is."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from noisy_clf.errors import UserError
from noisy_clf.training.t_sampling import ImportanceSampler, timestep_sampler

GRID = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000  # stands for all draws of u


def shares(kind: str, T: int) -> torch.Tensor:
    t, weight = timestep_sampler(kind, T)(GRID)
    assert t.dtype == torch.int64 and torch.equal(weight, torch.ones(len(GRID)))
    return torch.bincount(t, minlength=T) / len(GRID)


@pytest.mark.parametrize("T", [1, 7, 1000])
def test_uniform_is_uniform(T: int) -> None:
    torch.testing.assert_close(shares("uniform", T), torch.full((T,), 1 / T), rtol=0, atol=2e-5)


def test_the_ends_of_u_are_the_ends_of_t() -> None:
    ends = torch.tensor([0, 1 - 2.0 ** -53], dtype=torch.float64)
    for kind in ("uniform", "beta:1,3", "importance"):
        assert timestep_sampler(kind, 1000)(ends)[0].tolist() == [0, 999], kind


@pytest.mark.parametrize("kind, cdf", [
    ("beta:1,1", lambda x: x), ("beta:1,3", lambda x: 1 - (1 - x) ** 3), ("beta:0.5,1", lambda x: x ** 0.5),
    ("beta:2,2", lambda x: x * x * (3 - 2 * x)), ("beta:200,1", lambda x: x ** 200)])
def test_beta_has_its_distribution(kind: str, cdf: Callable[[torch.Tensor], torch.Tensor]) -> None:
    expected = cdf(torch.linspace(0, 1, 201, dtype=torch.float64)).diff()
    torch.testing.assert_close(shares(kind, 200).double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("levels, first, last", [
    ("0,0", 0, 0), ("0,1", 0, 99), ("0.29,0.57", 29, 57), ("1,1", 99, 99), ("0.5,0.5", 50, 50), ("0.505,0.508", 50, 50)])
def test_levels_are_uniform_between_the_two(levels: str, first: int, last: int) -> None:
    found = shares(f"levels:{levels}", 100)
    inside = torch.zeros(100)
    inside[first:last + 1] = 1 / (last + 1 - first)
    torch.testing.assert_close(found, inside, rtol=0, atol=2e-5)


def taught(T: int = 20, seed: int = 0) -> tuple[ImportanceSampler, torch.Tensor]:
    """An importance sampler that saw 30 losses at each t, and the last ten of them, [T,10]."""
    sampler, generator = ImportanceSampler(T), torch.Generator().manual_seed(seed)
    losses = torch.rand(30, T, generator=generator) * torch.linspace(0.1, 5, T)
    for row in losses:
        order = torch.randperm(T, generator=generator)
        sampler.learn(order, row[order])
    return sampler, losses[-10:].T


def test_importance_is_uniform_until_every_timestep_has_ten_losses() -> None:
    sampler = ImportanceSampler(5)
    for _ in range(9):
        sampler.learn(torch.arange(5), torch.arange(5.0))
    assert torch.equal(sampler.probabilities(), torch.full((5,), 0.2, dtype=torch.float64))
    sampler.learn(torch.arange(4), torch.arange(4.0))
    assert torch.equal(sampler(GRID)[1], torch.ones(len(GRID)))
    sampler.learn(torch.tensor([4]), torch.tensor([4.0]))
    assert sampler.probabilities()[4] > 0.35 and sampler.probabilities()[0] == pytest.approx(0.001 / 5)


def test_a_loss_that_is_no_number_teaches_nothing() -> None:
    (clean, _), (other, _) = taught(), taught()
    numbers = torch.tensor([1.0, 2.0])
    clean.learn(torch.tensor([3, 4]), numbers)
    other.learn(torch.tensor([3, 3, 4, 7]), torch.tensor([numbers[0], torch.nan, numbers[1], torch.inf]))
    assert torch.equal(other.history, clean.history) and torch.equal(other.seen, clean.seen)
    other.learn(torch.tensor([5]), torch.tensor([torch.nan]))
    assert torch.equal(other.history, clean.history)


def test_importance_is_the_root_of_the_mean_square_of_the_last_ten() -> None:
    sampler, last = taught()
    root = last.double().square().mean(dim=1).sqrt()
    expected = 0.999 * root / root.sum() + 0.001 / 20
    torch.testing.assert_close(sampler.probabilities(), expected)
    found = torch.bincount(sampler(GRID)[0], minlength=20) / len(GRID)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def test_importance_weights_leave_the_expected_loss_as_it_is() -> None:
    sampler, _ = taught()
    loss = torch.linspace(3, 0.2, 20) ** 2
    t, weight = sampler(GRID)
    assert (weight * loss[t]).mean().item() == pytest.approx(loss.mean().item(), rel=1e-3)


def test_importance_draws_have_less_variance_than_uniform_ones() -> None:
    sampler, last = taught()
    t, weight = sampler(GRID)
    mean = last.mean(dim=1)
    assert (weight * mean[t]).var() < 0.1 * mean.var()


@pytest.mark.parametrize("batch", [[3] * 25, [0, 3, 3, 1] * 6, [2, 2, 2]])
def test_a_batch_is_learnt_as_its_samples_one_by_one_would_be(batch: list[int]) -> None:
    losses = torch.rand(len(batch), generator=torch.Generator().manual_seed(0))
    whole, single = taught()[0], taught()[0]
    whole.learn(torch.tensor(batch), losses)
    for t, loss in zip(batch, losses):
        single.learn(torch.tensor([t]), loss[None])
    assert torch.equal(whole.history, single.history) and torch.equal(whole.seen, single.seen)


def test_importance_goes_on_from_its_state() -> None:
    sampler, _ = taught()
    other = ImportanceSampler(20)
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.probabilities(), sampler.probabilities())


@pytest.mark.parametrize("kind", [
    "normal", "beta", "beta:1", "beta:0,1", "beta:1,x", "beta:1,nan", "levels:0.6,0.2", "levels:-1,0.5", "levels:0,2",
    "uniform:3", "importance:1", "", "levels:0,0.5,1"])
def test_what_cannot_be_drawn_from_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="t-sampling cannot be .*it is one of: uniform, importance, beta:A,B"):
        timestep_sampler(kind, 100)
