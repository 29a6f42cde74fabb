"""Contrasts of models: on mixtures of Gaussians whose answers are known, and beside GLIDE's and diffusers' numbers."""
import math
from dataclasses import replace

import pytest
import torch

from guided_sample.contrast import Projection, beyond_one, classifier_free, contrast
from guided_sample.denoiser import Denoiser
from guided_sample.guides.scales import within
from guided_sample.model import Guide, Prediction, clip, guided, labelled, steered, thresholded
from guided_sample.posterior import posterior_mean
from guided_sample.samplers import SAMPLERS
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.errors import UserError
from tests.conftest import tiny_denoiser
from tests.guidance_family import VECTORS, arrays, sharp_classifier, velocity_denoiser
from tests.guided_sample.test_model import LINEAR, STEPS, Counting, Y, mixture, points
from tests.oracles import Mixture
from tests.reference import relative_error
from tests.seam import adm, classified, last, normal_noise, run

NULL = torch.full((5,), 4)
SCALES = torch.tensor([0.5, 1.0, 2.0, 4.0, -1.0])


def conditional(oracle):
    """A denoiser told y: that of each component alone; y = K, the null class, is the mixture's."""
    def denoise(x_t, t, y):
        signal, noise, v = oracle.spread(t)
        alone = noise * (x_t.double() - signal * oracle.means[y.clamp(max=3)]) / v
        return torch.where((y == 4).view(-1, 1, 1, 1), oracle.eps(x_t, t), alone)
    exact = oracle.denoiser()
    return Denoiser(type(exact.network)(denoise), LINEAR, exact.shape, "fixed_small", class_names=tuple("abcd"),
                    null_class=True)


def halves(seed=0):
    """A conditional and a null model that know nothing of each other: as many numbers of each at each step."""
    def model_of(offset):
        def model(x_t, step):
            generator = torch.Generator().manual_seed(seed + offset + 10 * int(step.t))
            return Prediction(torch.randn(5, 3, 5, 5, generator=generator)[:len(x_t)], 1.0)
        return model
    return model_of(1), model_of(2)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0, 3.5, -1.0])
@pytest.mark.parametrize("t", [20, 400, 900])
def test_the_contrast_of_exact_models_is_guidance_by_the_exact_classifier(w, t):
    """grad log p(x_t|y) - grad log p(x_t) = grad log p(y|x_t): contrasting by w is guiding the unconditional model by w."""
    oracle, x_t, step = mixture(), points(), STEPS[t]
    denoiser = conditional(oracle)
    strong, weak = labelled(denoiser, Y), labelled(denoiser, NULL)
    # the score of p(x_t) p(y|x_t)^w, in closed form
    at_t, noise = torch.full((5,), t), (1 - step.alpha_bar) ** 0.5
    eps = oracle.eps(x_t, at_t) - noise * w * oracle.grad_log_prob(x_t, at_t, Y)
    x0_hat = (x_t - noise * eps) / step.alpha_bar ** 0.5
    for model in (contrast(strong, weak, w), classifier_free(denoiser, Y, w)):
        found = model(x_t, step)
        assert relative_error(found.x0_hat, x0_hat) < 1e-6 / step.alpha_bar ** 0.5
        assert relative_error(guided(found, x_t, step)[1], eps) < 1e-5
    around = steered(weak, classified(oracle.classifier(), Y, w))(x_t, step)
    assert relative_error(guided(around, x_t, step)[1], eps) < 1e-5


def test_a_contrast_samples_the_class_and_takes_guides_around_it():
    """Along the whole chain, at w = 1 shared between a contrast and a classifier."""
    oracle = Mixture(torch.tensor([-0.6, 0.1, 0.4, 0.7]).view(4, 1, 1, 1), 0.2, LINEAR)
    N, denoiser = 10_000, conditional(oracle)
    y = torch.full((N,), 3)
    model = steered(classifier_free(denoiser, y, 0.25), classified(oracle.classifier(), y, 0.75))
    x_0 = last(run(ddpm, model, steps("1000", LINEAR), normal_noise((N, 1, 1, 1))))
    assert x_0.mean().item() == pytest.approx(0.7, abs=4 * 0.2 / math.sqrt(N) + 0.002)
    assert x_0.std().item() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * N) + 0.002)


def test_a_contrast_has_the_strong_ones_variance_runs_no_weak_one_at_1_and_takes_a_scale_for_each_sample():
    x_t, step = points(), STEPS[400]
    weak = Counting(lambda x_t, step: Prediction(torch.full_like(x_t, -1.0), 9.0))

    def strong(x_t, step):
        return Prediction(torch.ones_like(x_t), 2.0)

    for how in ({}, {"projected": Projection(-0.5, 2.5)}, {"rescale": 0.7}):
        assert contrast(strong, weak, 1.0, **how)(x_t, step).x0_hat.eq(1).all() and weak.calls == 0
    found = contrast(strong, weak, torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0]))(x_t, step)
    assert found.variance == 2 and weak.calls == 1
    assert torch.equal(found.x0_hat, torch.tensor([-1.0, 1, 3, 5, -3]).view(5, 1, 1, 1).expand_as(x_t))
    asleep = contrast(strong, weak, lambda step: 1.0 if step.t > 300 else 2.0)
    assert asleep(x_t, STEPS[400]).x0_hat.eq(1).all() and asleep(x_t, STEPS[200]).x0_hat.eq(3).all() and weak.calls == 2
    with pytest.raises(UserError, match=r"the scale of the contrast is shaped \[5, 1\]; it is one number, or one for each"):
        contrast(strong, weak, torch.ones(5, 1) * 2)(x_t, step)


def test_a_contrast_in_an_interval_is_the_strong_model_outside():
    strong, weak = halves()
    weak, x_t = Counting(weak), points()
    model = contrast(strong, weak, beyond_one(within((STEPS[200].sigma, STEPS[600].sigma), 2.0)))
    for t, inside in ((601, False), (600, True), (201, True), (200, False)):
        weak.calls = 0
        expected = contrast(*halves(), 3.0 if inside else 1.0)(x_t, STEPS[t]).x0_hat
        assert torch.equal(model(x_t, STEPS[t]).x0_hat, expected) and weak.calls == inside


@pytest.mark.parametrize("w", [1.0, 2.0])
@pytest.mark.parametrize("place", [0, 1])
def test_a_contrast_refuses_what_carries_a_gradient(place, w):
    oracle, x_t = mixture(), points()
    plain = labelled(oracle.denoiser(), None)
    pair = [plain, plain]
    pair[place] = steered(plain, classified(oracle.classifier(), Y))
    if (place, w) == (1, 1.0):
        assert contrast(*pair, w)(x_t, STEPS[400]).gradient is None  # the weak one is not run
        return
    with pytest.raises(UserError, match=r"contrast was given a model that is steered; steer the contrast instead"):
        contrast(*pair, w)(x_t, STEPS[400])


# classifier-free guidance

def tiny_conditional(**settings):
    """Of three classes and the null class."""
    denoiser = tiny_denoiser(class_names=("apple", "pear", "plum", "none"), **settings)
    return replace(denoiser, class_names=("apple", "pear", "plum"), null_class=True)


def tiny_points(denoiser, B=4):
    return torch.randn(B, *denoiser.shape, generator=torch.Generator().manual_seed(0)), steps("10", denoiser.schedule)


def test_both_halves_are_one_batch_and_the_variance_is_the_classes():
    denoiser, y = tiny_conditional(), torch.tensor([0, 1, 2, 1])
    x_t, chain = tiny_points(denoiser)
    of_classes, of_null = labelled(denoiser, y)(x_t, chain[4]), labelled(denoiser, None)(x_t, chain[4])
    assert relative_error(of_null.variance, of_classes.variance) > 1e-2
    seen = []
    denoiser.network.register_forward_pre_hook(lambda network, inputs: seen.append((len(inputs[0]), inputs[2].tolist())))
    found = classifier_free(denoiser, y, 3.0)(x_t, chain[4])
    assert seen == [(8, [0, 1, 2, 1, 3, 3, 3, 3])]
    assert relative_error(found.x0_hat, of_null.x0_hat + 3 * (of_classes.x0_hat - of_null.x0_hat)) < 1e-5
    assert relative_error(found.variance, of_classes.variance) < 1e-5 and found.variance.shape == x_t.shape
    classifier_free(denoiser, y, torch.ones(4))(x_t, chain[4])
    assert seen[1:] == [(4, [0, 1, 2, 1])]


def test_a_sample_of_the_null_class_is_not_guided():
    denoiser, y = tiny_conditional(), torch.tensor([0, 3, 2, 3])
    x_t, chain = tiny_points(denoiser)
    free = labelled(denoiser, None)(x_t, chain[4]).x0_hat
    for how in ({}, {"rescale": 0.5}, {"projected": Projection(-0.5, 1.0)}):
        found = classifier_free(denoiser, y, 7.0, **how)(x_t, chain[4]).x0_hat
        assert relative_error(found[[1, 3]], free[[1, 3]]) < 1e-5 and relative_error(found[[0, 2]], free[[0, 2]]) > 1e-2


@pytest.mark.parametrize("names, message", [
    (None, "of a denoiser that knows no classes; train one by train-ddpm --drop-labels 0.1, or guide this one by a classifier"),
    (("apple", "pear", "plum"), "of a denoiser that knows its 3 classes and not the null class; train one by")])
def test_a_denoiser_without_a_null_class_is_refused(names, message):
    with pytest.raises(UserError, match=message):
        classifier_free(tiny_denoiser(class_names=names), torch.tensor([0]), 2.0)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
@pytest.mark.parametrize("how", [
    {}, {"plus_plus": True}, {"projected": Projection(-0.5, 1.5, 0.2)}, {"rescale": 0.7},
    {"plus_plus": True, "projected": Projection(-0.5, 1.5), "rescale": 0.3}], ids=lambda how: " ".join(how) or "plain")
def test_batch_equals_singles(sampler, how):
    """Scales that differ between samples and are 1 at some steps, at which a sample alone does not run the null class."""
    denoiser, y, scale = tiny_conditional(), torch.tensor([0, 1, 2, 3]), torch.tensor([0.3, 0.0, 0.5, 0.9])
    chain = steps(range(0, 50, 7), denoiser.schedule)
    draws = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(chain) + 1)]

    def drawn(which):
        def scale_at(step):
            return torch.where(torch.tensor([0, 2, 2, 2])[which] == chain.index(step) % 3, 1.0, scale[which])
        stream = iter(draws)
        model = thresholded(classifier_free(denoiser, y[which], scale_at, **how), clip)
        return last(run(sampler, model, chain, lambda: next(stream)[which]))

    assert relative_error(drawn(slice(None)), torch.cat([drawn([i]) for i in range(4)])) < 1e-4


# CFG++

def test_the_noise_put_back_is_the_weak_models():
    """With a gradient, it is shifted as well."""
    oracle, x_t, step = mixture(), points(), STEPS[400]
    denoiser = conditional(oracle)
    plain, model = classifier_free(denoiser, Y, 0.6), classifier_free(denoiser, Y, 0.6, plus_plus=True)
    x0_hat, eps = guided(model(x_t, step), x_t, step)
    assert relative_error(eps, oracle.eps(x_t, torch.full((5,), 400))) < 1e-5
    assert torch.equal(x0_hat, plain(x_t, step).x0_hat)
    gradient = oracle.grad_log_prob(x_t, torch.full((5,), 400), Y)
    _, shifted = guided(steered(model, classified(oracle.classifier(), Y))(x_t, step), x_t, step)
    assert relative_error(shifted, eps - (1 - step.alpha_bar) ** 0.5 * gradient) < 1e-5
    after = next(ddim(thresholded(model, clip), x_t, [step], lambda: x_t))
    torch.testing.assert_close(after.x_t, step.alpha_bar_prev ** 0.5 * x0_hat.clamp(-1, 1)
                               + (1 - step.alpha_bar_prev) ** 0.5 * eps)


def test_cfg_plus_plus_at_0_is_the_null_class_and_at_1_the_class_with_the_noise_of_none():
    oracle, x_t, step = mixture(), points(), STEPS[400]
    denoiser = conditional(oracle)
    chain = steps("ddim10", LINEAR)
    free, at_0 = (last(run(ddim, model, chain, normal_noise((5, 3, 5, 5)))) for model in (
        labelled(denoiser, None), classifier_free(denoiser, Y, 0.0, plus_plus=True)))
    assert relative_error(at_0, free) < 1e-5
    at_1 = classifier_free(denoiser, Y, 1.0, plus_plus=True)(x_t, step)
    assert relative_error(at_1.x0_hat, labelled(denoiser, Y)(x_t, step).x0_hat) < 1e-6
    assert relative_error(at_1.eps, oracle.eps(x_t, torch.full((5,), 400))) < 1e-5


@pytest.mark.parametrize("scale", [-0.1, 1.5, math.nan, within((0, 100), 7.0)])
def test_cfg_plus_plus_refuses_scales_beyond_1(scale):
    model = contrast(*halves(), scale, plus_plus=True)
    with pytest.raises(UserError, match=r"CFG\+\+ was given scale \S+ at t = 400; give one from 0 to 1, or leave out CFG\+\+"):
        model(points(), STEPS[400])


@pytest.mark.parametrize("guides", [(), (Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)), 0.1),)], ids=["alone", "folded in"])
def test_ddpm_puts_back_the_noise_that_it_is_given_as_ddim_with_eta_1_does(guides):
    denoiser = tiny_conditional(variance="fixed_small", out_channels=1)
    chain, y = steps(range(0, 50, 7), denoiser.schedule), torch.tensor([0, 1, 2])

    def drawn(sampler, plus_plus, **knobs):
        model = thresholded(steered(classifier_free(denoiser, y, 0.6, plus_plus=plus_plus), *guides), clip)
        return run(sampler, model, chain, normal_noise((3, 1, 8, 8)), **knobs)

    for ours, theirs in zip(drawn(ddpm, True), drawn(ddim, True, eta=1.0), strict=True):
        assert relative_error(ours.x_t, theirs.x_t) < 1e-4
    assert relative_error(last(drawn(ddpm, True)), last(drawn(ddpm, False))) > 0.1


def test_ddpm_shifts_the_mean_by_the_gradient_also_where_it_is_given_the_noise():
    denoiser = tiny_conditional(variance="fixed_small", out_channels=1)
    (x_t, chain), y = tiny_points(denoiser), torch.tensor([0, 1, 2, 1])
    model = classifier_free(denoiser, y, 0.6, plus_plus=True)
    guide = Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)), 3.0)
    plain, shifted = (next(ddpm(each, x_t, chain[4:5], lambda: x_t)).x_t for each in (model, steered(model, guide)))
    torch.testing.assert_close(shifted - plain, torch.full_like(x_t, 3 * chain[4].beta_tilde), rtol=1e-4, atol=1e-5)


def test_the_posterior_mean_of_a_noised_estimate_has_the_signal_of_the_step_before():
    for step in STEPS.values():
        assert step.mean_x0 + step.alpha_bar ** 0.5 * step.mean_xt == pytest.approx(step.alpha_bar_prev ** 0.5, rel=1e-9)


def test_ddpm_without_other_noise_is_ancestral_sampling_to_the_bit():
    denoiser = tiny_denoiser()
    model, chain, noise = adm(denoiser), steps(range(0, 50, 7), denoiser.schedule), normal_noise((3, 1, 8, 8))
    moments, x_t = run(ddpm, model, chain, normal_noise((3, 1, 8, 8))), noise()
    for step, moment in zip(chain, moments):
        with torch.no_grad():
            found = model(x_t, step)
        x_t = posterior_mean(step, x_t, found.x0_hat) + (found.variance ** 0.5 * noise() if step.t_prev >= 0 else 0)
        assert torch.equal(moment.x_t, x_t)


# APG and rescaling

CHAIN = steps("10", LINEAR)


def test_a_projection_keeps_what_is_orthogonal_to_the_strong_x0_hat_and_no_longer_than_its_norm():
    strong, weak = halves()
    x_t, c, u = points(), *(model(points(), STEPS[400]).x0_hat.double() for model in halves())
    d = c - u
    parallel = (d * c).sum(dim=(1, 2, 3), keepdim=True) / c.square().sum(dim=(1, 2, 3), keepdim=True) * c
    for eta in (0.0, 0.3, 1.0):
        found = contrast(strong, weak, SCALES, projected=Projection(eta=eta))(x_t, STEPS[400]).x0_hat
        assert relative_error(found, c + (SCALES.view(5, 1, 1, 1) - 1) * (d - (1 - eta) * parallel)) < 1e-6
    assert relative_error(found, contrast(strong, weak, SCALES)(x_t, STEPS[400]).x0_hat) < 1e-6  # eta = 1
    lengths = d.flatten(1).norm(dim=1)
    norm = lengths.sort().values[2].item() + 1e-3  # three are shorter
    pushed = contrast(strong, weak, 2.0, projected=Projection(norm=norm, eta=1.0))(x_t, STEPS[400]).x0_hat - c
    torch.testing.assert_close(pushed.flatten(1).norm(dim=1), lengths.clamp(max=norm))


def test_the_momentum_is_that_of_the_chain():
    """A step that is repeated (self-recurrence, a rehearsal, a second look) counts once; a chain that begins, from nothing."""
    projected = Projection(-0.5, eta=1.0)
    strong, weak = halves()
    model, x_t = contrast(strong, weak, 2.0, projected=projected), points()
    d = [strong(x_t, step).x0_hat - weak(x_t, step).x0_hat for step in CHAIN]
    pushed = [d[0], d[1] - 0.5 * d[0], d[2] - 0.5 * d[1] + 0.25 * d[0]]

    def push(i):
        return model(x_t, CHAIN[i]).x0_hat - strong(x_t, CHAIN[i]).x0_hat

    for i in (0, 0, 1, 1, 1, 2, 0, 1, 2, 2):
        torch.testing.assert_close(push(i), pushed[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(push(1), d[1], rtol=1e-4, atol=1e-5)  # higher than the last: a chain that begins there


def test_the_momentum_keeps_no_graph():
    model = contrast(lambda x_t, step: Prediction(x_t * step.t, 1.0), lambda x_t, step: Prediction(x_t ** 2, 1.0), 2.0,
                     projected=Projection(-0.5))
    assert model(points().requires_grad_(), CHAIN[0]).x0_hat.requires_grad
    assert not model(points(), CHAIN[1]).x0_hat.requires_grad


def test_without_momentum_a_model_may_be_any_chains():
    strong, weak = halves()
    model = contrast(strong, weak, 2.0, projected=Projection(norm=2.0))
    found = model(points(), CHAIN[0]).x0_hat
    assert torch.equal(model(points()[:2], CHAIN[1]).x0_hat, contrast(strong, weak, 2.0, projected=Projection(norm=2.0))(
        points()[:2], CHAIN[1]).x0_hat) and torch.equal(model(points(), CHAIN[0]).x0_hat, found)


@pytest.mark.parametrize("how", [{"projected": Projection(-0.5, 1.0)}, {"rescale": 0.7}, {"plus_plus": True}])
def test_guides_look_through_a_contrast_also_where_it_moves_nothing(how):
    """Of the second sample, of the null class, the difference is 0: so is its norm, and no NaN may come of it. Each step's
    graph is its own."""
    denoiser, y = tiny_conditional(), torch.tensor([0, 3, 2, 1])
    x_t, chain = tiny_points(denoiser)
    model = steered(classifier_free(denoiser, y, 0.7, **how), Guide(lambda look: look.x0_hat.square().sum(dim=(1, 2, 3))))
    for step in chain[:3]:
        gradient = model(x_t, step).gradient
        assert gradient.isfinite().all() and gradient.flatten(1).any(dim=1).all()
    free = steered(labelled(denoiser, None), Guide(lambda look: look.x0_hat.square().sum(dim=(1, 2, 3))))(x_t, chain[2])
    assert relative_error(gradient[1], free.gradient[1]) < 1e-4


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaling_goes_back_to_the_strong_models_spread_of_each_sample(phi):
    strong, weak = halves()
    x_t, step = points(), STEPS[400]
    plain, found = (contrast(strong, weak, SCALES, rescale=rescale)(x_t, step).x0_hat for rescale in (0.0, phi))
    wanted, before, after = (x.flatten(1).std(dim=1) for x in (strong(x_t, step).x0_hat, plain, found))
    torch.testing.assert_close(after, phi * wanted + (1 - phi) * before)
    torch.testing.assert_close(found / after.view(5, 1, 1, 1), plain / before.view(5, 1, 1, 1))


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"momentum": -1.5}, {"norm": 0.0}, {"norm": -2.0}, {"norm": math.nan}])
def test_what_no_projection_can_be_is_refused(settings):
    with pytest.raises(UserError, match="a projection was given momentum .*; give a momentum between -1 and 1, and a norm"):
        Projection(**settings)


@pytest.mark.parametrize("rescale", [-0.1, 1.1, math.nan])
def test_what_no_rescaling_can_be_is_refused(rescale):
    with pytest.raises(UserError, match=r"a contrast was given rescale \S+; give a number from 0, none, to 1, all"):
        contrast(*halves(), 2.0, rescale=rescale)


# their numbers

@pytest.mark.parametrize("name, first", [("cfg_glide_ddpm_linear_4", 2e-4), ("cfg_glide_ddim_cosine_4_with_classifier", 2e-5)])
def test_glide(name, first):
    """At t = 999 of the linear schedule they go from v to eps to x_0 in float32, past a division by 0.006: `first`."""
    theirs, expected = VECTORS[name]["config"], arrays(name)
    y, denoiser = expected["y"], velocity_denoiser("class_cond", theirs["schedule"], null_class=True)
    model = thresholded(classifier_free(denoiser, y, theirs["w"]), clip)
    if "clf" in theirs:
        model = steered(model, classified(sharp_classifier(theirs["clf"], theirs["schedule"]), y, theirs["clf_scale"]))
    chain = steps(theirs["steps"] if theirs["method"] == "ddim" else str(theirs["steps"]), denoiser.schedule)
    assert [step.t for step in chain] == expected["timesteps"].tolist()
    x_T, t = expected["x_T"], torch.full((2,), chain[0].t)
    for key, label in (("out_cond_first", y), ("out_uncond_first", None)):
        with torch.no_grad():
            assert relative_error(torch.cat(denoiser.predicted(x_T, t, label), dim=1), expected[key]) < 5e-6
    if "clf" in theirs:
        gradient = model(x_T, chain[0]).gradient
        assert relative_error(gradient, theirs["clf_scale"] * expected["grad_first"]) < 1e-5
    draws = iter([x_T, *expected["noise"]])
    moments = run(SAMPLERS[theirs["method"]].load(), model, chain, lambda: next(draws))
    for i, (moment, x, pred_x0) in enumerate(zip(moments, expected["x"], expected["pred_x0"], strict=True)):
        assert relative_error(moment.x_t, x) < 2e-5
        assert relative_error(moment.x0_hat, pred_x0) < (2e-5 if i else first)


@pytest.mark.parametrize("name, how", [
    ("cfg", {}), ("cfg_original_formulation", {}), ("cfg_rescaled", {"rescale": 0.7}),
    ("apg_original_formulation", {"projected": Projection(-0.5, 2.5)}), ("apg", {"projected": Projection(-0.5, 2.5)})])
def test_diffusers_guiders(name, how):
    """Two steps of a chain. diffusers' own form of APG is u + w times what the paper's c + (w - 1) times it has."""
    expected, w = arrays("guiders"), 5.0
    cond, uncond = expected["pred_cond"], expected["pred_uncond"]
    of_step = {step.t: (Prediction(c, 1.0), Prediction(u, 1.0)) for step, c, u in zip(CHAIN, cond, uncond)}
    model = contrast(None, None, w, both=lambda x_t, step: of_step[step.t], **how)
    for step, c, u, theirs in zip(CHAIN, cond, uncond, expected[name]):
        x0_hat = model(c, step).x0_hat
        ours = u + w * (x0_hat - c) / (w - 1) if name == "apg" else x0_hat
        assert relative_error(ours, theirs) < 5e-7
