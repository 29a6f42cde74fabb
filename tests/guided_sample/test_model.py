"""The seam: models of models, on mixtures of Gaussians whose answers are known."""
import math

import pytest
import torch

from guided_sample.contrast import contrast
from guided_sample.denoiser import Denoised
from guided_sample.finite import NotFinite, Watch
from guided_sample.guides.classifier import log_prob_of
from guided_sample.guides.scales import within
from guided_sample.model import Guide, clip, labelled, steered, steered_at_mean, thresholded
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error
from tests.seam import adm, classified, last, normal_noise, run

LINEAR = NoiseSchedule.named("linear", 1000)
STEPS = {step.t: step for step in steps("1000", LINEAR)}
MEANS = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 3
Y = torch.tensor([0, 1, 2, 3, 0])


def mixture(std=0.2):
    return Mixture(MEANS, std, LINEAR)


def points(B=5, seed=1):
    return torch.randn(B, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def exact_x0_hat(oracle, x_t, step):
    t = torch.full((len(x_t),), step.t)
    signal, noise, _ = oracle.spread(t)
    return (x_t.double() - noise * oracle.eps(x_t, t)) / signal


class Counting:
    """A model or a log-density that counts its calls."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.inner(*arguments)


@pytest.mark.parametrize("t", [0, 10, 200, 500, 900, 999])
def test_the_gradient_of_the_exact_classifier(t):
    oracle, x_t = mixture(), points()
    in_double = Guide(lambda look: oracle.logits(look.x_t, look.t).log_softmax(dim=1)[range(5), Y], 2.5)
    found = adm(oracle.denoiser(), in_double)(x_t, STEPS[t])
    assert found.gradient.dtype == torch.float32
    exact = 2.5 * oracle.grad_log_prob(x_t, torch.full((5,), t), Y)
    assert relative_error(found.gradient, exact) < 1e-6
    by_classifier = adm(oracle.denoiser(), classified(oracle.classifier(), Y, 2.5))(x_t, STEPS[t])  # whose logits are float32
    assert relative_error(by_classifier.gradient, exact) < 1e-4
    log_prob = oracle.logits(x_t, torch.full((5,), t)).log_softmax(dim=1)[range(5), Y]
    torch.testing.assert_close(found.log_density, (2.5 * log_prob).float())
    assert not found.gradient.requires_grad and not found.x0_hat.requires_grad and not x_t.requires_grad


def test_a_prediction_is_the_denoisers_with_the_kinds_of_variance_resolved():
    denoiser, x_t = tiny_denoiser(), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step = steps("10", denoiser.schedule)[4]
    with torch.no_grad():
        x0_hat, variance, *rest = labelled(denoiser, None)(x_t, step)
        raw = denoiser(x_t, torch.full((3,), step.t))
    assert torch.equal(x0_hat, raw.x0_hat) and rest == [None, None, None]
    fraction = (raw.v + 1) / 2
    expected = fraction * math.log(step.beta) + (1 - fraction) * math.log(step.beta_tilde)
    torch.testing.assert_close(variance.log(), expected)
    fixed = labelled(tiny_denoiser(variance="fixed_small", out_channels=1), None)(x_t, step)
    assert fixed.variance == step.beta_tilde


def test_several_guides_are_one_gradient_of_the_sum_and_add_to_what_a_model_carries():
    oracle, x_t, step = mixture(), points(), STEPS[400]
    one, other = classified(oracle.classifier(), Y, 2.0), classified(oracle.classifier(), Y.flip(0), 0.5)
    model = labelled(oracle.denoiser(), None)
    t = torch.full((5,), 400)
    expected = 2 * oracle.grad_log_prob(x_t, t, Y) + 0.5 * oracle.grad_log_prob(x_t, t, Y.flip(0))
    for found in (steered(model, one, other)(x_t, step), steered(steered(model, one), other)(x_t, step)):
        assert relative_error(found.gradient, expected) < 1e-6
        log_probs = oracle.logits(x_t, t).log_softmax(dim=1)
        expected_density = 2 * log_probs[range(5), Y] + 0.5 * log_probs[range(5), Y.flip(0)]
        torch.testing.assert_close(found.log_density, expected_density.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compose", [
    lambda model, guide, other: steered(model, other, guide), lambda model, guide, other: steered(steered(model, other), guide),
    lambda model, guide, other: steered(steered(model, guide), other)], ids=["beside", "around", "within"])
def test_a_guide_through_x0_hat_is_exact_and_runs_the_denoiser_once_a_step(compose):
    """E[x_0 | x_t] of one Gaussian is linear in x_t, so that the gradient of any function of x0_hat is known."""
    mean, std, B = 0.25, 0.5, 4
    oracle, step = Mixture(torch.full((1, 1, 1, 2), mean), std, LINEAR), STEPS[300]
    target = torch.tensor([0.1, -0.2, 0.3, 0.0])
    inner = Counting(labelled(oracle.denoiser(), None))
    wish = Guide(lambda look: -(look.x0_hat.sum(dim=(1, 2, 3)) - target).square(), 3.0)
    x_t = torch.randn(B, 1, 1, 2, generator=torch.Generator().manual_seed(3))
    found = compose(inner, wish, Guide(lambda look: look.x_t.sum(dim=(1, 2, 3))))(x_t, step)
    signal, _, v = (number.item() for number in (part.flatten()[0] for part in oracle.spread(torch.tensor([300]))))
    slope = signal * std ** 2 / v  # d x0_hat / d x_t
    x0_hat = mean + slope * (x_t - signal * mean)
    expected = (-6 * (x0_hat.sum(dim=(1, 2, 3)) - target) * slope).view(B, 1, 1, 1).expand_as(x_t) + 1
    torch.testing.assert_close(found.gradient, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.x0_hat, x0_hat, rtol=1e-5, atol=1e-5)
    assert inner.calls == 1 and not found.x0_hat.requires_grad


def test_a_guide_that_does_not_look_at_x0_hat_leaves_the_denoiser_without_a_graph():
    graphs = []
    denoiser = tiny_denoiser()
    denoiser.network.requires_grad_(False)

    def model(x_t, step):
        found = labelled(denoiser, None)(x_t, step)
        graphs.append(found.x0_hat.requires_grad)
        return found

    x_t, step = torch.zeros(2, 1, 8, 8), steps("10", denoiser.schedule)[4]
    with torch.no_grad():
        steered(model, classified(tiny_classifier(), torch.tensor([0, 1])))(x_t, step)
        steered(model, Guide(lambda look: look.x0_hat.sum(dim=(1, 2, 3))))(x_t, step)
    assert graphs == [False, True]


@pytest.mark.parametrize("asleep", [0.0, torch.zeros(5), lambda step: 0.0, within((0.5, 0.6), 7.0)])
def test_scale_0_runs_no_guide(asleep):
    oracle, x_t = mixture(), points()
    density = Counting(log_prob_of(oracle.classifier(), Y))
    model = labelled(oracle.denoiser(), None)
    for steering in (steered, steered_at_mean):
        density.calls = 0
        found = steering(model, Guide(density, asleep))(x_t, STEPS[900])
        assert found.gradient is None and found.log_density is None and density.calls == 0
        found = steering(model, Guide(density, asleep), Guide(density))(x_t, STEPS[900])
        assert found.gradient is not None and density.calls == 1


def test_an_interval_of_sigma_is_open_below_and_closed_above():
    sigmas = {t: math.sqrt(1 / LINEAR.alpha_bar[t] - 1) for t in (100, 200, 300)}
    scale = within((sigmas[100], sigmas[200]), 7.0)
    assert [scale(STEPS[t]) for t in (100, 150, 200, 300)] == [0, 7, 7, 0]
    assert STEPS[200].sigma == pytest.approx(sigmas[200], rel=1e-12)


def test_a_scale_for_each_sample_multiplies_samples_and_never_pixels():
    """B = W = H = 5: numbers of [B] that broadcast along the width would go unseen."""
    oracle, x_t, step = mixture(), points(), STEPS[400]
    scales = torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0])
    found = adm(oracle.denoiser(), classified(oracle.classifier(), Y, scales))(x_t, step).gradient
    expected = scales.view(5, 1, 1, 1) * oracle.grad_log_prob(x_t, torch.full((5,), 400), Y)
    for ours, exact in zip(found[1:], expected[1:]):
        assert relative_error(ours, exact) < 1e-5
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    alone = [adm(oracle.denoiser(), classified(oracle.classifier(), Y[i:i + 1], scales[i:i + 1]))(x_t[i:i + 1], step).gradient
             for i in range(1, 5)]
    assert relative_error(found[1:], torch.cat(alone)) < 1e-6
    with pytest.raises(UserError, match=r"the scale of the classifier is shaped \[5, 1\]; it is one number, or one for each"):
        adm(oracle.denoiser(), classified(oracle.classifier(), Y, scales[:, None]))(x_t, step)


def test_a_threshold_around_steering_folds_the_gradient_into_x0_hat_first():
    oracle, x_t, step = mixture(), points(), STEPS[400]
    steering = steered(labelled(oracle.denoiser(), None), classified(oracle.classifier(), Y, 3.0))
    free = thresholded(steering, lambda x0_hat: x0_hat)(x_t, step)
    assert free.gradient is None and free.log_density is not None
    # Tweedie: the score of p(x_t) p(y|x_t)^3 gives x0_hat + (1 - alpha_bar) / sqrt(alpha_bar) * gradient
    exact = exact_x0_hat(oracle, x_t, step) \
        + (1 - step.alpha_bar) / step.alpha_bar ** 0.5 * 3 * oracle.grad_log_prob(x_t, torch.full((5,), 400), Y)
    assert relative_error(free.x0_hat, exact) < 1e-5
    clipped = thresholded(steering, clip)(x_t, step)
    assert torch.equal(clipped.x0_hat, free.x0_hat.clamp(-1, 1)) and clipped.x0_hat.abs().max() == 1
    # in DDIM folding changes nothing but the threshold
    chain, noise = steps("ddim10", LINEAR), normal_noise((5, 3, 5, 5))
    folded = last(run(ddim, thresholded(steering, lambda x0_hat: x0_hat), chain, noise))
    assert relative_error(folded, last(run(ddim, steering, chain, normal_noise((5, 3, 5, 5))))) < 1e-5


@pytest.mark.parametrize("density, message", [
    (lambda look: look.x_t.sum(), r"gave torch.float32 \[\] at t = 400 for samples 0 to 4 .*tensor \[5\], one number for each"),
    (lambda look: look.x_t, r"gave torch.float32 \[5, 3, 5, 5\] at t = 400"),
    (lambda look: look.x_t.sum(dim=(1, 2, 3)).long(), r"gave torch.int64 \[5\] at t = 400 .* floating-point"),
    (lambda look: 3.0, r"gave 3.0 at t = 400"),
    (lambda look: None, r"gave None at t = 400"),
    (lambda look: look.x_t.detach().sum(dim=(1, 2, 3)), r"gave a log-density without a gradient at t = 400 for samples 0 to 4"),
    (lambda look: torch.zeros(5), r"gave a log-density without a gradient at t = 400"),
    (lambda look: torch.zeros(5, requires_grad=True), r"does not depend on what is looked at"),
])
def test_a_log_density_that_is_none_is_told_in_a_sentence(density, message):
    oracle = mixture()
    with pytest.raises(UserError, match=message):
        steered(labelled(oracle.denoiser(), None), Guide(density, name="mine"))(points(), STEPS[400])


def test_at_the_mean_there_is_no_x0_hat():
    oracle = mixture()
    model = steered_at_mean(labelled(oracle.denoiser(), None), Guide(lambda look: look.x0_hat.sum(dim=(1, 2, 3))))
    with pytest.raises(UserError, match="at the mean of a step there is no x0_hat to look at"):
        model(points(), STEPS[400])


def test_each_sample_has_its_own_gradient_and_needs_a_class():
    denoiser, classifier, y = tiny_denoiser(), tiny_classifier(), torch.tensor([0, 1, 2, 0])
    x_t, step = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), steps("10", denoiser.schedule)[3]
    together = adm(denoiser, classified(classifier, y))(x_t, step).gradient
    alone = [adm(denoiser, classified(classifier, y[i:i + 1]))(x_t[i:i + 1], step).gradient for i in range(4)]
    assert relative_error(together, torch.cat(alone)) < 1e-5
    with pytest.raises(ValueError, match="batch_size"):
        adm(denoiser, classified(classifier, y[:2]))(x_t, step)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_a_gradient_that_is_not_finite_names_t_and_samples(sampler):
    denoiser = tiny_denoiser()
    chain = steps("10", denoiser.schedule)

    def breaks_at(look):
        return look.x_t.sum(dim=(1, 2, 3)) * torch.tensor([1, math.inf if look.step.t == chain[2].t else 1, 1])

    watch = Watch([7, 8, 9], "mine")
    message = f"the log-density of mine, or its gradient, is not finite at t = {chain[2].t} for sample 8;"
    with pytest.raises(NotFinite, match=message) as caught:
        run(sampler, watch.over(adm(denoiser, Guide(breaks_at))), chain, normal_noise((3, 1, 8, 8)))
    assert (caught.value.t, caught.value.samples) == (chain[2].t, [8])


def test_denoised_is_not_clipped_and_a_denoiser_tells_its_space():
    denoiser = tiny_denoiser()
    assert Denoised._fields == ("x0_hat", "v")
    assert (denoiser.space.schedule, denoiser.space.image_size, denoiser.space.channels) == (denoiser.schedule, 8, 1)


def test_guides_look_at_x0_hat_with_its_graph_in_any_order_and_mode():
    oracle, x_t, step = mixture(), points(), STEPS[400]
    model = labelled(oracle.denoiser(), None)

    def careless(look):
        with torch.no_grad():
            weight = look.x0_hat.mean()
        return weight * look.x_t.sum(dim=(1, 2, 3))

    wish = Guide(lambda look: look.x0_hat.square().sum(dim=(1, 2, 3)))
    one, other = (steered(model, *guides)(x_t, step).gradient for guides in ((Guide(careless), wish), (wish, Guide(careless))))
    torch.testing.assert_close(one, other)
    assert one.norm() > 5 * steered(model, Guide(careless))(x_t, step).gradient.norm()


@pytest.mark.parametrize("work", [
    lambda look: look.x0_hat.add_(1).mean(dim=(1, 2, 3)),
    lambda look: (look.x_t.detach().zero_() + look.x_t).sum(dim=(1, 2, 3)),
    lambda look: (look.x0_hat.detach().zero_() + look.x_t).sum(dim=(1, 2, 3))])
def test_a_guide_that_works_in_place_is_told(work):
    """Of x_t it has a copy, so that even what torch does not count (.data) leaves the sampler's alone."""
    model, step = thresholded(labelled(tiny_denoiser(), None), clip), steps("10", tiny_denoiser().schedule)[4]
    with pytest.raises(UserError, match="mine changed look.x_t or look.x0_hat in place at t = .*; work on a copy"):
        steered(model, Guide(work, name="mine"))(torch.randn(2, 1, 8, 8), step)
    x_t = torch.ones(2, 1, 8, 8)
    steered(model, Guide(lambda look: look.x_t.data.mul_(0).mean() + look.x_t.sum(dim=(1, 2, 3))))(x_t, step)
    assert x_t.eq(1).all()


def test_a_gradient_that_cannot_be_taken_is_told():
    def torn(look):
        y = look.x_t.exp()
        total = y.sum(dim=(1, 2, 3))
        y.mul_(2)
        return total

    with pytest.raises(UserError, match="the gradient of mine cannot be taken at t = 400 "):
        steered(labelled(mixture().denoiser(), None), Guide(torn, name="mine"))(points(), STEPS[400])


def test_guidance_that_is_folded_in_is_watched_and_not_contrasted_nor_looked_through():
    x_t, step = points(), STEPS[400]
    model = labelled(mixture().denoiser(), None)
    infinite = Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)) * torch.tensor([1, math.inf, 1, 1, 1]))
    with pytest.raises(NotFinite, match="at t = 400 for sample 1;"):
        Watch(list(range(5)), "it").over(thresholded(steered(model, infinite), clip))(x_t, step)
    folded = thresholded(steered(model, Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)))), clip)
    with pytest.raises(UserError, match="contrast was given a model that is steered"):
        contrast(folded, model, 2.0)(x_t, step)
    with pytest.raises(UserError, match="a guide looks at an x0_hat that has another's guidance in it"):
        steered(folded, Guide(lambda look: look.x0_hat.sum(dim=(1, 2, 3))))(x_t, step)
    assert steered(folded, Guide(lambda look: look.x_t.sum(dim=(1, 2, 3))))(x_t, step).gradient is not None


def test_logits_of_another_shape_than_the_classes_are_told():
    oracle = mixture()
    classifier = oracle.classifier()
    classifier.class_names = ("a", "b")
    with pytest.raises(UserError, match=r"the classifier gave logits shaped \[5, 4\] for 5 samples of 2 classes"):
        adm(oracle.denoiser(), classified(classifier, Y))(points(), STEPS[400])
