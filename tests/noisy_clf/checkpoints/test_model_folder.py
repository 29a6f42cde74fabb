from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from noisy_clf import files
from noisy_clf.checkpoints import model_folder as checkpoint
from noisy_clf.checkpoints.model_folder import ModelFolder, find_model, save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.loaders import load_classifier
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.noisy_clf.conftest import TouchesAFile, snapshot

T_BATCH = torch.tensor([0, 20, 40, 60, 99])


@pytest.fixture
def model(classifier: NoisyClassifier, tmp_path: Path) -> Path:
    """A saved classifier's folder."""
    folder = tmp_path / "model"
    save_model(folder, classifier.config(), classifier.network, {"step": 7})
    return folder


@pytest.fixture
def bundled(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's folder, as that of the bundled classifier "tiny"."""
    folder = model.parent / "bundled"
    (folder / "tiny").mkdir(parents=True)
    model.rename(folder / "tiny" / "classifier")
    monkeypatch.setattr(checkpoint, "BUNDLED", folder)
    return folder / "tiny" / "classifier"


def rewrite_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def rewrite_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_loaded_classifier_is_the_saved_one(classifier: NoisyClassifier, model: Path, x_t: torch.Tensor) -> None:
    loaded = load_classifier(model)
    assert torch.equal(loaded(x_t, T_BATCH), classifier(x_t, T_BATCH))
    assert loaded.class_names == classifier.class_names and loaded.network.config == classifier.network.config
    assert loaded.schedule.same_as(classifier.schedule)


def test_a_loaded_classifier_is_frozen_and_in_evaluation_mode(model: Path) -> None:
    loaded = load_classifier(model)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_schedule_without_a_name_is_kept_number_by_number(classifier: NoisyClassifier, tmp_path: Path) -> None:
    given = NoisyClassifier(classifier.network, NoiseSchedule.from_betas([0.1, 0.2, 0.7]), classifier.class_names)
    save_model(tmp_path, given.config(), given.network, {})
    np.testing.assert_array_equal(load_classifier(tmp_path).schedule.alpha_bar, given.schedule.alpha_bar)


def test_half_precision_weights_load_as_float32(model: Path, classifier: NoisyClassifier, x_t: torch.Tensor) -> None:
    rewrite_tensors(model, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    loaded = load_classifier(model)
    classifier.half().float()  # rounded as the file is
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert torch.equal(loaded(x_t, T_BATCH), classifier(x_t, T_BATCH))


def test_what_the_model_is_about_lies_beside_the_weights(model: Path) -> None:
    with safe_open(model / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["about"]) == {"step": 7}


def test_saving_again_changes_nothing(model: Path, classifier: NoisyClassifier) -> None:
    before, config_written = snapshot(model), (model / "config.json").stat().st_mtime_ns
    save_model(model, classifier.config(), classifier.network, {"step": 7})
    assert snapshot(model) == before and (model / "config.json").stat().st_mtime_ns == config_written


def test_weights_are_readable_by_whom_the_configuration_is(model: Path) -> None:
    assert (model / "model.safetensors").stat().st_mode == (model / "config.json").stat().st_mode


def test_digest_is_the_sha_256_of_the_weights_file(model: Path) -> None:
    expected = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert ModelFolder.open(model, "classifier").digest == expected


def test_a_model_is_found_by_bundled_name(bundled: Path) -> None:
    assert find_model("tiny", "classifier") == bundled
    assert load_classifier("tiny").image_size == 8


def test_a_model_is_found_by_its_folder_and_by_its_runs_folder(model: Path) -> None:
    assert find_model(model, "classifier") == find_model(str(model), "classifier") == model
    model.rename(model.parent / "best")
    assert find_model(model.parent, "classifier") == model.parent / "best"


def test_an_unknown_name_is_answered_with_the_names_and_that_a_path_works(bundled: Path) -> None:
    with pytest.raises(UserError, match="no classifier 'digitz'; the names are: tiny, imagenet64, .*; a path to a class"):
        load_classifier("digitz")


def test_a_name_of_the_other_kind_is_not_found(bundled: Path) -> None:
    with pytest.raises(UserError, match="there is no denoiser 'tiny'"):
        find_model("tiny", "denoiser")


def test_a_file_in_place_of_a_folder_is_refused(model: Path, bundled: Path) -> None:
    with pytest.raises(UserError, match="model.safetensors is part of a model that is a folder; give the folder"):
        load_classifier(bundled / "model.safetensors")


def test_a_folder_without_config_is_refused(tmp_path: Path, bundled: Path) -> None:
    with pytest.raises(UserError, match="is a folder without a config.json: .*; give a classifier's folder, .*: tiny"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("text, sentence", [
    ("{\"kind\": ", "config.json cannot be read as JSON"),
    ("\xff", "config.json cannot be read as JSON"),
    ("[]", "config.json is not a JSON object"),
    ('{"model_type": "bert"}', "config.json does not describe a model of this toolkit"),
    ('{"kind": "classifier"}', 'config.json has no "network"'),
    ('{"kind": "classifier", "network": {}}', 'config.json has no "schedule"')])
def test_a_foreign_or_damaged_config_is_refused(model: Path, text: str, sentence: str) -> None:
    (model / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=sentence):
        load_classifier(model)


@pytest.mark.parametrize("changes, sentence", [
    ({"kind": "denoiser"}, "holds a denoiser, and a classifier is wanted here"),
    ({"class_names": ["a", "b"]}, "has 10 classes but 2 class names"),
    ({"class_names": None}, "has 10 classes but 0 class names"),
    ({"class_names": 10}, "class_names"),
    ({"schedule": {"name": "sigmoid", "T": 10}}, "unknown noise schedule 'sigmoid'"),
    ({"schedule": {"name": "linear"}}, "config.json: the schedule cannot be read"),
    ({"schedule": {"alpha_bar": ["a"]}}, "config.json: schedule.alpha_bar must be a list of numbers, not"),
    ({"schedule": {"alpha_bar": [0.5, 0.9]}}, "alpha_bar must fall strictly")])
def test_a_config_of_something_else_is_refused(model: Path, changes: dict[str, Any], sentence: str) -> None:
    rewrite_config(model, **changes)
    with pytest.raises(UserError, match=sentence):
        load_classifier(model)


@pytest.mark.parametrize("changes, sentence", [
    ({"type": "ResNet"}, "unknown type of classifier; there is: EncoderUNet"),
    ({"depth": 3}, "model: unknown setting depth; there are: image_size"),
    ({"channel_mult": 1}, "model: "),
    ({"image_size": "large"}, "model: "),
    ({"num_classes": "ten"}, "num_classes"),
    ({"channels": 64}, "does not fit its configuration: .* has shape .*, not ")])
def test_network_settings_of_something_else_are_refused(model: Path, changes: dict[str, Any], sentence: str) -> None:
    network = json.loads((model / "config.json").read_text())["network"]
    rewrite_config(model, network=network | changes)
    with pytest.raises(UserError, match=sentence):
        load_classifier(model)


@pytest.mark.parametrize("change, sentence", [
    (lambda tensors: tensors.pop("time_embed.2.bias"), "1 missing tensor, such as time_embed.2.bias"),
    (lambda tensors: tensors.update(spare=torch.zeros(1)), "1 unknown tensor, such as spare"),
    (lambda tensors: tensors.update(a=torch.zeros(1), b=torch.zeros(1)), "2 unknown tensors, such as a"),
    (lambda tensors: tensors.update({"out.2.c_proj.bias": torch.zeros(11)}), r"out.2.c_proj.bias has shape \[11\], not \[10\]"),
])
def test_tensors_that_do_not_fit_are_named(model: Path, change: Callable[[Any], object], sentence: str) -> None:
    rewrite_tensors(model, change)
    with pytest.raises(UserError, match=f"model.safetensors does not fit its configuration: .*{sentence}"):
        load_classifier(model)


def test_missing_weights_are_told(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors is missing"):
        load_classifier(model)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_weights_are_refused(model: Path, kept: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="model.safetensors is not a whole safetensors file .*; copy or train it again"):
        load_classifier(model)


@pytest.mark.parametrize("write", [
    lambda content, path: path.write_bytes(pickle.dumps(content)), lambda content, path: torch.save(content, path)],
    ids=["pickle", "torch.save"])
def test_code_renamed_to_weights_does_not_run(model: Path, write: Callable[[object, Path], object]) -> None:
    touched = model / "touched"
    write(TouchesAFile(touched), model / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors is not a whole safetensors file"):
        load_classifier(model)
    assert not touched.exists()
    pickle.loads(pickle.dumps(TouchesAFile(touched)))
    assert touched.exists()  # so the file was able to


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_saving_that_fails_leaves_the_model_as_it_was(
        model: Path, classifier: NoisyClassifier, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def not_synced(number: int) -> None:
        raise error

    before = snapshot(model)
    monkeypatch.setattr(files.os, "fsync", not_synced)  # weights are written by then, but not yet safe
    with pytest.raises((UserError, KeyboardInterrupt), match="the disk is full|^$"):
        save_model(model, classifier.config(), classifier.network, {"step": 8})
    assert snapshot(model) == before
