"""Samplers against exact answers: mixtures of Gaussians, whose guided distributions are known."""
import math

import pytest
import torch

from guided_sample.guidance import ClassifierGuidance
from guided_sample.posterior import reverse_steps
from guided_sample.samplers import ddim, ddpm
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error

LINEAR = NoiseSchedule.named("linear", 1000)
FRUIT = torch.tensor([-0.6, 0.1, 0.7]).view(3, 1, 1, 1)


def last(moments):
    *_, moment = moments
    return moment.x_t


def normal_noise(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("grad_at", ["x_t", "mean"])
def test_ddpm_guided_by_the_exact_classifier_samples_the_class(variance, grad_at):
    mixture = Mixture(FRUIT, std=0.2, schedule=LINEAR, weights=[0.5, 0.3, 0.2])
    N, y = 20_000, 2
    guide = ClassifierGuidance(mixture.classifier(), torch.full((N,), y), scale=1.0)
    steps = reverse_steps(LINEAR, range(1000))
    x_0 = last(ddpm(mixture.denoiser(variance), steps, guide, normal_noise((N, 1, 1, 1)), clip=False, grad_at=grad_at))
    # four standard errors of the estimates, and a hundredth of a std for a thousand steps being finite
    assert x_0.mean().item() == pytest.approx(0.7, abs=4 * 0.2 / math.sqrt(N) + 0.002)
    assert x_0.std().item() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * N) + 0.002)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_ddpm_samples_the_tilted_distribution(scale):
    """exp(scale x_0) tilts N(mean, std^2) into N(mean + scale std^2, std^2); log E[exp(x_0) | x_t] is linear in x_t."""
    mean, std, N = -0.3, 0.4, 20_000
    mixture = Mixture(torch.full((1, 1, 1, 1), mean), std, LINEAR)

    def tilt(x_t, t):
        signal, _, v = mixture.spread(t)
        return (scale * signal * std ** 2 / v).float().expand_as(x_t)

    x_0 = last(ddpm(mixture.denoiser(), reverse_steps(LINEAR, range(1000)), tilt, normal_noise((N, 1, 1, 1)), clip=False))
    assert x_0.mean().item() == pytest.approx(mean + scale * std ** 2, abs=4 * std / math.sqrt(N) + 0.004)
    assert x_0.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * N) + 0.004)


def test_unguided_ddpm_samples_the_mixture():
    mixture = Mixture(FRUIT, std=0.05, schedule=LINEAR, weights=[0.5, 0.3, 0.2])
    x_0 = last(ddpm(mixture.denoiser(), reverse_steps(LINEAR, range(1000)), None, normal_noise((20_000, 1, 1, 1)), clip=False))
    nearest = (x_0 - FRUIT.view(1, 3, 1, 1)).abs().argmin(dim=1).flatten()
    shares = torch.bincount(nearest, minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_guided_ddim_ends_where_the_probability_flow_of_the_class_ends():
    """With the exact classifier at scale 1, eps is that of N(mean_y, std^2), whose flow keeps (x_t - signal mean) / sqrt(v)."""
    schedule = NoiseSchedule.named("linear", 4000)
    mixture = Mixture(torch.tensor([[-0.5, 0.2], [0.4, 0.6]]).view(2, 1, 1, 2).repeat(1, 1, 2, 1), 0.3, schedule)
    x_T, y = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0, 1])
    guide = ClassifierGuidance(mixture.classifier(), y, scale=1.0)
    x_0 = last(ddim(mixture.denoiser(), reverse_steps(schedule, range(4000)), guide, lambda: x_T, clip=False))
    signal, _, v = mixture.spread(torch.full((5,), 3999))
    exact = mixture.means[y] + 0.3 * (x_T - signal * mixture.means[y]) / v.sqrt()
    torch.testing.assert_close(x_0, exact.float(), rtol=0, atol=0.001)


def test_ddim_error_falls_in_proportion_to_the_step():
    """DDIM is a first-order solver: twice the steps, half the distance to the exact end point."""
    mixture, x_T = Mixture(torch.zeros(1, 1, 1, 1), 0.3, LINEAR), torch.full((1, 1, 1, 1), 1.5)
    signal, _, v = mixture.spread(torch.tensor([999]))
    exact = 0.3 * x_T / v.sqrt()
    errors = []
    for stride in (8, 4):
        kept = range(999 % stride, 1000, stride)
        x_0 = last(ddim(mixture.denoiser(), reverse_steps(LINEAR, kept), None, lambda: x_T, clip=False))
        errors.append((x_0 - exact).abs())
    assert 1.6 < (errors[0] / errors[1]).item() < 2.4


def test_ddim_with_eta_1_steps_as_ddpm_with_small_variance_does():
    """sigma of DDIM eq. 16 is the root of beta_tilde, and the two means agree."""
    denoiser = tiny_denoiser(variance="fixed_small", out_channels=1)
    steps = reverse_steps(denoiser.schedule, range(0, 50, 7))
    ancestral = list(ddpm(denoiser, steps, None, normal_noise((3, 1, 8, 8))))
    implicit = list(ddim(denoiser, steps, None, normal_noise((3, 1, 8, 8)), eta=1.0))
    for a, b in zip(ancestral, implicit):
        torch.testing.assert_close(a.x_t, b.x_t, rtol=1e-4, atol=1e-4)


def test_grad_at_mean_asks_at_the_mean_with_the_previous_timestep():
    asked = []
    mixture = Mixture(torch.zeros(1, 1, 1, 1), 1.0, LINEAR)  # std 1: x_t ~ N(0, 1) at every t
    steps = reverse_steps(LINEAR, [0, 400, 999])

    def guide(x, t):
        asked.append((x.clone(), t.tolist()))
        return torch.zeros_like(x)

    noise = normal_noise((2, 1, 1, 1))
    moments = list(ddpm(mixture.denoiser(), steps, guide, noise, clip=False, grad_at="mean"))
    assert [t for _, t in asked] == [[400, 400], [0, 0], [0, 0]]  # after the last step comes no timestep: 0 is the nearest
    torch.testing.assert_close(asked[-1][0], moments[-1].x_t)  # a zero gradient and no noise: the sample is the mean


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_batch_equals_singles(sampler):
    denoiser, classifier = tiny_denoiser(), tiny_classifier()
    steps = reverse_steps(denoiser.schedule, range(0, 50, 7))
    draws = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(steps) + 1)]
    y = torch.tensor([0, 1, 2, 1])

    def run(which):
        stream = iter(draws)
        return last(sampler(denoiser, steps, ClassifierGuidance(classifier, y[which], 3.0), lambda: next(stream)[which]))

    assert relative_error(run(slice(None)), torch.cat([run([i]) for i in range(4)])) < 1e-4


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_class_conditional_denoiser_sees_the_label(sampler):
    denoiser = tiny_denoiser(class_names=("apple", "pear", "plum"))
    steps = reverse_steps(denoiser.schedule, range(0, 50, 7))
    same = [last(sampler(denoiser, steps, None, normal_noise((1, 1, 8, 8)), torch.tensor([y]))) for y in (0, 1, 1)]
    assert torch.equal(same[1], same[2]) and not torch.allclose(same[0], same[1], atol=1e-3)
    with pytest.raises(ValueError, match="class-conditional"):
        last(sampler(denoiser, steps, None, normal_noise((1, 1, 8, 8))))


def test_clip_keeps_x0_hat_within_the_range_of_images():
    denoiser, steps = tiny_denoiser(), reverse_steps(tiny_denoiser().schedule, range(0, 50, 7))
    clipped = list(ddpm(denoiser, steps, None, normal_noise((2, 1, 8, 8))))
    free = list(ddpm(denoiser, steps, None, normal_noise((2, 1, 8, 8)), clip=False))
    assert max(moment.x0_hat.abs().max() for moment in clipped) == 1
    assert max(moment.x0_hat.abs().max() for moment in free) > 2
