"""A scale that is adapted to the classifier's entropy, against ED-DPM's program and in its limits."""
from __future__ import annotations

import math

import pytest
import torch

from guided_sample.guides import CAP
from guided_sample.guides.classifier import entropy_scale, log_prob, log_prob_of
from guided_sample.model import Guide, labelled, steered
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.guidance_family import VECTORS, arrays, sharp_classifier, velocity_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error
from tests.seam import adm, run

NAME = "entropy_scale_ddpm_linear_4"
CONFIG = VECTORS[NAME]["config"]
LINEAR = NoiseSchedule.named("linear", 1000)


def entropy(p):
    return -sum(share * math.log(share) for share in p)


def test_ed_dpms_trajectory():
    """Theirs has no cap."""
    theirs, denoiser = arrays(NAME), velocity_denoiser(CONFIG["net"], CONFIG["schedule"])
    classifier = sharp_classifier(CONFIG["clf"], CONFIG["schedule"], CONFIG["sharp"])
    guide = Guide(log_prob_of(classifier, theirs["y"], adapt=math.inf), CONFIG["scale"])
    chain, draws = steps(str(CONFIG["steps"]), denoiser.schedule), iter([theirs["x_T"], *theirs["noise"]])
    for moment, x in zip(run(ddpm, adm(denoiser, guide), chain, lambda: next(draws)), theirs["x"], strict=True):
        assert relative_error(moment.x_t, x) < 1e-4


def test_ed_dpms_scales_logits_and_gradient():
    theirs, classifier = arrays(NAME), sharp_classifier(CONFIG["clf"], CONFIG["schedule"], CONFIG["sharp"])
    for x_t, t, scale in zip([theirs["x_T"], *theirs["x"]], theirs["timesteps"], theirs["scale"], strict=False):
        logits = classifier(x_t, t.repeat(2))
        assert relative_error(CONFIG["scale"] * entropy_scale(logits, math.inf), scale) < 1e-5
    x_T, t = theirs["x_T"].requires_grad_(), torch.full((2,), 999)
    assert relative_error(classifier(x_T, t), theirs["logits_first"]) < 1e-5
    density = log_prob(classifier, x_T, t, theirs["y"], adapt=math.inf) * CONFIG["scale"]
    gradient = torch.autograd.grad(density.sum(), x_T)[0]  # theirs is before it is scaled
    assert relative_error(gradient, theirs["scale"][0].view(2, 1, 1, 1) * theirs["gradient_first"]) < 1e-5


def test_the_scale_is_1_where_nothing_is_known_and_the_cap_where_all_is():
    """In between log K / H, whichever the class and whatever the other samples are."""
    logits = torch.tensor([[2.5, 2.5, 2.5, 2.5], [200.0, 0.0, 0.0, 0.0], [-math.inf, 0.0, -math.inf, -math.inf],
                           [math.log(0.5), math.log(0.25), math.log(0.125), math.log(0.125)]])
    middle = math.log(4) / entropy([0.5, 0.25, 0.125, 0.125])
    torch.testing.assert_close(entropy_scale(logits, 7.0), torch.tensor([1.0, 7.0, 7.0, middle]))
    torch.testing.assert_close(entropy_scale(logits), torch.tensor([1.0, CAP, CAP, middle]))
    for row in range(4):
        assert torch.equal(entropy_scale(logits[row:row + 1]), entropy_scale(logits)[row:row + 1])


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 100.0])
def test_entropy_adapts_the_exact_gradient_and_is_not_part_of_it(sharpness):
    means = sharpness * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 30
    oracle, y, t = Mixture(means, 0.2, LINEAR), torch.tensor([0, 1, 2, 3, 0]), torch.full((5,), 400)
    x_t = torch.randn(5, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    guide = Guide(log_prob_of(oracle.classifier(), y, adapt=CAP), 2.0)
    found = steered(labelled(oracle.denoiser(), None), guide)(x_t, steps([400], LINEAR)[0])
    p = oracle.logits(x_t, t).softmax(dim=1)
    factor = (math.log(4) / -(p * p.log()).sum(dim=1)).clamp(max=CAP)
    if sharpness == 100:
        assert (factor == CAP).any()
    exact = 2 * factor.view(5, 1, 1, 1) * oracle.grad_log_prob(x_t, t, y)
    assert (found.gradient - exact).norm() < 1e-4 * exact.norm()
    torch.testing.assert_close(found.log_density, (2 * factor * p.log()[range(5), y]).float(), rtol=1e-4, atol=1e-5)


def test_the_adapted_scale_is_each_samples_own():
    denoiser, classifier, y = tiny_denoiser(), tiny_classifier(), torch.tensor([0, 1, 2, 1])
    x_t = 10 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step = steps("10", denoiser.schedule)[3]

    def gradient(which):
        return adm(denoiser, Guide(log_prob_of(classifier, y[which], adapt=CAP)))(x_t[which], step).gradient

    assert relative_error(gradient(slice(None)), torch.cat([gradient([i]) for i in range(4)])) < 1e-5
    weights = torch.nn.functional.one_hot(y, 3).float()
    adapted = log_prob(classifier, x_t, torch.full((4,), step.t), weights, adapt=CAP)
    torch.testing.assert_close(adapted, log_prob(classifier, x_t, torch.full((4,), step.t), y, adapt=CAP))
