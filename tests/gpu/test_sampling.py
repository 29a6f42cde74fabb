"""Sampling on a GPU: the same numbers as on the CPU."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from guided_sample.contrast import contrast
from guided_sample.denoiser import unet_denoiser
from guided_sample.finite import NotFinite, Watch
from guided_sample.model import Guide, labelled, steered_at_mean
from guided_sample.plan import Plan
from guided_sample.request import Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import steps
from guided_sample.unet import UNet, UNetConfig
from guided_sample.upsample import enlarging
from noisy_clf.execution import exact_float32
from noisy_clf.noise import SampleNoise
from tests.commands import contents, sample
from tests.conftest import NAMES, SCHEDULE, tiny_classifier, tiny_denoiser
from tests.reference import relative_error, with_drawn_weights
from tests.seam import adm, classified, last, run

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
CHAIN = steps(range(0, 50, 7), SCHEDULE)
METHODS = [("ddpm", {}), ("ddim", {}), ("ddim", {"eta": 1.0})]
SIMILAR = [{"classes": ("none",), **asked} for asked in (
    {"like": ("digits:three", "digits:one"), "style": ("digits:one",)}, {"like": ("digits:three",), "see": "x0"},
    {"text": ("a three", "an eight")})]


def trajectory(method, device, model_of):
    exact_float32()
    sampler, knobs = method
    noise = SampleNoise(0, [0, 1, 2], (1, 8, 8), device)
    return [moment.x_t.cpu() for moment in run(SAMPLERS[sampler].load(), model_of(device), CHAIN, noise, **knobs)]


def tiny_models(device, class_names=None):
    denoiser, classifier = tiny_denoiser(class_names=class_names), tiny_classifier().to(device)
    denoiser.network.to(device)
    y = torch.tensor([0, 1, 2], device=device)
    return denoiser, classified(classifier, y, 2.0), y


def guided(device):
    denoiser, guide, _ = tiny_models(device)
    return adm(denoiser, guide)


def guided_at_the_mean(device):
    denoiser, guide, _ = tiny_models(device)
    return steered_at_mean(labelled(denoiser, None), guide)


def by_two_guides_one_through_the_denoiser(device):
    denoiser, guide, _ = tiny_models(device)
    return adm(denoiser, guide, Guide(lambda look: -look.x0_hat.square().flatten(1).mean(dim=1), torch.tensor([1.0, 2, 3])))


def without_a_classifier(device):
    denoiser, _, y = tiny_models(device, NAMES)
    return contrast(labelled(denoiser, y), labelled(denoiser, torch.zeros_like(y)), 3.0)


@pytest.mark.parametrize("method, model_of", [
    (METHODS[0], guided_at_the_mean),
    *((method, model_of) for method in METHODS
      for model_of in (guided, by_two_guides_one_through_the_denoiser, without_a_classifier))])
def test_every_step_of_a_trajectory_is_that_of_the_cpu(device, method, model_of):
    for here, there in zip(trajectory(method, device, model_of), trajectory(method, CPU, model_of), strict=True):
        assert relative_error(here, there) < 1e-3


def test_the_second_stage_is_that_of_the_cpu(device):
    def stage(where):
        network = UNet(UNetConfig(image_size=16, in_channels=2, out_channels=2, channels=32, channel_mult=(1,)))
        upsampler = unet_denoiser(with_drawn_weights(network).to(where), SCHEDULE, "learned_range", small_size=8)
        noise = SampleNoise(0, [0, 1], (1, 16, 16), where, stream=(2,))
        small = SampleNoise(1, [0, 1], (1, 8, 8), where)().clamp(-1, 1)
        return last(run(SAMPLERS["ddpm"].load(), adm(enlarging(upsampler, small)), CHAIN, noise)).cpu()

    exact_float32()
    assert relative_error(stage(device), stage(CPU)) < 1e-3


def digits(device, compile=False, **settings):
    return Plan.of(Request(**{"model": "digits", "classes": ("all",), "steps": "10"} | settings), device, compile=compile)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_digits_are_those_of_the_cpu(device, sampler):
    spec = {"sampler": sampler}
    here, there = (digits(where, **spec).draw(range(10)) for where in (device, CPU))
    assert np.abs(here.images.astype(int) - there.images).max() <= 2
    assert_close(here.x_0.cpu(), there.x_0, rtol=0, atol=0.01)
    for line, other in zip(here.lines, there.lines):
        assert line == other | {"log_prob": pytest.approx(other["log_prob"], abs=0.02)}


@pytest.mark.parametrize("settings", SIMILAR, ids=str)
def test_digits_like_pictures_and_as_words_say_are_those_of_the_cpu(device, settings):
    here, there = (digits(where, **settings).draw(range(4)) for where in (device, CPU))
    assert np.abs(here.images.astype(int) - there.images).max() <= 2
    for line, other in zip(here.lines, there.lines):
        assert line["wanted"] == other["wanted"]
        assert line["similarities"] == pytest.approx(other["similarities"], abs=0.01)


@pytest.mark.parametrize("settings", [
    *({"sampler": sampler} for sampler in SAMPLERS), {"sampler": "ddim", "knobs": {"eta": 1.0}},
    {"sampler": "dpm++", "steps": "logsnr10", "threshold": "dynamic"},
    {"sampler": "unipc", "steps": "logsnr10", "fractional_t": True},
    {"particles": 2}, {"recur": "2"}, {"see": "x0"}, {"see": "through"}, {"scale_every": "2:held"},
    {"scale": {str(k): 1.0 + k for k in range(10)}}, {"model": "digits-cond", "cfg": 2.0}, {"precision": "bf16"},
    {"precision": "fp16"}, *SIMILAR], ids=str)
def test_no_step_waits_for_the_device(device, settings):
    if device.type == "cpu" and settings.get("precision") == "fp16":
        pytest.skip("a CPU's half precision is bf16")
    plan, indices = digits(device, **settings), range(4)
    plan.draw(indices)  # tables go to the device once
    noise, chains = plan.noise(indices, plan.stream, plan.chains), [i for i in indices for _ in range(plan.chains)]
    model, sampler, x_T = Watch(chains, "it").over(plan.model(chains)), plan.sampler(indices), noise()
    waiting = torch.cuda.set_sync_debug_mode if device.type == "cuda" else lambda told: None
    waiting("error")
    try:
        with plan.precision():
            count = sum(1 for _ in sampler(model, x_T, plan.steps, noise, **plan.request.knobs))
    finally:
        waiting("default")
    assert count == 10


def test_compiled_networks_draw_the_same_digits(device):
    eager, compiled = digits(device), digits(device, compile=True)
    for indices in (range(6), range(6, 12), range(12, 14)):  # the last one eagerly
        assert np.abs(compiled.draw(indices).images.astype(int) - eager.draw(indices).images).max() <= 2


@pytest.mark.parametrize("settings", [
    {"sampler": "ddim", "scale_every": "3:held"}, {"see": "through", "recur": "2"}, {"see": "x0"}, *SIMILAR],
                         ids=str)
def test_compiled_networks_predict_the_same_at_every_step(device, settings):
    """From where the eager chain is, as guidance through the denoiser makes much of rounding; so does 1 / sqrt(alpha_bar) at
    the first step, 2e4."""
    eager, compiled = digits(device, **settings), digits(device, compile=True, **settings)
    noise, errors = eager.noise(range(6), eager.stream), []
    expected, found = (plan.model(range(6)) for plan in (eager, compiled))

    def both(x_t, step):
        here, there = found(x_t, step), expected(x_t, step)
        if step.t < 999:
            errors.extend(relative_error(one, other) for one, other in zip(here, there) if one is not None and one.ndim == 4)
        return there

    list(eager.sampler(range(6))(both, noise(), eager.steps, noise))
    assert len(errors) >= 10 and max(errors) < 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_digits_still_show_their_classes(device, precision):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU's half precision is bf16")
    batch, exact = digits(device, precision=precision).draw(range(20)), digits(device).draw(range(20))
    assert np.abs(batch.images.astype(int) - exact.images).mean() < 4
    assert np.mean([line["log_prob"] > np.log(0.5) for line in batch.lines]) >= 0.9


def test_a_batch_is_its_samples_drawn_one_by_one(device):
    plan = digits(device)
    together, alone = plan.draw(range(6)), [plan.draw([i]) for i in range(6)]
    assert np.abs(together.images.astype(int) - np.concatenate([batch.images for batch in alone])).max() <= 1
    assert torch.equal(plan.draw(range(6)).x_0, together.x_0)


def test_a_denoiser_that_left_the_device_comes_back(device):
    plan = digits(device)
    before = plan.draw([3]).x_0
    plan.leave()
    assert next(plan.denoiser.network.parameters()).device == CPU
    assert torch.equal(plan.draw([3]).x_0, before)


def test_what_is_not_finite_is_told_with_t_and_samples(device):
    plan = digits(device)
    bad = plan.steps[4].t

    def torn(look):
        found = look.x_t.flatten(1).mean(dim=1)
        return found * torch.tensor([1, float("nan"), 1], device=found.device) if look.step.t == bad else found

    with pytest.raises(NotFinite) as caught:
        replace(plan, guides=(Guide(torn, 1.0, "torn"),)).draw([5, 6, 7])
    assert (caught.value.t, caught.value.samples) == (bad, [6])


def test_a_gradient_alone_that_is_not_finite_is_told(device):
    def steep(look):
        return (look.x_t - look.x_t.detach()).sqrt().flatten(1).sum(dim=1)  # 0, with an infinite slope

    plan = replace(digits(device), guides=(Guide(steep, 1.0, "steep"),))
    with pytest.raises(NotFinite) as caught:
        plan.draw([2, 9])
    assert (caught.value.t, caught.value.samples) == (plan.steps[0].t, [2, 9])


def test_the_command_draws_the_images_of_the_cpu(device, denoiser_folder):
    there = contents(sample(denoiser_folder, "--device", "cpu"))
    here = contents(sample(denoiser_folder, "--device", device.type, "--out", "here").parent / "here")
    assert np.abs(np.array(here["arr_0"]) - np.array(there["arr_0"])).max() <= 1
    assert here["manifest"] == there["manifest"]
