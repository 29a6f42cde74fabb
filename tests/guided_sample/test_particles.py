"""Particles against quadrature: at scales other than 1 plain guidance misses the tilted distribution, and many chains hit it.

The class asked for has two modes, a strong one at -0.6 and a weak one at 0.6 that another class lies beside.
"""
import math
from functools import cache

import pytest
import torch
from torch.distributions import Normal

from guided_sample.finite import NotFinite, Watch
from guided_sample.guides.scales import within
from guided_sample.model import Guide, Prediction, clip, labelled, steered, thresholded
from guided_sample.particles import Twisted, collapse, effective_size, log_ratio, systematic
from guided_sample.posterior import posterior_mean
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.errors import UserError
from noisy_clf.noise import SampleNoise, generator, sample_uniform
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.oracles import Mixture
from tests.seam import adm, classified, last, normal_noise, run

CPU = torch.device("cpu")
LINEAR = NoiseSchedule.named("linear", 1000)
CHAIN = steps("50", LINEAR)
MIXTURE = Mixture(torch.tensor([-0.6, 0.6, 1.2]).view(3, 1, 1, 1), 0.15, LINEAR, [0.42, 0.38, 0.2])
MODEL = labelled(MIXTURE.denoiser("fixed_large"), None)


def log_prob(x_t, t):
    """log p(y | x_t) of the class that has the first two components."""
    logits = MIXTURE.logits(x_t, t)
    return logits[:, :2].logsumexp(dim=1) - logits.logsumexp(dim=1)


def guide(scale):
    return Guide(lambda look: log_prob(look.x_t, look.t), scale)


X = torch.linspace(-4.5, 4.5, 1401, dtype=torch.float64)


@cache
def unguided(last):
    """p(x_t) on X at t = CHAIN[last].t, of the unguided chain itself, as its steps are finite: normal densities, summed."""
    p = (-X ** 2 / 2).softmax(dim=0)
    for step in CHAIN[:last]:
        x0_hat, variance, *_ = MODEL(X.view(-1, 1, 1, 1), step)
        mean = posterior_mean(step, X, x0_hat.flatten().double())
        p = p @ Normal(mean[:, None], variance ** 0.5).log_prob(X).softmax(dim=1)
    return p


def tilted(scale, last=len(CHAIN) - 1):
    """p(x_t) p(y | x_t)^scale on X, of that chain."""
    return unguided(last) * (scale * log_prob(X.view(-1, 1, 1, 1), torch.full((len(X),), CHAIN[last].t))).exp()


def weak_share(scale):
    return (tilted(scale)[X > 0].sum() / tilted(scale).sum()).item()


def drawn(model, N, B, seed=0):
    generator = torch.Generator().manual_seed(1000 + seed)
    particles = Twisted(N, lambda: torch.rand(B, generator=generator, dtype=torch.float64))
    x_0 = last(run(particles, model, CHAIN, normal_noise((B * N, 1, 1, 1), seed)))
    assert x_0.shape == (B, 1, 1, 1) and particles.ess.shape == particles.log_evidence.shape == (B,)
    return x_0.flatten(), particles


def errors_off(x_0, share):
    """Standard errors by which the weak mode's share is above the true one."""
    found = (x_0 > 0).double().mean().item()
    return (found - share) / math.sqrt(share * (1 - share) / len(x_0))


@pytest.mark.parametrize("scale", [1, 3])
def test_many_particles_draw_the_tilted_distribution(scale):
    x_0, _ = drawn(steered(MODEL, guide(scale)), 128, 500)
    assert abs(errors_off(x_0, weak_share(scale))) < 3


def test_the_weak_modes_share_comes_back_with_particles():
    """At scale 3: plain guidance is some 15 standard errors of a thousand samples off, and a few particles are between."""
    share = weak_share(3)
    off = [errors_off(drawn(steered(MODEL, guide(3)), N, 1000)[0], share) for N in (1, 16)]
    assert off[0] < -9 and off[0] + 3 < off[1] < -2


def test_the_chain_itself_is_near_the_mixture():
    """What finite steps cost: the truth of the tests above beside that of the mixture at t = 0."""
    x = torch.linspace(-4.5, 4.5, 9001, dtype=torch.float64).view(-1, 1, 1, 1)
    t = torch.zeros(9001, dtype=torch.int64)
    for scale in (1, 3, 10):
        density = (MIXTURE.logits(x, t).logsumexp(dim=1) + scale * log_prob(x, t)).softmax(dim=0)
        assert weak_share(scale) == pytest.approx(density[x.flatten() > 0].sum().item(), abs=0.006)


@pytest.mark.parametrize("N, scale, B", [(1, 1, 4000), (4, 3, 4000), (16, 3, 1000)])
def test_the_mean_weight_is_an_unbiased_estimate_of_the_normalising_constant(N, scale, B):
    estimate = drawn(steered(MODEL, guide(scale)), N, B)[1].log_evidence.exp()
    truth = tilted(scale).sum()
    standard_error = estimate.std() / math.sqrt(B)
    assert abs(estimate.mean() - truth) < 3 * standard_error and standard_error < 0.04 * truth


def test_where_guides_are_asleep_the_twist_stays_what_it_was():
    """Guidance down to some t: what is drawn comes from the unguided chain, weighed by log p there."""
    last_seen = sum(step.sigma > 0.5 for step in CHAIN) - 1
    particles = drawn(steered(MODEL, guide(within((0.5, math.inf), 3.0))), 16, 2000)[1]
    estimate, truth = particles.log_evidence.exp(), tilted(3, last_seen).sum()
    assert abs(estimate.mean() - truth) < 3 * estimate.std() / math.sqrt(2000) and truth < 0.9
    late = drawn(steered(MODEL, guide(within((0, 0.5), 3.0))), 16, 2000)[1].log_evidence.exp()
    assert abs(late.mean() - tilted(3).sum()) < 3 * late.std() / math.sqrt(2000)


def test_without_a_guide_all_chains_count():
    x_0, particles = drawn(MODEL, 4, 2000)
    assert particles.ess.eq(4).all() and particles.log_evidence.abs().max() < 1e-12
    assert abs((x_0 > 0).double().mean().item() - weak_share(0)) < 3 * 0.5 / math.sqrt(2000)


def particles_of(indices, N, seed=5, shape=(1, 1, 1)):
    """The sampler and the noise that samples of these indices have."""
    return Twisted(N, sample_uniform(seed, indices, CPU)), SampleNoise(seed, indices, shape, CPU, chains=N)


def test_one_particle_is_ddpm():
    """With a learned variance and guidance at each step, the last one too."""
    denoiser, y = tiny_denoiser(), torch.tensor([0, 1, 2])
    model, chain = adm(denoiser, classified(tiny_classifier(), y, 5.0)), steps(range(0, 50, 7), tiny_denoiser().schedule)
    particles, noise = particles_of([4, 9, 2], 1, shape=(1, 8, 8))
    plain = run(ddpm, model, chain, SampleNoise(5, [4, 9, 2], (1, 8, 8), CPU))
    for ours, theirs in zip(run(particles, model, chain, noise), plain, strict=True):
        assert ours.t == theirs.t and torch.equal(ours.x_t, theirs.x_t) and torch.equal(ours.x0_hat, theirs.x0_hat)
    assert particles.ess.eq(1).all()


def test_a_samples_chains_are_its_own():
    """A batch and its samples alone, to the bit, with some resampled and some not."""
    scales = [1.0, 10.0, 100.0, 0.5, 300.0]

    def draw(which):
        particles, noise = particles_of([3 * i for i in which], 8)
        model = steered(MODEL, guide(torch.tensor([scales[i] for i in which]).repeat_interleave(8)))
        moments = run(particles, model, CHAIN, noise)
        assert all(len(moment.x_t) == 8 * len(which) for moment in moments[:-1])
        return last(moments), particles.ess, particles.log_evidence

    together, alone = draw(range(5)), [draw([i]) for i in range(5)]
    for whole, parts in zip(together, zip(*alone)):
        assert torch.equal(whole, torch.cat(parts))
    assert together[1].min() < 4 < together[1].max()


def test_a_network_draws_a_batch_as_it_draws_singles():
    denoiser, classifier, y = tiny_denoiser(), tiny_classifier(), torch.tensor([0, 1, 2])
    chain = steps(range(0, 50, 7), denoiser.schedule)

    def draw(which):
        particles, noise = particles_of(which, 4, shape=(1, 8, 8))
        return last(run(particles, adm(denoiser, classified(classifier, y[which].repeat_interleave(4), 3.0)), chain, noise))

    torch.testing.assert_close(draw([0, 1, 2]), torch.cat([draw([i]) for i in range(3)]), rtol=1e-3, atol=1e-4)


def test_chains_have_streams_of_their_own_from_seed_and_index():
    noise, plain = SampleNoise(7, [4, 9], (2, 3), CPU, chains=3), SampleNoise(7, [4, 9], (2, 3), CPU)
    alone = SampleNoise(7, [9], (2, 3), CPU, chains=3)
    more = SampleNoise(7, [4, 9], (2, 3), CPU, chains=5)
    for _ in range(3):
        draws, others = noise().view(2, 3, 2, 3), more().view(2, 5, 2, 3)
        assert torch.equal(draws[:, 0], plain()) and torch.equal(draws[1], alone()) and torch.equal(draws, others[:, :3])
        assert len({tuple(draw.flatten().tolist()) for draw in others.flatten(0, 1)}) == 10
    second = SampleNoise(7, [4, 9], (2, 3), CPU, stream=(2,), chains=3)().view(2, 3, 2, 3)
    assert not set(second.flatten().tolist()) & set(SampleNoise(7, [4, 9], (2, 3), CPU, chains=3)().flatten().tolist())
    assert not torch.equal(second[:, 0], second[:, 1])


def test_resamplings_numbers_are_uniform_and_each_samples_own():
    both, alone = sample_uniform(7, [4, 9], CPU), sample_uniform(7, [9], CPU)
    draws = torch.stack([both() for _ in range(2000)])
    assert draws.dtype == torch.float64 and torch.equal(draws[:, 1], torch.cat([alone() for _ in range(2000)]))
    assert draws.min() >= 0 and draws.max() < 1 and not torch.equal(draws[:, 0], draws[:, 1])
    assert (draws.mean(dim=0) - 0.5).abs().max() < 4 / math.sqrt(12 * 2000)
    assert not torch.equal(draws[0], sample_uniform(7, [4, 9], CPU, stream=(2,))())
    assert draws[0, 0].item() not in {generator(7, 4, *stream).random() for stream in ((), (1,), (2,), (3, 1))}


def test_systematic_resampling_keeps_each_chain_by_its_weight():
    w = torch.tensor([[0.1, 0.0, 0.45, 0.05, 0.4], [0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for row in w:
        log_w = row.log().expand(1000, 5) - 900  # of which no exp is left
        chosen = systematic(log_w, uniform, 5)
        counts = torch.nn.functional.one_hot(chosen, 5).sum(dim=1)
        assert ((counts >= (5 * row).floor()) & (counts <= (5 * row).ceil())).all() and chosen.diff(dim=1).min() >= 0
        torch.testing.assert_close(counts.double().mean(dim=0), 5 * row, rtol=0, atol=2e-3)
        one = systematic(log_w, uniform, 1)
        torch.testing.assert_close(torch.bincount(one.flatten(), minlength=5) / 1000, row.float(), rtol=0, atol=2e-3)
    edges = systematic(w[:1].log().expand(2, 5), torch.tensor([0.0, 1 - 2 ** -53], dtype=torch.float64), 5)
    assert edges[0].tolist() == [0, 2, 2, 4, 4] and edges[1, -1] == 4
    assert systematic(w[1:].log(), torch.zeros(1, dtype=torch.float64), 1).item() == 2


def test_the_effective_size():
    w = torch.tensor([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(effective_size(w.log() + 500), torch.tensor([4, 1, 2], dtype=torch.float64))


def test_a_steps_weight_is_the_ratio_of_two_normal_densities():
    """With a variance that is learned, pixel by pixel."""
    generator, step = torch.Generator().manual_seed(0), CHAIN[20]
    x_t, x_prev, x0_hat, gradient, v = torch.randn(5, 3, 2, 4, 4, generator=generator)
    prediction = Prediction(x0_hat, v.exp(), gradient, torch.zeros(3))
    mean = posterior_mean(step, x_t, x0_hat).double()
    plain, guided = (Normal(m, v.double().exp().sqrt()) for m in (mean, mean + v.double().exp() * gradient))
    expected = (plain.log_prob(x_prev.double()) - guided.log_prob(x_prev.double())).sum(dim=(1, 2, 3))
    torch.testing.assert_close(log_ratio(prediction, x_t, step, x_prev), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [
    thresholded(steered(MODEL, guide(3)), clip),
    lambda x_t, step: steered(MODEL, guide(3))(x_t, step)._replace(eps=x_t)], ids=["folded", "with an eps"])
def test_guidance_whose_steps_have_no_density_is_refused(model):
    with pytest.raises(UserError, match=r"particles were given guidance that is folded .* put steered\(...\) outermost"):
        drawn(model, 4, 2)


def test_a_watch_tells_the_sample_whose_chain_is_not_finite():
    def breaks(look):
        return log_prob(look.x_t, look.t) * torch.tensor([1, 1, 1, 1, math.nan, 1])

    watch = Watch([7, 7, 8, 8, 9, 9], "mine")
    with pytest.raises(NotFinite, match="the log-density of mine, or its gradient, is not finite at t = 999 for sample 9;"):
        drawn(watch.over(steered(MODEL, Guide(breaks))), 2, 3)
    drawn(watch.over(steered(MODEL, guide(3))), 2, 3)


def test_a_collapse_is_told():
    assert collapse([1.0, 1.0], 1) is None and collapse([2.51, 16.0], 16) is None
    assert collapse([1.2, 2.4, 16.0], 16) == (
        "in 2 of 3 samples fewer than 2.5 of 16 particles count (at worst 1.20), so that these are nearer to plain guidance "
        "than to what the scale asks for; take more particles, more steps or a smaller scale.")
