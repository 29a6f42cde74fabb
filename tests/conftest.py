"""Tiny models in folders of their own, for tests that care for files, flags and messages rather than for pictures."""
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.checkpoints.model_folder import save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.schedule import NoiseSchedule
from tests.reference import with_drawn_weights

SCHEDULE = NoiseSchedule.named("cosine", 50)
UNET = UNetConfig(image_size=8, in_channels=1, out_channels=2, channels=32, channel_mult=(1,))
ENCODER = EncoderUNetConfig(image_size=8, in_channels=1, num_classes=3, channels=32, channel_mult=(1,))
NAMES = ("apple", "pear", "plum")


def tiny_denoiser(schedule: NoiseSchedule = SCHEDULE, class_names: tuple[str, ...] | None = None,
                  variance: str = "learned_range", **settings) -> Denoiser:
    config = replace(UNET, num_classes=len(class_names) if class_names else None, **settings)
    return unet_denoiser(with_drawn_weights(UNet(config)), schedule, variance, class_names=class_names)


def tiny_classifier(schedule: NoiseSchedule = SCHEDULE, names: tuple[str, ...] = NAMES, **settings) -> NoisyClassifier:
    config = replace(ENCODER, num_classes=len(names), **settings)
    return NoisyClassifier(with_drawn_weights(EncoderUNet(config)), schedule, names)


def tiny_encoder(schedule: NoiseSchedule = SCHEDULE, **settings) -> NoisyEncoder:
    """Of two levels, and so two maps."""
    network = with_drawn_weights(EncoderUNet(replace(ENCODER, **{"channel_mult": (1, 1)} | settings)))
    return NoisyEncoder(network, schedule).eval().requires_grad_(False)


def stored(model: Denoiser | NoisyClassifier | NoisyEncoder, folder: Path, **more) -> Path:
    save_model(folder, {**model.config(), **more}, model.network, {})
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tiny_classifier(), tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="session")
def denoiser_folder(tmp_path_factory: pytest.TempPathFactory, classifier_folder: Path) -> Path:
    """A denoiser whose configuration recommends the tiny classifier."""
    advice = {"classifier": str(classifier_folder), "scale": 2.0, "steps": {"ddpm": "5", "ddim": "ddim5"}}
    return stored(tiny_denoiser(), tmp_path_factory.mktemp("models") / "denoiser", sampling=advice)


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in a folder of its own, where what a command writes by default goes."""
    monkeypatch.chdir(tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """One thread for each of several workers, and for the processes that they start."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="what the `gpu` tests run on; cpu: to try these tests themselves")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and item.config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Of a `gpu` test."""
    return torch.device(request.config.getoption("--device"))
