"""Samplers against exact answers: mixtures of Gaussians, whose guided distributions are known."""
import math

import pytest
import torch

from guided_sample.model import Guide, clip, labelled, steered_at_mean, thresholded
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error
from tests.seam import adm, classified, last, normal_noise, run

LINEAR = NoiseSchedule.named("linear", 1000)
FRUIT = torch.tensor([-0.6, 0.1, 0.7]).view(3, 1, 1, 1)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("at_mean", [False, True])
def test_ddpm_guided_by_the_exact_classifier_samples_the_class(variance, at_mean):
    mixture = Mixture(FRUIT, std=0.2, schedule=LINEAR, weights=[0.5, 0.3, 0.2])
    N, y = 20_000, 2
    denoiser, guide = mixture.denoiser(variance), classified(mixture.classifier(), torch.full((N,), y))
    model = steered_at_mean(labelled(denoiser, None), guide) if at_mean else adm(denoiser, guide, clipped=False)
    x_0 = last(run(ddpm, model, steps(range(1000), LINEAR), normal_noise((N, 1, 1, 1))))
    # four standard errors of the estimates, and a hundredth of a std for a thousand steps being finite
    assert x_0.mean().item() == pytest.approx(0.7, abs=4 * 0.2 / math.sqrt(N) + 0.002)
    assert x_0.std().item() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * N) + 0.002)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_ddpm_samples_the_tilted_distribution(scale):
    """exp(scale x_0) tilts N(mean, std^2) into N(mean + scale std^2, std^2); log E[exp(scale x_0) | x_t] is linear in x_t."""
    mean, std, N = -0.3, 0.4, 20_000
    mixture = Mixture(torch.full((1, 1, 1, 1), mean), std, LINEAR)

    def tilt(look):
        signal, _, v = mixture.spread(look.t)
        return (signal * std ** 2 / v * look.x_t).sum(dim=(1, 2, 3))

    model = adm(mixture.denoiser(), Guide(tilt, scale), clipped=False)
    x_0 = last(run(ddpm, model, steps(range(1000), LINEAR), normal_noise((N, 1, 1, 1))))
    assert x_0.mean().item() == pytest.approx(mean + scale * std ** 2, abs=4 * std / math.sqrt(N) + 0.004)
    assert x_0.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * N) + 0.004)


def test_unguided_ddpm_samples_the_mixture():
    mixture = Mixture(FRUIT, std=0.05, schedule=LINEAR, weights=[0.5, 0.3, 0.2])
    x_0 = last(run(ddpm, labelled(mixture.denoiser(), None), steps(range(1000), LINEAR), normal_noise((20_000, 1, 1, 1))))
    nearest = (x_0 - FRUIT.view(1, 3, 1, 1)).abs().argmin(dim=1).flatten()
    shares = torch.bincount(nearest, minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_guided_ddim_ends_where_the_probability_flow_of_the_class_ends():
    """With the exact classifier at scale 1, eps is that of N(mean_y, std^2), whose flow keeps (x_t - signal mean) / sqrt(v)."""
    schedule = NoiseSchedule.named("linear", 4000)
    mixture = Mixture(torch.tensor([[-0.5, 0.2], [0.4, 0.6]]).view(2, 1, 1, 2).repeat(1, 1, 2, 1), 0.3, schedule)
    x_T, y = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0, 1])
    model = adm(mixture.denoiser(), classified(mixture.classifier(), y), clipped=False)
    x_0 = last(run(ddim, model, steps(range(4000), schedule), lambda: x_T))
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
        x_0 = last(run(ddim, labelled(mixture.denoiser(), None), steps(kept, LINEAR), lambda: x_T))
        errors.append((x_0 - exact).abs())
    assert 1.6 < (errors[0] / errors[1]).item() < 2.4


def test_ddim_with_eta_1_steps_as_ddpm_with_small_variance_does():
    """sigma of DDIM eq. 16 is the root of beta_tilde, and the two means agree."""
    denoiser = tiny_denoiser(variance="fixed_small", out_channels=1)
    model, chain = thresholded(labelled(denoiser, None), clip), steps(range(0, 50, 7), denoiser.schedule)
    ancestral = run(ddpm, model, chain, normal_noise((3, 1, 8, 8)))
    implicit = run(ddim, model, chain, normal_noise((3, 1, 8, 8)), eta=1.0)
    for a, b in zip(ancestral, implicit):
        torch.testing.assert_close(a.x_t, b.x_t, rtol=1e-4, atol=1e-4)


def test_at_the_mean_guides_look_at_the_mean_with_the_previous_timestep():
    looks = []
    mixture = Mixture(torch.zeros(1, 1, 1, 1), 1.0, LINEAR)  # std 1: x_t ~ N(0, 1) at every t

    def flat(look):
        looks.append((look.x_t.detach().clone(), look.t.tolist()))
        return 0 * look.x_t.sum(dim=(1, 2, 3))

    model = steered_at_mean(labelled(mixture.denoiser(), None), Guide(flat))
    moments = run(ddpm, model, steps([0, 400, 999], LINEAR), normal_noise((2, 1, 1, 1)))
    assert [t for _, t in looks] == [[400, 400], [0, 0], [0, 0]]  # after the last step comes no timestep: 0 is the nearest
    torch.testing.assert_close(looks[-1][0], moments[-1].x_t)  # a zero gradient and no noise: the sample is the mean


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_batch_equals_singles(sampler):
    denoiser, classifier = tiny_denoiser(), tiny_classifier()
    chain = steps(range(0, 50, 7), denoiser.schedule)
    draws = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(chain) + 1)]
    y, scale = torch.tensor([0, 1, 2, 1]), torch.tensor([3.0, 0.0, 10.0, 1.0])

    def drawn(which):
        stream = iter(draws)
        model = adm(denoiser, classified(classifier, y[which], scale[which]))
        return last(run(sampler, model, chain, lambda: next(stream)[which]))

    assert relative_error(drawn(slice(None)), torch.cat([drawn([i]) for i in range(4)])) < 1e-4


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_class_conditional_denoiser_sees_the_label(sampler):
    denoiser = tiny_denoiser(class_names=("apple", "pear", "plum"))
    chain = steps(range(0, 50, 7), denoiser.schedule)
    same = [last(run(sampler, adm(denoiser, y=torch.tensor([y])), chain, normal_noise((1, 1, 8, 8)))) for y in (0, 1, 1)]
    assert torch.equal(same[1], same[2]) and not torch.allclose(same[0], same[1], atol=1e-3)
    with pytest.raises(ValueError, match="class-conditional"):
        run(sampler, labelled(denoiser, None), chain, normal_noise((1, 1, 8, 8)))


def test_clip_keeps_x0_hat_within_the_range_of_images():
    denoiser, chain = tiny_denoiser(), steps(range(0, 50, 7), tiny_denoiser().schedule)
    clipped, free = (run(ddpm, adm(denoiser, clipped=clipped), chain, normal_noise((2, 1, 8, 8))) for clipped in (True, False))
    assert max(moment.x0_hat.abs().max() for moment in clipped) == 1
    assert max(moment.x0_hat.abs().max() for moment in free) > 2
