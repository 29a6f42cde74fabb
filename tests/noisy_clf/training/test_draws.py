"""The random numbers of training: each position's own, whatever the batch."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from noisy_clf.training.draws import Draws, augmentation_generators, keys, uniform
from noisy_clf.networks.layers import Dropout
from tests.noisy_clf.conftest import tiny_network

CPU = torch.device("cpu")
X = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.arange(12)


def dropped_out(network: nn.Module, positions: range) -> Tensor:
    """The network's output for the samples at these positions, after their noise was drawn."""
    draws = Draws(5, positions, CPU)
    x_t = X[positions.start:positions.stop] + draws.noise_like(X[positions.start:positions.stop])
    with draws.decide_dropout(network), torch.no_grad():
        return network(x_t, T[positions.start:positions.stop])


def test_noise_and_dropout_are_those_of_any_other_batch() -> None:
    torch.manual_seed(0)
    network = tiny_network(dropout=0.5).train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    whole = dropped_out(network, range(12))
    parts = torch.cat([dropped_out(network, part) for part in (range(0, 1), range(1, 7), range(7, 12))])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(whole, dropped_out(network, range(12)) * 0 + dropped_out(network.eval(), range(12)), rtol=1e-2)


def test_noise_differs_by_seed_and_position_and_is_standard_normal() -> None:
    images = torch.zeros(50, 3, 20, 20)
    eps = Draws(0, range(50), CPU).noise_like(images)
    other = Draws(1, range(50), CPU).noise_like(images)
    assert torch.equal(eps, Draws(0, range(50), CPU).noise_like(images))
    assert torch.equal(eps[20:], Draws(0, range(20, 50), CPU).noise_like(images[20:]))
    correlations = torch.corrcoef(torch.cat([eps, other]).flatten(1)).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / 1200 ** 0.5
    assert kstest(eps.flatten().numpy(), "norm").pvalue > 1e-3


def test_timesteps_are_drawn_uniformly_and_independently() -> None:
    u = uniform(3, range(100_000)).numpy()
    assert 0 <= u.min() and u.max() < 1 and len(np.unique(u)) == 100_000
    assert kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(u, uniform(4, range(100_000)).numpy())[0, 1]) < 0.02


def test_keys_are_distinct_for_neighbouring_seeds_positions_and_uses() -> None:
    found = np.concatenate([keys(seed, range(5000), use) for seed in range(4) for use in range(4)])
    assert len(np.unique(found)) == len(found)
    assert np.array_equal(keys(7, range(100, 200), 1), keys(7, range(300), 1)[100:200])


def test_dropout_keeps_the_right_part_and_the_mean() -> None:
    layer, x = Dropout(0.3), torch.ones(20, 4, 16, 16)
    layer.generators = Draws(0, range(20), CPU).generators
    y = layer(x)
    torch.testing.assert_close(y.unique(), torch.tensor([0, 1 / 0.7]))
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.01) and y.mean().item() == pytest.approx(1, abs=0.02)
    assert len({tuple(row.flatten().tolist()) for row in y}) == 20


def test_dropout_is_torchs_where_no_generators_are_given() -> None:
    x = torch.ones(3, 4, 8, 8)
    torch.manual_seed(0)
    ours = Dropout(0.4)(x)
    torch.manual_seed(0)
    assert torch.equal(ours, nn.Dropout(0.4)(x)) and torch.equal(Dropout(0.4).eval()(x), x)


@pytest.mark.parametrize("a", [0.2, 1.0, 5.0])
def test_neighbours_share_a_beta_draw_whatever_the_batch(a: float) -> None:
    drawn = Draws(0, range(4000), CPU).beta_of_pairs(a)
    assert torch.equal(drawn[::2], drawn[1::2])
    assert torch.equal(drawn[100:120], Draws(0, range(100, 120), CPU).beta_of_pairs(a))
    assert kstest(drawn[::2].numpy(), "beta", (a, a)).pvalue > 1e-3


def test_augmentation_is_each_positions_own() -> None:
    numbers = [generator.random() for generator in augmentation_generators(2, range(10, 20))]
    assert numbers[5:] == [generator.random() for generator in augmentation_generators(2, range(15, 20))]
    assert len(set(numbers)) == 10
