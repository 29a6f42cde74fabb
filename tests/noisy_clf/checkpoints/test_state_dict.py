"""Which state dict of a training checkpoint is read, and what is told of it."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guided_sample.loaders import load_model
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from tests.commands import assert_refused, invoke, run
from tests.conftest import NAMES, tiny_classifier, tiny_denoiser
from tests.noisy_clf.conftest import TouchesAFile

MODEL = {"conv.weight": torch.full((3, 2), 1.0), "conv.bias": torch.full((3,), 1.0), "out.weight": torch.ones(1)}
AVERAGE = {name: tensor + 1 for name, tensor in MODEL.items()}
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
SETTINGS: dict[str, Any] = {"schedule": "cosine", "T": 50}
DENOISER = SETTINGS | {"image_size": 8, "heads": 1, "predicts": "eps", "rescaled_t": False}
CLASSIFIER = SETTINGS | {"head_channels": 64, "attention_order": "legacy", "class_names": list(NAMES)}


def stored(content: Any, name: str = "model.pt") -> Path:
    torch.save(content, name)
    return Path(name)


def prefixed(prefix: str, tensors: dict[str, Tensor] = MODEL) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("content, used, told", [
    ({"model": MODEL, "ema": AVERAGE, "optimizer": OPTIMIZER, "step": 3}, AVERAGE, "ema of model.pt is used, not its model."),
    ({"state_dict": MODEL, "state_dict_ema": AVERAGE, "epoch": 1}, AVERAGE, "state_dict_ema of model.pt is used, not"),
    ({"model": MODEL, "model_ema": AVERAGE, "lr_scheduler": {"last_epoch": 3}}, AVERAGE, "model_ema of model.pt is used"),
    ({"model": MODEL, "ema_0.9999": AVERAGE}, AVERAGE, "ema_0.9999 of model.pt is used, not its model."),
    ({"network": MODEL, "average": AVERAGE, "timesteps": {"p": torch.ones(3)}}, AVERAGE, "average of model.pt is used, not"),
    ({"model": MODEL, "ema_decay": 0.999, "opt": OPTIMIZER, "rng": torch.ones(5).byte()}, MODEL, "model of model.pt is used."),
    ({"model_state_dict": MODEL, "optimizer_state_dict": OPTIMIZER, "loss": 0.3}, MODEL, "model_state_dict of model.pt"),
    ({"state_dict": prefixed("model."), "optimizer_states": [OPTIMIZER], "loops": {}}, MODEL, "state_dict of model.pt"),
    ({"state_dict": prefixed("net._orig_mod.")}, MODEL, "state_dict of model.pt is used."),
    ({"model": MODEL, "ema": {"module": AVERAGE, "updates": 5}}, AVERAGE, "ema.module of model.pt is used, not its model."),
    ({"model": MODEL, "ema": {"decay": 0.99, "shadow": AVERAGE}}, AVERAGE, "ema.shadow of model.pt is used, not its model."),
    ({"model": MODEL, "ema": {"decay": 0.99, **AVERAGE}}, AVERAGE, "ema of model.pt is used, not its model."),
    ({"ema": prefixed("module.", AVERAGE) | {"n_averaged": torch.tensor(7)}}, AVERAGE, "ema of model.pt is used."),
    ({"teacher": MODEL, "epoch": 3}, MODEL, "teacher of model.pt is used."),
    ({"model": MODEL, "loss_weights": {"a": torch.ones(1)}}, MODEL, "model of model.pt is used."),
    (prefixed("module.") | {"n_averaged": torch.tensor(7)}, MODEL, ""),
    (prefixed("module.model."), MODEL, ""),
    (MODEL, MODEL, "")])
def test_the_average_is_read_or_else_the_model_and_which_is_told(
        content: Any, used: dict[str, Tensor], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert same(read_tensors(stored(content)), used)
    err = capsys.readouterr().err
    assert err.startswith(told) if told else err == ""
    assert err.count("\n") == bool(told)


@pytest.mark.parametrize("content, words", [
    ({"model": MODEL, "ema_0.999": AVERAGE, "ema_0.9999": AVERAGE}, "holds several state dicts (ema_0.999, ema_0.9999), and"),
    ({"ema": AVERAGE, "model_ema": AVERAGE}, "holds several state dicts (ema, model_ema)"),
    ({"generator": MODEL, "discriminator": MODEL}, "holds several state dicts (generator, discriminator), and it is not plain"),
    ({"model": MODEL, "network": MODEL}, "the one that you want alone: torch.save(torch.load(FILE)['model'], \"model.pt\")."),
    ({"model": MODEL, "ema": list(AVERAGE.values())}, "keeps its average, ema, not as a state dict"),
    ({"model": MODEL, "ema": {"decay": 0.9, "shadow_params": list(AVERAGE.values())}}, "keeps its average, ema, not as"),
    ({"model": MODEL, "ema": {"a": AVERAGE, "b": AVERAGE}}, "keeps its average, ema, not as a state dict"),
    ({"epoch": 3, "optimizer": OPTIMIZER}, "is not a bare state dict (its epoch, optimizer are no tensors)"),
    ({**MODEL, "more": {"a": torch.ones(1)}}, "is not a bare state dict (its more is no tensor)")])
def test_what_is_not_obvious_is_refused_by_name(content: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_tensors(stored(content))
    assert words in str(caught.value) and str(caught.value).startswith("model.pt ") and str(caught.value).endswith(".")


def test_code_in_a_training_checkpoint_does_not_run() -> None:
    with pytest.raises(UserError, match="carries code"):
        read_tensors(stored({"model": MODEL, "args": TouchesAFile(Path("touched"))}))
    assert not Path("touched").exists()


def test_a_denoiser_and_a_classifier_are_read_from_training_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    denoiser, classifier = tiny_denoiser(), tiny_classifier(channels=64, head_channels=64)
    weights = {"denoiser.pt": denoiser.network.state_dict(), "classifier.pt": classifier.network.state_dict()}
    stored({"model": {name: tensor * 2 for name, tensor in weights["denoiser.pt"].items()}, "ema": weights["denoiser.pt"]},
           "denoiser.pt")
    stored({"state_dict": prefixed("model.", weights["classifier.pt"]), "epoch": 3}, "classifier.pt")
    loaded = load_model("denoiser.pt", DENOISER)
    assert same(loaded.denoiser.network.state_dict(), weights["denoiser.pt"])
    assert loaded.digest == file_digest(Path("denoiser.pt"))
    assert same(load_classifier("classifier.pt", CLASSIFIER).network.state_dict(), weights["classifier.pt"])
    assert capsys.readouterr().err == ("ema of denoiser.pt is used, not its model.\nstate_dict of classifier.pt is used.\n")


def test_clean_weights_are_read_from_a_training_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    from noisy_clf.loaders.timm_weights import find_tensors

    weights = timm.create_model("resnet10t", num_classes=3, in_chans=1).state_dict()
    stored({"state_dict": {name: tensor + 1 for name, tensor in weights.items()}, "state_dict_ema": weights}, "clean.pth.tar")
    assert same(find_tensors("resnet10t", "clean.pth.tar"), weights)
    assert "state_dict_ema of clean.pth.tar is used, not its state_dict." in capsys.readouterr().err


def test_a_state_of_a_run_of_ours_is_read_with_settings_and_else_its_run_is_named() -> None:
    result = invoke(train_noisy_clf, "--device=cpu", "--iterations=1", "--batch-size=4", "--channels=32", "--channel-mult=1",
                    "--head-channels=32", "--attention-at=4", "--out=run")
    assert result.exit_code == 0, result.output
    state = Path("run/states/step-0000001.pt")
    settings = CLASSIFIER | {"T": 1000, "head_channels": 32, "class_names": list("0123456789")}
    assert same(load_classifier(state, settings).network.state_dict(), load_classifier("run/last").network.state_dict())
    with pytest.raises(UserError, match="is a training state, .*; give the run.s folder, .*/run, for its best .*/last for"):
        load_classifier(state)


def test_a_network_in_a_checkpoint_is_told_once_on_the_command_line() -> None:
    stored({"model": tiny_denoiser().network.state_dict(), "step": 3})
    Path("model.json").write_text(json.dumps(DENOISER))
    result = run("--model", "model.pt", "--model-config", "model.json", "--num-samples", 1, "--steps", 2, "--out", "out")
    assert result.exit_code == 0 and result.output.count("model of model.pt is used.") == 1, result.output
    save_file({"a.weight": torch.ones(2)}, "other.safetensors")
    assert_refused(run("--model", "other.safetensors", "--model-config", "model.json"), "holds no U-Net")
