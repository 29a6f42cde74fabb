"""Our denoisers written as folders of diffusers, and read back: by diffusers itself, and by our loader."""
import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guided_sample.denoiser import Denoiser
from guided_sample.loaders import load_denoiser
from guided_sample.loaders.diffusers_folder import load_diffusers_folder
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from scripts.export_diffusers import export, main
from tests.commands import assert_refused, invoke
from tests.conftest import stored, tiny_denoiser
from tests.reference import relative_error
from tests.seam import adm, run

diffusers = pytest.importorskip("diffusers")

TWO_LEVELS = {"image_size": 16, "channel_mult": (1, 2), "attention_at": (8,), "res_blocks": 1}
FRUIT = ("apple", "pear", "plum")


def assert_same(denoiser: Denoiser, folder: Path) -> None:
    theirs, again = diffusers.UNet2DModel.from_pretrained(folder / "unet"), load_diffusers_folder(folder).denoiser
    x_t, t = torch.randn(3, *denoiser.shape), torch.tensor([0, 20, denoiser.schedule.T - 1])
    y = torch.tensor([0, 2, 1]) if denoiser.class_names else None
    with torch.no_grad():
        ours = denoiser.network(x_t, t, y)
        assert relative_error(theirs(x_t, t, class_labels=y).sample, ours) < 1e-5
        assert relative_error(again.network(x_t, t, y), ours) < 1e-5
    assert again.schedule.same_as(denoiser.schedule) and again.schedule.name == denoiser.schedule.name
    assert (again.shape, again.variance, again.predicts) == (denoiser.shape, denoiser.variance, denoiser.predicts)


@pytest.mark.parametrize("settings", [
    {**TWO_LEVELS, "attention_order": order, "resample": resample, "scale_shift": scale_shift}
    for order, resample, scale_shift in [
        ("legacy", "conv", True), ("new", "conv", False), ("legacy", "resblock", False), ("new", "resblock", True),
        ("legacy", "plain", True), ("new", "plain", False)]] + [
    {**TWO_LEVELS, "head_channels": 16, "attention_at": (16, 8)},
    {**TWO_LEVELS, "head_channels": 8, "attention_order": "new", "attention_at": ()},
    {**TWO_LEVELS, "heads": 4, "res_blocks": 2},
    {**TWO_LEVELS, "channel_mult": (1, 2, 1), "attention_at": (16,), "resample": "resblock", "dropout": 0.1},
    {"channel_mult": (1,), "in_channels": 3, "out_channels": 6},
], ids=lambda settings: " ".join(str(value) for value in settings.values()))
def test_the_numbers_stay_the_same(settings):
    denoiser = tiny_denoiser(**settings)
    export(denoiser, Path("model"))
    assert_same(denoiser, Path("model"))


@pytest.mark.parametrize("schedule", [NoiseSchedule.named("linear", 1000), NoiseSchedule.named("linear", 50),
                                      NoiseSchedule.from_alpha_bar([0.9, 0.5, 0.4] + [0.3 * 0.9 ** i for i in range(40)])],
                         ids=str)
@pytest.mark.parametrize("variance, predicts", [("fixed_small", "eps"), ("fixed_large", "velocity"), ("learned_range", "x_0")])
def test_schedule_variance_and_prediction_are_written(schedule, variance, predicts):
    denoiser = tiny_denoiser(schedule, variance=variance, out_channels=2 if variance == "learned_range" else 1)
    denoiser = replace(denoiser, predicts=predicts, rescaled_t=schedule.T == 1000)  # of no effect there
    export(denoiser, Path("model"))
    assert_same(denoiser, Path("model"))
    theirs = diffusers.DDPMPipeline.from_pretrained("model").scheduler.alphas_cumprod.double()
    torch.testing.assert_close(torch.tensor(denoiser.schedule.alpha_bar), theirs, rtol=1e-4, atol=0)


def test_a_class_conditional_denoiser_keeps_its_classes_as_numbers():
    denoiser = tiny_denoiser(class_names=FRUIT)
    stored(denoiser, Path("fruit"))
    result = invoke(main, "fruit", "model")
    assert result.exit_code == 0 and "its 3 classes are numbers there" in result.output
    assert_same(denoiser, Path("model"))


def test_diffusers_draws_the_digits(monkeypatch):
    """The pipeline's own loop takes --steps 20, from the same noise, to the same images."""
    assert invoke(main, "digits", "deep/model").output.startswith("deep/model: DDPMPipeline.from_pretrained('deep/model')")
    assert sorted(path.name for path in Path("deep").iterdir()) == ["model"]
    denoiser = load_denoiser("digits")
    assert_same(denoiser, Path("deep/model"))
    pipeline = diffusers.DDPMPipeline.from_pretrained("deep/model")
    pipeline.set_progress_bar_config(disable=True)
    draws = torch.randn(20, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    stream, their_stream = iter(draws), iter(draws)
    for module in ("schedulers.scheduling_ddpm", "pipelines.ddpm.pipeline_ddpm"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(their_stream))
    theirs = pipeline(batch_size=2, num_inference_steps=20, output_type="pt").images
    *_, last = run(ddpm, adm(denoiser), steps("20", denoiser.schedule), lambda: next(stream))
    torch.testing.assert_close(theirs, (last.x_t.clamp(-1, 1) + 1) / 2, rtol=0, atol=1e-3)


@pytest.mark.parametrize("denoiser, message", [
    (lambda: replace(tiny_denoiser(), rescaled_t=True), "its network is told 1000 t / T in t's place; use it with"),
    (lambda: replace(tiny_denoiser(), small_size=4), "it is an upsampler, which reads a small image too"),
    (lambda: tiny_denoiser(variance="learned"), "its learned log-variance would be read as a variance there"),
    (lambda: tiny_denoiser(channel_mult=(2,)), "its channel_mult begins with 2, and there the time embedding is as wide as"),
    (lambda: tiny_denoiser(**TWO_LEVELS | {"attention_at": (16, 8)}, heads=2), "its 2 heads are of 16, 32 channels"),
    (lambda: replace(tiny_denoiser(), network=torch.nn.Identity()), "only denoisers with this toolkit's UNet can be exported"),
])
def test_what_diffusers_cannot_express_is_refused(denoiser, message):
    with pytest.raises(UserError, match=message) as refused:
        export(denoiser(), Path("model"))
    told = str(refused.value)
    assert told.endswith(".") and "\n" not in told and ". " not in told
    assert not list(Path(".").iterdir())


def test_what_stands_there_is_not_touched(denoiser_folder):
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("text")
    assert_refused(invoke(main, denoiser_folder, "mine"), "mine is there already and is not an empty folder")
    assert_refused(invoke(main, denoiser_folder, "mine/thesis.tex"), "mine/thesis.tex is there already")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]
    Path("empty").mkdir()
    assert invoke(main, denoiser_folder, "empty").exit_code == 0 and Path("empty/unet/config.json").is_file()


def test_an_export_that_fails_leaves_nothing(denoiser_folder, monkeypatch):
    def full(network):
        raise OSError(errno.ENOSPC, "full", "x")

    monkeypatch.setattr("scripts.export_diffusers.unet_tensors", full)
    assert_refused(invoke(main, denoiser_folder, "model"), "the disk is full")
    assert not list(Path(".").iterdir())
