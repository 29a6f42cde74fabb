"""The bundled digits model with its own settings and with wrong ones, which load as cleanly."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from guided_sample.denoiser import x0_from_eps
from guided_sample.loaders import load_denoiser
from guided_sample.sanity import misconfigured, much_noise, pictures, reconstruction_error
from noisy_clf.checkpoints.model_folder import BUNDLED
from noisy_clf.schedule import NoiseSchedule
from tests.commands import run
from tests.conftest import tiny_denoiser
from tests.oracles import Exact

CPU = torch.device("cpu")
SETTINGS = {"image_size": 16, "head_channels": 32, "attention_order": "new", "schedule": "cosine", "T": 1000, "predicts": "eps",
            "variance": "learned_range"}
WRONG = {
    "attention order": ({"attention_order": "legacy"}, "with attention_order \"new\""),
    "heads": ({"head_channels": None, "heads": 1}, "with heads of 32 channels"),
    "schedule": ({"schedule": "linear"}, "with the cosine schedule"),
    "velocity": ({"predicts": "velocity"}, "with predicts \"eps\""),
    "x_0": ({"predicts": "x_0"}, "times the error of predicting their mean: it is probably mis-configured")}


@pytest.fixture(scope="module")
def bare_digits(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "digits.pt"
    torch.save(load_file(BUNDLED / "digits" / "denoiser" / "model.safetensors"), path)
    return path


def test_the_bundled_model_passes():
    assert misconfigured(load_denoiser("digits"), CPU, settings_given=True) is None


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_told(bare_digits, name):
    change, words = WRONG[name]
    assert words in misconfigured(load_denoiser(bare_digits, SETTINGS | change), CPU, settings_given=True)


def test_the_digits_are_scikit_learns():
    assert torch.equal((pictures((1, 8, 8)) + 1) * 8, torch.from_numpy(load_digits().images[:2]).float()[:, None])


def test_a_network_that_knows_nothing_is_told_with_or_without_given_settings():
    for given in (True, False):
        assert "times the error of predicting their mean" in misconfigured(tiny_denoiser(), CPU, given)


def test_the_command_warns_and_goes_on_and_is_silent_where_all_is_well(bare_digits):
    for change, words in (({}, ""), WRONG["attention order"], WRONG["x_0"]):
        Path("settings.json").write_text(json.dumps(SETTINGS | change))
        arguments = ["--model", bare_digits, "--model-config", "settings.json", "--class", "none", "--steps", 2,
                     "--num-samples", 1, "--out", f"out{words[:9]}".replace(" ", "")]
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert ("Warning:" in result.stderr) == bool(words) and words in result.stderr
        assert "Warning:" not in run(*arguments).stderr  # nothing left to draw
    assert "Warning:" not in run(*arguments[:-1], "unchecked", "--no-check").stderr


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (4, 8, 8), (3, 24, 24)])
def test_error_of_what_is_known(shape):
    """An exact denoiser errs by nothing; one that always answers with the pictures' mean, by 1; whatever the noise."""
    x_0 = pictures(shape)
    assert x_0.shape == (2, *shape) and x_0.min() >= -1 and x_0.max() <= 1 and x_0.std() > 0.3
    schedule = NoiseSchedule.named("linear")
    denoiser = replace(tiny_denoiser(schedule), shape=shape, variance="fixed_small", predicts="x_0")
    for level in (0.9, much_noise(shape[2])):
        exact = replace(denoiser, network=Exact(lambda x_t, t, y: x_0))
        assert reconstruction_error(exact, x_0, level) == 0
        mean = replace(denoiser, network=Exact(lambda x_t, t, y: x_0.mean().expand(x_0.shape)))
        assert reconstruction_error(mean, x_0, level) == pytest.approx(1)
        t = int(abs(schedule.alpha_bar - level).argmin())
        silent = replace(denoiser, predicts="eps", network=Exact(lambda x_t, t, y: torch.zeros_like(x_t)))
        noise = x0_from_eps(schedule, torch.ones(1), torch.tensor([t]), torch.zeros(1)).item() ** 2 * (
            1 - schedule.alpha_bar[t])  # (1 - alpha_bar) / alpha_bar, of a variance of 1
        assert reconstruction_error(silent, x_0, level) == pytest.approx(noise / x_0.var().item(), rel=0.15)


def test_pictures_of_any_size_show_as_much():
    assert much_noise(32) == 0.5 and much_noise(256) == pytest.approx(1 / 65) and much_noise(16) == 0.5
