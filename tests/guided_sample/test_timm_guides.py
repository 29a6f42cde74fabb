"""Classifiers on timm's backbones guide as ADM's encoder does."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from guided_sample.guides.classifier import log_prob
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.loaders import load_classifier
from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig
from tests.commands import assert_refused, run, sample
from tests.conftest import NAMES, SCHEDULE, stored, tiny_denoiser


def timm_folder() -> Path:
    torch.manual_seed(0)
    network = TimmClassifier(TimmConfig(name="test_resnet", image_size=8, in_channels=1, num_classes=3, input_size=32))
    return stored(NoisyClassifier(network, SCHEDULE, NAMES), Path("guide"))


def drawn(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as archive:
        return archive["arr_0"].astype(int)


def test_a_stored_timm_classifier_guides(denoiser_folder: Path) -> None:
    guide = timm_folder()
    folder = sample(denoiser_folder, "--classifier", guide, "--class", "pear", "--scale", 100)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["class_name"] for line in lines] == ["pear"] * 6 and all(line["log_prob"] < 0 for line in lines)
    guided = drawn(folder)
    folder.rename("guided")
    unguided = drawn(sample(denoiser_folder, "--classifier", guide, "--class", "pear", "--scale", 0))
    assert np.abs(guided - unguided).mean() > 1  # grey levels
    images = [torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1 for pixels in (guided, unguided)]
    classifier, t, y = load_classifier(guide), torch.zeros(6).long(), torch.ones(6).long()
    better, worse = (log_prob(classifier, x_0, t, y) for x_0 in images)
    assert better.mean() > worse.mean()  # the samples are more of a pear to it


def test_a_clean_classifier_of_timm_guides_by_the_denoisers_schedule(denoiser_folder: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3, in_chans=1).state_dict(), "clean.safetensors")
    name = "timm:test_resnet@clean.safetensors"
    guided = drawn(sample(denoiser_folder, "--classifier", name, "--class", "1", "--scale", 30))
    Path("out").rename("guided")
    unguided = drawn(sample(denoiser_folder, "--classifier", name, "--class", "1", "--scale", 0))
    assert np.abs(guided - unguided).mean() > 1
    classifier, t, y = load_classifier(name, space=tiny_denoiser().space), torch.zeros(6).long(), torch.ones(6).long()
    better, worse = (log_prob(classifier, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, t, y)
                     for pixels in (guided, unguided))
    assert better.mean() > worse.mean()


def test_a_timm_model_that_does_not_exist_is_refused(denoiser_folder: Path) -> None:
    assert_refused(run("--model", denoiser_folder, "--classifier", "timm:resnt50"), "timm has no model 'resnt50'; did you mean")
