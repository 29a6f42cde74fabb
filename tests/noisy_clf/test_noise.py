import torch

from noisy_clf.noise import SampleNoise, random_label

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
