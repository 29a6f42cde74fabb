"""Classifiers as guides: what never saw noise, at x0_hat, against EluCD's program and closed forms; weights of classes."""
from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from guided_sample.guides.classifier import Boost, log_prob, log_prob_of
from guided_sample.loaders.classifier import in_memory, load_guiding_classifier, resized, softened
from guided_sample.model import Guide, Look, Prediction, labelled, steered
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from tests.conftest import NAMES, SCHEDULE, stored, tiny_classifier, tiny_denoiser
from tests.guidance_family import VECTORS, arrays, sharp_classifier, velocity_denoiser
from tests.oracles import Exact, Mixture
from tests.reference import relative_error
from tests.seam import adm, last, run

ELUCD = "off_the_shelf_elucd_linear_4"
LINEAR = NoiseSchedule.named("linear", 1000)
STEP = steps([0, 400], LINEAR)[0]
MEANS = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 3
Y = torch.tensor([0, 1, 2, 3, 0])


def points(*shape, seed=1):
    return torch.randn(*(shape or (5, 3, 5, 5)), generator=torch.Generator().manual_seed(seed))


def of_the_first_pixel(variance):
    """EluCD's: one number, of the batch's first sample, for all samples of the batch."""
    return variance[:1, :1, :1, :1]


def elucd_model(which=slice(None), **summary):
    """(what EluCD's program guides, its chain), for the samples of the batch that are chosen."""
    config = VECTORS[ELUCD]["config"]
    denoiser = velocity_denoiser(config["net"], config["schedule"])
    classifier = sharp_classifier(config["clf"], config["schedule"], config["sharp"])
    chain, y = steps(str(config["steps"]), denoiser.schedule), torch.tensor(config["y"])[which]
    boost = Boost(chain, config["gamma"], **summary)
    density = log_prob_of(classifier, y, "x0", joint=config["joint"], margin=config["discount"], boost=boost)
    return adm(denoiser, Guide(density, config["scale"]), y=y), chain


def drawn(which=slice(None), **summary):
    theirs = arrays(ELUCD)
    draws = iter([theirs["x_T"], *theirs["noise"]])
    return run(ddpm, *elucd_model(which, **summary), lambda: next(draws)[which])


def test_the_off_the_shelf_programs_trajectory_with_its_variance_of_the_first_pixel():
    theirs, ours = arrays(ELUCD), drawn(summary=of_the_first_pixel)
    assert [moment.t for moment in ours] == [*theirs["timesteps"][1:].tolist(), -1]
    for moment, x in zip(ours, theirs["x"], strict=True):
        assert relative_error(moment.x_t, x) < 2e-4


def test_the_off_the_shelf_programs_gradients_and_variances():
    """Theirs without what is added to the variance, which is in x_t's share and so in our gradient."""
    theirs = arrays(ELUCD)
    model, chain = elucd_model(summary=of_the_first_pixel)
    found = [model(x_t, step) for x_t, step in zip([theirs["x_T"], *theirs["x"]], chain)]
    assert relative_error(torch.stack([one.variance[0, 0, 0, 0] for one in found]), theirs["variance_of_first_pixel"]) < 1e-5
    added = theirs["added_to_variance"].float()
    assert added[-1] == 0
    for i, gradient in ((0, theirs["gradient_first"]), (-1, theirs["gradient_last"])):
        assert relative_error(found[i].variance * found[i].gradient, (found[i].variance + added[i]) * gradient) < 1e-4
    classifier = sharp_classifier("attention", "linear", 10.0)
    assert relative_error(classifier(found[0].x0_hat, torch.zeros(2).long()), theirs["logits_first"]) < 1e-4


def test_what_is_added_to_the_variance_is_a_sine_of_the_place_in_the_chain_times_the_largest_variance_so_far():
    chain, x_t = steps("4", LINEAR), points(2, 3, 4, 4)
    variances = torch.tensor([[0.5, 0.1], [1.0, 0.05], [0.2, 0.02], [0.0, 0.0]])
    largest = torch.tensor([[0.5, 0.1], [1.0, 0.1], [1.0, 0.1], [1.0, 0.1]])
    boost = Boost(chain, gamma=0.3)
    for factor in (1, 0.1):  # another chain begins anew
        for step, variance, most, sine in zip(chain, factor * variances, factor * largest, (0.5 ** 0.5, 1, 0.5 ** 0.5, 0)):
            variance, most = (part.view(2, 1, 1, 1).expand_as(x_t) for part in (variance, most))
            share = boost(Look(lambda x_t, step: Prediction(x_t, variance), x_t, step))
            torch.testing.assert_close(variance * share, variance + 0.3 * sine * most)  # 0 at the last step, and no NaN


def test_a_variance_of_its_own_keeps_each_sample_apart_from_its_batch():
    """Theirs does not."""
    for summary, apart in (({}, True), ({"summary": of_the_first_pixel}, False)):
        together, alone = last(drawn(**summary)), torch.cat([last(drawn([i], **summary)) for i in range(2)])
        assert (relative_error(alone, together) < 2e-5) == apart


def test_where_the_last_steps_variance_is_0_a_boosted_chain_ends_well():
    denoiser, chain = tiny_denoiser(variance="fixed_small", out_channels=1), steps("5", SCHEDULE)
    guide = Guide(log_prob_of(tiny_classifier(), torch.tensor([0, 1]), "x0", boost=Boost(chain)), 3.0)
    x_t = points(2, 1, 8, 8)
    assert adm(denoiser, guide)(x_t, chain[-1]).variance == 0
    assert last(run(ddpm, adm(denoiser, guide), chain, lambda: x_t)).isfinite().all()


@pytest.mark.parametrize("joint, margin", [(1.0, None), (1.0, 1.0), (1.5, 0.25)])
def test_the_gradient_at_a_constant_x0_hat_is_exact(joint, margin):
    """d/dx_0 of log [p(y, x_0)^joint / sum_k p(k, x_0)^(joint margin)], at the mixture's own E[x_0 | x_t]."""
    oracle, x_t, zero = Mixture(MEANS, 0.2, LINEAR), points(), torch.zeros(5).long()
    density = log_prob_of(oracle.classifier(), Y, "x0", joint=joint, margin=margin)
    found = steered(labelled(oracle.denoiser(), None), Guide(density, 2.0))(x_t, STEP)
    signal, _, v = oracle.spread(zero)
    slopes = signal[:, None] * (signal[:, None] * oracle.means - found.x0_hat[:, None]) / v[:, None]  # of the logits
    shares = joint * (0.5 if margin is None else margin)
    logits = oracle.logits(found.x0_hat, zero)
    expected = torch.einsum("bk,bkchw->bchw", (shares * logits).softmax(dim=1), slopes)
    exact = 2 * (joint * slopes[range(5), Y] - shares * expected)
    assert relative_error(found.gradient, exact) < 1e-4
    log_density = 2 * (joint * logits[range(5), Y] - (shares * logits).logsumexp(dim=1))
    torch.testing.assert_close(found.log_density, log_density.float(), rtol=1e-4, atol=1e-4)


def test_the_gradient_through_the_denoiser_is_exact():
    """E[x_0 | x_t] of one Gaussian is linear in x_t: the gradient is that slope times the classifier's at x0_hat."""
    oracle, x_t, zero = Mixture(MEANS, 0.2, LINEAR), points(), torch.zeros(5).long()
    one = Mixture(MEANS[:1], 0.5, LINEAR)
    found = steered(labelled(one.denoiser(), None), Guide(log_prob_of(oracle.classifier(), Y, "through")))(x_t, STEP)
    signal, _, v = one.spread(torch.full((5,), 400))
    exact = signal * 0.5 ** 2 / v * oracle.grad_log_prob(found.x0_hat, zero, Y)
    assert relative_error(found.gradient, exact) < 1e-4
    log_p = oracle.logits(found.x0_hat, zero).log_softmax(dim=1)[range(5), Y]
    torch.testing.assert_close(found.log_density, log_p.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("see, t, graphs", [("x_t", 400, [False]), ("x0", 0, [False]), ("through", 0, [True])])
def test_a_classifier_is_told_t_of_what_it_sees_and_the_denoiser_runs_once(see, t, graphs):
    oracle, told, ran = Mixture(MEANS, 0.2, LINEAR), [], []

    def logits(x, t):
        told.append(t.tolist())
        return oracle.logits(x, t)

    def model(x_t, step):
        found = labelled(oracle.denoiser(), None)(x_t, step)
        ran.append(found.x0_hat.requires_grad)
        return found

    classifier = oracle.classifier()
    classifier.network.formula = logits
    with torch.no_grad():
        found = steered(model, Guide(log_prob_of(classifier, Y, see)))(points(), STEP)
    assert told == [[t] * 5] and ran == graphs and not found.x0_hat.requires_grad


def test_a_classifier_sees_one_of_three():
    with pytest.raises(UserError, match="a classifier cannot see 'x1'; it can see: x_t, x0, through."):
        log_prob_of(tiny_classifier(), Y, "x1")


@pytest.mark.parametrize("see", ["x_t", "x0", "through"])
def test_each_sample_is_its_own_whatever_is_seen(see):
    denoiser, classifier, y = tiny_denoiser(), tiny_classifier(), torch.tensor([0, 1, 2, 0])
    chain = steps("10", denoiser.schedule)
    x_t = points(4, 1, 8, 8)

    def gradient(which):
        boost = Boost(chain) if see == "x0" else None
        density = log_prob_of(classifier, y[which], see, adapt=20.0, boost=boost)
        return adm(denoiser, Guide(density), clipped=False)(x_t[which], chain[3]).gradient

    assert relative_error(torch.cat([gradient([i]) for i in range(4)]), gradient(slice(None))) < 1e-5


# weights of classes


def test_a_class_is_as_it_was_and_as_a_weight_of_1_to_the_bit():
    classifier, x_t, y = tiny_classifier(), points(3, 1, 8, 8), torch.tensor([0, 2, 1])
    found = []
    for density in (lambda x, t: -F.cross_entropy(classifier(x, t).float(), y, reduction="none"),
                    lambda x, t: log_prob(classifier, x, t, y),
                    lambda x, t: log_prob(classifier, x, t, F.one_hot(y, 3).float())):
        x = x_t.clone().requires_grad_()
        value = density(x, torch.full((3,), 7))
        found.append((value, torch.autograd.grad(value.sum(), x)[0]))
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0]) and torch.equal(gradient, found[0][1])


def test_weights_of_classes_sum_their_log_p():
    oracle, x_t, t = Mixture(MEANS, 0.2, LINEAR), points(), torch.full((5,), 400)
    weights = torch.tensor([1.0, -0.5, 0.0, 2.0]).repeat(5, 1)
    weights[3] = torch.tensor([0.0, 0.0, 0.25, 0.0])
    found = steered(labelled(oracle.denoiser(), None), Guide(log_prob_of(oracle.classifier(), weights)))(x_t, STEP)
    exact = sum(weights[:, k].view(5, 1, 1, 1) * oracle.grad_log_prob(x_t, t, torch.full((5,), k)) for k in range(4))
    assert relative_error(found.gradient, exact) < 1e-4
    log_p = oracle.logits(x_t, t).log_softmax(dim=1)
    torch.testing.assert_close(found.log_density, (weights * log_p).sum(dim=1).float(), rtol=1e-4, atol=1e-4)


def test_a_class_without_weight_may_be_impossible():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    classifier = NoisyClassifier(Exact(lambda x, t: logits, in_channels=1, num_classes=3, image_size=8), SCHEDULE, NAMES)
    value = log_prob(classifier, torch.zeros(1, 1, 8, 8), torch.zeros(1).long(), torch.tensor([[1.0, -1.0, 0.0]]))
    assert value.item() == pytest.approx(-1.0)
    gradient, = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]]))


def test_weights_of_another_shape_are_told():
    with pytest.raises(UserError, match=r"the classes' weights are shaped \[3\]; 2 samples of 3 classes have weights \[2, 3\]"):
        log_prob(tiny_classifier(), points(2, 1, 8, 8), torch.zeros(2).long(), torch.ones(3))


# what never saw noise


@pytest.mark.parametrize("training, clean", [
    ({"t_sampling": "levels:0,0"}, True), ({"t_sampling": "levels:0.0,0.0"}, True), ({"t_sampling": "levels:0,0.6"}, False),
    ({"t_sampling": "uniform"}, False), ({"iterations": 7}, False), ({"t_sampling": "by magic"}, None), ("long", None),
    (None, None)])
def test_a_runs_record_tells_whether_it_never_saw_noise(tmp_path: Path, training, clean):
    folder = stored(tiny_classifier(), tmp_path / "run" / "best", **({"training": training} if training else {}))
    assert load_guiding_classifier(str(folder.parent), None, tiny_denoiser().space).clean is clean


def test_timms_never_saw_noise_the_bundled_did_and_of_ones_own_nothing_is_known():
    save_file(timm.create_model("test_resnet", num_classes=3, in_chans=1).state_dict(), "clean.safetensors")
    space = tiny_denoiser().space
    assert load_guiding_classifier("timm:test_resnet@clean.safetensors", None, space).clean is True
    assert load_guiding_classifier("digits", None, space).clean is False
    assert in_memory(tiny_classifier()).clean is None


def test_a_clean_classifier_of_a_larger_size_is_shown_images_resized():
    """An image that is linear from side to side stays so, but at its borders; the schedule is the denoiser's."""
    seen = []

    def logits(x, t):
        seen.append(x)
        return x.mean(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, 2.0, -1.0])

    large = NoisyClassifier(Exact(logits, in_channels=1, num_classes=3, image_size=16), LINEAR, NAMES)
    space = tiny_denoiser().space
    classifier, told = resized(large, space)
    assert classifier.space == space and classifier.class_names == NAMES
    assert told == "The classifier sees the images at 16 pixels a side, resized from 8 (bilinear, antialiased, differentiably)."
    x_t = (torch.arange(8.0) / 7).expand(2, 1, 8, 8).clone().requires_grad_()
    value = log_prob(classifier, x_t, torch.zeros(2).long(), torch.tensor([1, 1]))
    torch.testing.assert_close(seen[0][:, :, :, 1:-1], ((torch.arange(16) - 0.5) / 14).expand(2, 1, 16, 16)[..., 1:-1])
    slope = torch.autograd.grad(value.sum(), x_t)[0]
    assert (slope > 0).all()


def test_a_clean_classifier_of_a_smaller_size_is_shown_every_pixel():
    bright = Exact(lambda x, t: x.mean(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, 2.0, -1.0]),
                   in_channels=1, num_classes=3, image_size=2)
    classifier, _ = resized(NoisyClassifier(bright, LINEAR, NAMES), tiny_denoiser().space)
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    assert (torch.autograd.grad(classifier(x, torch.zeros(1).long())[0, 1], x)[0] > 0).all()


def test_what_fits_is_not_resized_and_grey_images_are_shown_in_colours():
    colour, x_t, t = tiny_classifier(LINEAR, in_channels=3), points(2, 1, 8, 8), torch.zeros(2).long()
    classifier, told = resized(colour, tiny_denoiser().space)
    assert told == "The classifier sees the images with their grey in all of its 3 channels."
    assert torch.equal(classifier(x_t, t), colour(x_t.repeat(1, 3, 1, 1), t))
    grey = tiny_classifier(LINEAR)
    classifier, told = resized(grey, tiny_denoiser().space)
    assert told is None and torch.equal(classifier(x_t, t), grey(x_t, t))
    with pytest.raises(UserError, match="the classifier's images have 1 channels and the denoiser's 3; only a grey image can"):
        resized(grey, Space(SCHEDULE, 8, 3))


def test_every_relu_is_softened_and_the_classifier_itself_is_left_alone():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return F.relu(self.act(x) - 1)  # which is none of its modules, and stays

    network = nn.Sequential(nn.ReLU(), nn.ModuleDict({"deep": Block()})["deep"]).eval()
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    soft = softened(network)
    torch.testing.assert_close(soft(x.clone()), F.relu(F.softplus(F.softplus(x, beta=3), beta=3) - 1))
    torch.testing.assert_close(network(x.clone()), F.relu(F.relu(x) - 1))
    assert not soft.training


def test_a_timm_backbone_is_softened_where_it_is_bent():
    torch.manual_seed(0)
    network = TimmClassifier(TimmConfig(name="test_resnet", image_size=8, in_channels=1, num_classes=3, input_size=32))
    classifier = NoisyClassifier(network, SCHEDULE, NAMES).eval().requires_grad_(False)
    soft, x_t, t = softened(classifier), points(2, 1, 8, 8), torch.tensor([0, 30])
    assert not any(isinstance(module, nn.ReLU) for module in soft.modules()) and soft.class_names == NAMES
    before = classifier(x_t, t)
    assert not torch.allclose(soft(x_t, t), before)
    torch.testing.assert_close(softened(classifier, beta=1e5)(x_t, t), before)  # as sharp as a ReLU: all else is the same
    smooth = tiny_classifier()  # SiLU: nothing to do
    assert softened(smooth) is smooth and softened(len) is len
