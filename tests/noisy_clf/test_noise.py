import itertools

import numpy as np
import pytest
import torch

from noisy_clf.noise import SampleNoise, fixed_noise, generator, random_label

CPU = torch.device("cpu")


def test_a_samples_noise_depends_on_seed_and_index_alone():
    batch, single = SampleNoise(7, [4, 9, 2], (1, 3, 3), CPU), SampleNoise(7, [9], (1, 3, 3), CPU)
    for _ in range(3):
        assert torch.equal(batch()[1], single()[0])
    assert not torch.equal(SampleNoise(8, [9], (1, 3, 3), CPU)(), SampleNoise(7, [9], (1, 3, 3), CPU)())


def test_noise_is_standard_normal_and_independent():
    noise = SampleNoise(0, range(2000), (1, 8, 8), CPU)
    first, second = noise(), noise()
    assert abs(first.mean()) < 4 / 128_000 ** 0.5 and abs(first.std() - 1) < 4 / 256_000 ** 0.5
    for other in (second, first.roll(1, dims=0)):
        assert abs((first * other).mean()) < 4 / 128_000 ** 0.5


def test_random_labels_are_uniform_and_each_samples_own():
    labels = torch.tensor([random_label(3, index, 10) for index in range(5000)])
    assert random_label(3, 41, 10) == labels[41]
    assert [random_label(4, index, 10) for index in range(20)] != labels[:20].tolist()
    shares = torch.bincount(labels, minlength=10) / 5000
    assert (shares - 0.1).abs().max() < 4 * (0.09 / 5000) ** 0.5


LARGE = [2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 63, 2 ** 64, 2 ** 64 + 2 ** 32, 2 ** 96, 10 ** 60]


def test_no_two_of_seed_index_and_stream_share_their_draws():
    numbers = [0, 1, 2, 3, *LARGE]
    keys = [(seed, index, *stream) for seed, index in itertools.product(numbers, numbers) for stream in ((), (1,), (2,))]
    states = {str(generator(*key).bit_generator.state["state"]) for key in keys}
    assert len(states) == len(keys) == 588


@pytest.mark.parametrize("seed", LARGE[2:])
def test_a_large_seed_repeats_no_other_seeds_noise_or_labels(seed: int):
    def first(seed: int, index: int) -> list[torch.Tensor]:
        return [SampleNoise(seed, [index], (1, 2, 2), CPU)()[0], fixed_noise(torch.tensor([index]), (1, 2, 2), seed)[0]]

    low, high = seed % 2 ** 32, seed >> 32
    for ours, theirs in zip(first(seed, 0), first(low, high) if high < 2 ** 32 else first(0, 1)):
        assert not torch.equal(ours, theirs)
    assert torch.equal(first(seed, 3)[0], first(seed, 3)[0]) and not torch.equal(first(seed, 0)[0], first(seed, 1)[0])
    assert len({tuple(random_label(one, index, 10) for index in range(30)) for one in (seed, seed + 1, low)}) == 3


def test_seeds_below_2_to_the_32_keep_their_noise_and_labels():
    for seed, index in [(0, 0), (0, 1), (7, 41), (2 ** 31, 5), (2 ** 32 - 1, 2 ** 32 - 1)]:
        expected = [np.random.default_rng([seed, index, *stream]).standard_normal((1, 2, 2), dtype=np.float32)
                    for stream in ((), (2,))]
        assert np.array_equal(SampleNoise(seed, [index], (1, 2, 2), CPU)()[0], expected[0])
        assert np.array_equal(SampleNoise(seed, [index], (1, 2, 2), CPU, (2,))()[0], expected[1])
        assert np.array_equal(fixed_noise(torch.tensor([index]), (1, 2, 2), seed)[0], expected[0])
        assert random_label(seed, index, 1000) == np.random.default_rng([seed, index, 1]).integers(1000)
