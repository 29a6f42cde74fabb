"""Classifiers on timm's backbones guide as ADM's encoder does."""
from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig
from noisy_clf.classifier import NoisyClassifier
from tests.commands import assert_refused, run, sample
from tests.conftest import NAMES, SCHEDULE, stored


def timm_folder() -> Path:
    torch.manual_seed(0)
    network = TimmClassifier(TimmConfig(name="test_resnet", image_size=8, in_channels=1, num_classes=3, input_size=32))
    return stored(NoisyClassifier(network, SCHEDULE, NAMES), Path("guide"))


def test_a_stored_timm_classifier_guides(denoiser_folder: Path) -> None:
    folder = sample(denoiser_folder, "--classifier", timm_folder(), "--class", "pear", "--scale", 3)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["class_name"] for line in lines] == ["pear"] * 6 and all(line["log_prob"] < 0 for line in lines)


def test_a_clean_classifier_of_timm_guides_by_the_denoisers_schedule(denoiser_folder: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3, in_chans=1).state_dict(), "clean.safetensors")
    sample(denoiser_folder, "--classifier", "timm:test_resnet@clean.safetensors", "--class", "1", "--scale", 3)


def test_a_timm_model_that_does_not_exist_is_refused(denoiser_folder: Path) -> None:
    assert_refused(run("--model", denoiser_folder, "--classifier", "timm:resnt50"), "timm has no model 'resnt50'; did you mean")
