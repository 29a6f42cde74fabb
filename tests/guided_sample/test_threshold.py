"""Clipping x0_hat, to [-1,1] or to a quantile of its own, before the guidance or after."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from guided_sample.composition import Parts, compose
from guided_sample.labels import Labels
from guided_sample.loaders.classifier import in_memory
from guided_sample.loading import classifying
from guided_sample.model import dynamic, guided, labelled, steered
from guided_sample.request import Request
from guided_sample.steps import steps
from guided_sample.targets import Targets
from noisy_clf.errors import UserError
from tests.conftest import NAMES, SCHEDULE, tiny_classifier, tiny_denoiser
from tests.seam import classified, normal_noise

Y = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("quantile", [0.995, 0.9, 0.5, 1.0, 0.01])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 1, 5, 5), (4, 1, 1, 1)])
def test_dynamic_thresholds_are_each_samples_own_quantile(quantile: float, shape: tuple[int, ...]):
    x0_hat = 3 * normal_noise(shape)() * torch.tensor([0.01, 1, 2, 30]).view(4, 1, 1, 1)
    q = torch.quantile(x0_hat.abs().flatten(1).double(), quantile, dim=1).clamp(min=1).view(4, 1, 1, 1)
    found = dynamic(quantile)(x0_hat)
    assert torch.allclose(found.double(), x0_hat.double().clamp(-q, q) / q, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0], x0_hat[0])  # within [-1,1] nothing changes
    assert torch.equal(found[1:2], dynamic(quantile)(x0_hat[1:2]))


def test_what_no_quantile_can_be_made_of_stays_to_be_seen():
    x0_hat = torch.full((1, 1, 4, 4), torch.nan)
    assert dynamic()(x0_hat).isnan().all()


def composed(sampler: str, threshold: str, see: str = "x_t"):
    """(the model of such a request, its denoiser alone, its classifier as a guide, a step)."""
    denoiser, classifier = tiny_denoiser(), tiny_classifier()
    asked = Request(model="tiny", scale=300.0, sampler=sampler, threshold=threshold, see=see)
    guide, _ = classifying(asked.own_guide, in_memory(classifier), denoiser)
    labels, chain = Labels((0, 2, 1), names=NAMES), steps("10", SCHEDULE)
    targets = Targets(labels, 0, range(3), torch.device("cpu"))
    model = compose(replace(asked, classes=(0, 2, 1)), Parts(denoiser, None, (guide,), chain), targets, lambda: None)
    return model, labelled(denoiser, None), classified(classifier, Y, 300.0), chain[4]


@pytest.mark.parametrize("threshold", ["static", "dynamic:0.9", "none"])
@pytest.mark.parametrize("sampler, after", [
    ("ddpm", False), ("ddim", False), ("dpm++", True), ("dpm++sde", True), ("unipc", True)])
def test_solvers_that_remember_threshold_after_the_guidance_and_adm_before(sampler: str, after: bool, threshold: str):
    model, plain, guide, step = composed(sampler, threshold)
    how = {"static": lambda x0_hat: x0_hat.clamp(-1, 1), "dynamic:0.9": dynamic(0.9), "none": lambda x0_hat: x0_hat}[threshold]
    x_t = normal_noise((3, 1, 8, 8))()
    found = model(x_t, step)
    raw = steered(plain, guide)(x_t, step)
    if after:
        expected = how(guided(raw, x_t, step)[0])
        assert found.gradient is None or threshold == "none"
    else:
        expected = guided(raw._replace(x0_hat=how(raw.x0_hat)), x_t, step)[0]
    x0_hat = guided(found, x_t, step)[0]
    assert torch.allclose(x0_hat, expected, rtol=1e-4, atol=1e-4)
    assert (x0_hat.abs().max() <= 1.001) == (after and threshold != "none")


def test_at_clean_x0_hat_ddim_clips_before_the_guidance_and_after():
    model, plain, _, step = composed("ddim", "static", see="x0")
    found = model(normal_noise((3, 1, 8, 8))(), step)
    assert found.gradient is None and found.x0_hat.abs().max() <= 1


@pytest.mark.parametrize("text, kept", [("static", "static"), ("none", "none"), ("dynamic", "dynamic:0.995"),
                                        ("dynamic:0.9", "dynamic:0.9"), ("dynamic:1", "dynamic:1"),
                                        ("dynamic:0.99999999", "dynamic:0.99999999")])
def test_thresholds_are_told_in_full(text: str, kept: str):
    assert Request(threshold=text).threshold == kept


@pytest.mark.parametrize("text, words", [
    ("dynamic:much", "threshold: 'much' is no quantile; give a number above 0 and at most 1"), ("dynamic:0", "no quantile"),
    ("dynamic:1.5", "no quantile"), ("dynamic:nan", "no quantile"), ("dynamic:", "'' is no quantile"),
    ("clip", "'clip' is no threshold; there are static, dynamic, dynamic:0.995 and none"), ("static:1", "is no threshold")])
def test_what_is_no_threshold_is_refused(text: str, words: str):
    with pytest.raises(UserError, match=words):
        Request(threshold=text)
