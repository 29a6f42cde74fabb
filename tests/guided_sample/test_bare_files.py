"""A denoiser's and a classifier's bare .pt files, by path, with settings beside them; improved-diffusion's numbers."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guided_sample.loaders import load_denoiser
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, contents, run
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser
from tests.reference import relative_error, with_drawn_weights

COSINE: dict[str, Any] = {"schedule": "cosine", "T": 50}
DENOISER: dict[str, Any] = {"image_size": 8, "heads": 1, "predicts": "eps", "rescaled_t": False, **COSINE}
CLASSIFIER: dict[str, Any] = {"head_channels": 64, "attention_order": "legacy", "class_names": list(NAMES), **COSINE}
OF_BOTH = "--image_size 8 --diffusion_steps 50 --noise_schedule cosine "
DENOISER_FLAGS = OF_BOTH + "--num_channels 32 --channel_mult 1 --num_heads 1 --learn_sigma True --attention_resolutions 4"
CLASSIFIER_FLAGS = OF_BOTH + "--classifier_width 64 --classifier_attention_resolutions 4"
CONFIGS = ["--model-config", "model.json", "--classifier-config", "classifier.toml"]
FLAGS = ["--model-flags", DENOISER_FLAGS, "--classifier-flags", CLASSIFIER_FLAGS]
BARE = ["--model", "model.pt", "--classifier", "classifier.pt"]


@pytest.fixture(autouse=True)
def files() -> None:
    """Two models, as bare files with settings and as folders of this toolkit."""
    denoiser, classifier = tiny_denoiser(), tiny_classifier(channels=64, head_channels=64)
    for name, model in (("model", denoiser), ("classifier", classifier)):
        torch.save(model.network.state_dict(), f"{name}.pt")
        stored(model, Path(f"{name}_folder"))
    Path("model.json").write_text(json.dumps(DENOISER))
    Path("classifier.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in CLASSIFIER.items()))


def drawn(out: str, *arguments: object) -> dict[str, Any]:
    result = run("--out", out, "--num-samples", 6, "--steps", 5, "--scale", 3, "--no-check", *arguments)
    assert result.exit_code == 0, result.output
    return contents(Path(out))


@pytest.mark.parametrize("how", [CONFIGS, FLAGS, CONFIGS[:2] + FLAGS[2:]], ids=["files", "flags", "one of each"])
def test_bare_files_draw_what_the_same_models_as_folders_draw(how):
    folders = drawn("folders", "--model", "model_folder", "--classifier", "classifier_folder")
    bare = drawn("bare", *how, *BARE)
    images = [name for name in folders if name.endswith(".png") and name != "grid.png"]  # which names the classes
    assert len(images) == 6 and all(bare[name] == folders[name] for name in images)
    assert [line["log_prob"] for line in bare["lines"]] == [line["log_prob"] for line in folders["lines"]]
    assert [line["class_name"] for line in bare["lines"]] == [*(NAMES if "classifier.toml" in how else "012")] * 2


def test_the_manifest_has_digests_and_configurations_and_keeps_other_settings_out():
    drawn("out", *CONFIGS, *BARE)
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["digests"] == {"model": file_digest(Path("model.pt")), "classifier": file_digest(Path("classifier.pt"))}
    configs = manifest["configs"]
    assert configs["model"]["network"]["heads"] == 1 and configs["model"]["schedule"]["T"] == 50
    assert configs["classifier"]["network"]["head_channels"] == 64
    for changed, words in (({"variance": "learned"}, "variance 'learned_range' there, 'learned' now"),
                           ({"predicts": "velocity"}, "predicts 'eps' there, 'velocity' now"),
                           ({"rescaled_t": True}, "rescaled_t False there, True now")):
        Path("model.json").write_text(json.dumps(DENOISER | changed))
        assert_refused(run("--out", "out", "--num-samples", 6, "--steps", 5, "--scale", 3, *CONFIGS, *BARE),
                       f"out holds another run's results (configs.model.{words})")


def test_a_network_without_classes_needs_no_classifier():
    assert run("--model", "model.pt", "--model-config", "model.json", "--num-samples", 1, "--steps", 2).exit_code == 0


def test_what_is_lacking_is_asked_for_with_the_options_that_bring_it():
    assert_refused(run(*BARE), "model.pt: its tensors do not tell image_size, heads (or head_channels)", "--model-config FILE",
                   "--model-flags")
    assert_refused(run(*BARE, *CONFIGS[:2]), "classifier.pt: its tensors do not tell heads (or head_channels)",
                   "--classifier-config FILE", "--classifier-flags")


@pytest.mark.parametrize("arguments, words", [
    (["--model", "classifier.pt", *CONFIGS[:2]], "classifier.pt holds a classifier, and a denoiser is wanted"),
    ([*CONFIGS, "--model", "model.pt", "--classifier", "model.pt"], "model.pt holds a denoiser, and a classifier is wanted"),
    ([*CONFIGS, *FLAGS[:2], *BARE], "settings are given twice"),
    ([*CONFIGS[2:], "--model-flags", DENOISER_FLAGS + " --num_channels 64", *BARE], "channels 64 where the tensors tell 32"),
    ([*CONFIGS[2:], "--model-config", "imagenet64", *BARE], "32 channels do not divide into heads of 64 channels"),
    (["--model", "model_folder", *CONFIGS[:2]], "model_folder brings settings of its own"),
    (["--model", "model_folder/model.safetensors", *CONFIGS[:2]], "give the folder, model_folder."),
    (["--model", "digits", *CONFIGS[:2]], "digits brings settings of its own; settings are for bare .pt files"),
    (["--model", "imagenet64", *CONFIGS[:2]], "imagenet64 brings settings of its own; settings are for bare .pt files"),
    ([*CONFIGS, "--model", "model.pt", "--classifier", "digits"], "digits brings settings of its own"),
    ([*CONFIGS, "--model", "model.pt", "--classifier", "imagenet64"], "imagenet64 brings settings of its own"),
    (["--model", "nowhere.pt", *CONFIGS[:2]], "there is no denoiser 'nowhere.pt'"),
    (["--model", "model.pt", "--model-config", "nowhere.toml"], "there is no file 'nowhere.toml' with a model's settings"),
])
def test_models_and_settings_that_do_not_go_together(arguments, words):
    assert_refused(run("--out", "out", *arguments), words)
    assert not Path("out").exists()


def test_another_schedule_than_the_classifiers_is_refused():
    Path("model.json").write_text(json.dumps(DENOISER | {"schedule": "linear"}))
    assert_refused(run(*CONFIGS, *BARE), "the classifier learned on another noise schedule (cosine, T = 50", "(linear, T = 50")


def test_a_safetensors_file_and_a_parallel_models_names_load_too():
    from safetensors.torch import save_file

    tensors = torch.load("model.pt", weights_only=True)
    save_file(tensors, "bare.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, "parallel.pt")
    for name in ("bare.safetensors", "parallel.pt"):
        found = load_denoiser(name, DENOISER).network.state_dict()
        assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_half_precision_files_are_computed_in_float32():
    tensors = torch.load("classifier.pt", weights_only=True)
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, "half.pt")
    classifier = load_classifier("half.pt", CLASSIFIER)
    assert {tensor.dtype for tensor in classifier.state_dict().values()} == {torch.float32}


IMPROVED = Path(__file__).parents[1] / "data" / "improved_diffusion.npz"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conv": ({"channel_mult": (1, 2, 2), "res_blocks": 1, "attention_at": (8, 4), "heads": 4, "out_channels": 6},
             {"heads": 4, "attention_order": "legacy"}),
    "added_emb": ({"channel_mult": (1, 1, 2), "res_blocks": 2, "attention_at": (4,), "scale_shift": False, "out_channels": 3,
                   "num_classes": 7}, {"heads": 1, "variance": "fixed_large"})}


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_files_of_improved_diffusion_give_its_numbers(case: str, rescaled: bool):
    fields, told = CASES[case]
    network = with_drawn_weights(UNet(UNetConfig(image_size=16, in_channels=3, channels=32, resample="conv", **fields)))
    torch.save(network.state_dict(), "improved.pt")
    with np.load(IMPROVED) as archive:
        x, t, theirs = (torch.from_numpy(archive[f"{case}_{name}"]) for name in ("x", "t", "rescaled" if rescaled else "plain"))
        y = torch.from_numpy(archive[f"{case}_y"]) if fields.get("num_classes") else None
    denoiser = load_denoiser("improved.pt", {"image_size": 16, "schedule": "cosine", "T": 4000, "rescaled_t": rescaled,
                                             "predicts": "x_0", **told})  # so that x0_hat is the network's output itself
    assert denoiser.network.config == network.config and denoiser.schedule.same_as(NoiseSchedule.named("cosine", 4000))
    with torch.no_grad():
        x0_hat, v = denoiser(x, t, y)
        ours = x0_hat if v is None else torch.cat([x0_hat, v], dim=1)
    assert relative_error(ours, theirs) < 1e-5


def test_rescaled_timesteps_of_another_T_than_1000_are_asked_for():
    with pytest.raises(UserError, match="model.pt: its tensors do not tell rescaled_t"):
        load_denoiser("model.pt", {name: value for name, value in DENOISER.items() if name != "rescaled_t"})


def test_settings_of_a_classifier_that_is_not_used_are_refused(denoiser_folder):
    Path("settings.toml").write_text("heads = 1")
    assert_refused(run("--model", denoiser_folder, "--class", "none", "--classifier-config", "settings.toml"),
                   "settings of a classifier are given, and none is used")


def test_a_scale_without_a_classifier_is_refused_not_dropped():
    stored(tiny_denoiser(), Path("elsewhere/alone"))  # with no classifier beside it
    assert_refused(run("--model", "elsewhere/alone", "--scale", 2),
                   "elsewhere/alone comes with no classifier; give --classifier, or --scale 0")


def test_a_nameless_classifier_takes_the_denoisers_class_names():
    stored(tiny_denoiser(class_names=("apple", "pear", "plum")), Path("named"))
    stored(tiny_classifier(names=("0", "1", "2")), Path("nameless"))
    result = run("--model", "named", "--classifier", "nameless", "--class", "plum", "--num-samples", 1, "--steps", 2,
                 "--out", "out")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out/samples.jsonl").read_text())["class_name"] == "plum"
