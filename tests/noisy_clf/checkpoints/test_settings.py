"""What a bare file's tensors do not tell: from TOML, JSON, a released model's name, or flags; and what bad ones are told."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guided_sample.loaders.guided_diffusion import denoiser_from_file
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.adm_flags import settings_from_flags
from noisy_clf.loaders.guided_diffusion import classifier_from_file
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.checkpoints.settings import Settings, read_settings
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.reference import FOLDER

PUBLISHED = json.loads((FOLDER / "released.json").read_text())["files"]
CIFAR = ("--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 --diffusion_steps 4000 "
         "--noise_schedule cosine")
WHOLE: Settings = {"image_size": 8, "heads": 1, "schedule": "cosine", "T": 50, "predicts": "eps", "rescaled_t": False}


@pytest.fixture(autouse=True)
def model_pt() -> None:
    """A denoiser of two levels, with attention at 4 pixels."""
    torch.save(tiny_denoiser(channel_mult=(1, 2), attention_at=(4,)).network.state_dict(), "model.pt")


def told(text: str, name: str = "settings.toml") -> Settings | None:
    Path(name).write_text(text, encoding="utf-8")
    return read_settings(name, None, "denoiser")


def refused(settings: Settings | str, name: str = "settings.json", kind: str = "denoiser", path: str = "model.pt") -> str:
    """The one sentence that a file of these settings gets, by the time that the model is loaded."""
    Path(name).write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        loaded = denoiser_from_file if kind == "denoiser" else classifier_from_file
        loaded(Path(path), read_settings(name, None, kind))
    message = str(caught.value)
    assert message[-1] in ".?" and "\n" not in message and ". " not in message, message
    return message


def test_toml_json_and_the_same_settings_in_python_are_one():
    toml = "image_size = 8\nheads = 1\nschedule = 'cosine'\nT = 50\npredicts = 'eps'\nrescaled_t = false\n"
    assert told(toml) == told(json.dumps(WHOLE), "settings.json") == told(json.dumps(WHOLE), "SETTINGS.JSON") == WHOLE
    assert told("\ufeff" + toml) == WHOLE  # as Windows' editor writes it
    assert told(json.dumps(WHOLE | {"class_names": None}), "settings.json") == WHOLE
    denoiser = denoiser_from_file(Path("model.pt"), WHOLE)
    assert denoiser.schedule.same_as(NoiseSchedule.named("cosine", 50)) and denoiser.shape == (1, 8, 8)
    assert denoiser.predicts == "eps" and denoiser.variance == "learned_range" and denoiser.class_names is None


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, files in RELEASED.items() for name in files])
def test_a_released_models_name_stands_for_its_settings(kind: str, name: str):
    assert read_settings(name, None, kind) == RELEASED[kind][name].settings


def test_no_settings_are_none_and_two_kinds_are_refused():
    assert read_settings(None, None, "denoiser") is None
    with pytest.raises(UserError, match="settings are given twice; give a file of settings, or the flags"):
        read_settings("imagenet64", CIFAR, "denoiser")


@pytest.mark.parametrize("name, value, words", [
    ("T", "1000", "T must be a whole number from 1 to 1000000, not '1000'"),
    ("T", 0, "not 0"), ("T", True, "not True"), ("T", 1e3, "not 1000.0"), ("T", 10**12, "not 1000000000000"),
    ("heads", "4", "heads must be a whole number from 1 to 1000000, not '4'"), ("heads", [1], r"not [1]"),
    ("heads", 3, "do not tell attention_order"),
    ("head_channels", 64, "heads and head_channels are both given"),
    ("class_names", 3, "class_names must be \"imagenet\" or a list of names, not 3"),
    ("class_names", [1, 2], "class_names must be \"imagenet\" or a list of names, not [1, 2]"),
    ("class_names", ["a"], "model.pt knows no classes, and class_names are given"),
    ("image_size", 64.0, "image_size must be a whole number from 1 to 1000000, not 64.0"),
    ("image_size", "8", "not '8'"), ("image_size", -8, "not -8"),
    ("image_size", 9, "model.pt: image size 9 does not divide by 2"),
    ("attention_at", 8, "attention_at must be a list of numbers, not 8"),
    ("attention_at", ["4"], "attention_at must be a list of numbers, not ['4']"),
    ("attention_at", [8], "attention_at [8] where the tensors tell [4]"),
    ("attention_order", "new-ish", "model.pt: unknown attention_order 'new-ish'; there are: legacy, new."),
    ("attention_order", ["new"], "attention_order must be a word, not ['new']"),
    ("schedule", "sigmoid", "unknown noise schedule 'sigmoid'; there are: linear, cosine."),
    ("schedule", 3, "schedule must be a word, not 3"),
    ("alpha_bar", [0.9, 0.5], "alpha_bar tells the whole schedule; leave out schedule and T"),
    ("alpha_bar", "linear", "alpha_bar must be a list of numbers, not 'linear'"),
    ("predicts", "noise", "unknown prediction 'noise'; there are: eps, velocity, x_0."),
    ("variance", "small", "variance small of images of 1 channels needs 1 output channels, and the network has 2."),
    ("variance", 3, "variance must be a word, not 3"),
    ("rescaled_t", "False", "rescaled_t must be true or false, not 'False'"),
    ("scale_shift", 1, "scale_shift must be true or false, not 1"),
    ("small_size", 4, "a network of 8 pixels and 1 input channels enlarges no images of 4 pixels; correct small_size"),
    ("small_size", 0, "small_size must be a whole number"),
    ("channels", 32.0, "channels must be a whole number"),
    ("channel_mult", [1, 3], "channel_mult [1, 3] where the tensors tell (1, 2)"),
    ("channel_mult", 2, "channel_mult must be a list of numbers, not 2"),
    ("res_blocks", "2", "res_blocks must be a whole number"),
    ("cleverness", 3, "settings.json: unknown setting cleverness; there are: image_size, heads, head_channels,"),
])
def test_a_wrong_setting_is_refused_by_name(name: str, value: Any, words: str):
    assert words in refused(WHOLE | {name: value})


@pytest.mark.parametrize("alpha_bar, words", [
    ([], "a noise schedule is a list of alpha_bar"), ([0.9, 0.95], "must fall strictly, and lie between 0 and 1"),
    ([1.5, 0.5], "must fall strictly, and lie between 0 and 1"), ([0.9, None], "must be a list of numbers"),
    ([[0.9, 0.5]], "must be a list of numbers"), ([0.9, "0.5"], "must be a list of numbers"),
    ([0.9, 0.5], "do not tell rescaled_t")])
def test_a_wrong_alpha_bar_is_refused(alpha_bar: list[Any], words: str):
    given: Settings = {"image_size": 8, "heads": 1, "predicts": "eps", "alpha_bar": alpha_bar}
    assert words in refused(given if "rescaled_t" in words else given | {"rescaled_t": False})


def test_alpha_bar_is_a_schedule():
    given = {"image_size": 8, "heads": 1, "predicts": "eps", "rescaled_t": False, "alpha_bar": [0.9, 0.5, 0.1]}
    assert denoiser_from_file(Path("model.pt"), given).schedule.alpha_bar.tolist() == [0.9, 0.5, 0.1]


def test_settings_of_a_classifier():
    torch.save(tiny_classifier(channel_mult=(1, 2), pool="adaptive").network.state_dict(), "classifier.pt")
    good: Settings = {"image_size": 8, "heads": 1, "schedule": "cosine", "T": 50}

    def told_of(**more: Any) -> str:
        return refused(good | more, kind="classifier", path="classifier.pt")

    assert classifier_from_file(Path("classifier.pt"), good).class_names == ("0", "1", "2")
    assert classifier_from_file(Path("classifier.pt"), good | {"class_names": ["x", "y", "z"]}).class_names == ("x", "y", "z")
    assert "classifier.pt has 3 classes, and class_names gives 2 names; give one for each" in told_of(class_names=["x", "y"])
    assert "classifier.pt has 3 classes, and class_names gives 1000 names" in told_of(class_names="imagenet")
    assert "pool attention where the tensors tell adaptive" in told_of(pool="attention")
    assert "num_classes 5 where the tensors tell 3" in told_of(num_classes=5)
    assert "a classifier that is told rescaled timesteps is not supported" in told_of(rescaled_t=True)
    assert "image_size must be a whole number" in told_of(image_size="8")


def test_settings_in_python_are_checked_as_those_of_a_file_are():
    with pytest.raises(UserError, match="the settings given for model.pt: T must be a whole number .*, not '50'"):
        denoiser_from_file(Path("model.pt"), WHOLE | {"T": "50"})
    with pytest.raises(UserError, match="the settings given for model.pt: unknown setting head"):
        denoiser_from_file(Path("model.pt"), WHOLE | {"head": 4})


@pytest.mark.parametrize("text, name, words", [
    ("[1]", "settings.json", "settings.json holds a list where a JSON object with settings by name is wanted."),
    ("null", "settings.json", "holds a NoneType"),
    ("{", "settings.json", "cannot be read as JSON ("),
    ("", "settings.json", "cannot be read as JSON ("),
    ("[" * 100_000, "settings.json", "cannot be read as JSON (it is nested too deeply)"),
    ("T = 50\nheads 4", "settings.toml", "cannot be read as TOML (Expected '='"),
    (json.dumps(WHOLE), "settings.toml", "end its name in .json if it is of that kind."),
    ("T = 50", "settings.json", "end its name in .toml if it is of that kind."),
    ("[network]\nheads = 4", "settings.toml", "unknown setting network"),
    ("T = 1979-05-27", "settings.toml", "T must be a whole number from 1 to 1000000, not datetime.date(1979, 5, 27)."),
    ("", "settings.toml", "do not tell image_size, heads (or head_channels), attention_order, schedule, T, predicts;"),
])
def test_a_file_that_is_no_table_of_settings(text: str, name: str, words: str):
    assert words in refused(text, name)


@pytest.mark.parametrize("name", ["nowhere.toml", "folder", "digits", ""])
def test_a_file_that_is_not_there_is_answered_with_what_may_be_given(name: str):
    Path("folder").mkdir()
    with pytest.raises(UserError, match=f"there is no file '{name}' with a model's settings; .*: imagenet64, imagenet128, "):
        read_settings(name, None, "denoiser")
    with pytest.raises(UserError, match="model.pt cannot be read as TOML"):
        read_settings("model.pt", None, "denoiser")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_flags_say_what_the_table_says(name: str):
    kind = "classifier" if "classifier" in name else "denoiser"
    schedule = " --noise_schedule cosine" if name == "64x64_classifier" else ""  # its denoiser's flags have it
    found = settings_from_flags(PUBLISHED[name]["flags"] + schedule, kind)
    known = next(file.settings for file in RELEASED[kind].values() if file.file == f"{name}.pt")
    assert {key: found[key] for key in known if key != "class_names"} == {
        key: value for key, value in known.items() if key != "class_names"}
    assert found.get("class_conditional", False) == (kind == "denoiser" and "class_names" in known)
    assert ("head_channels" in found) != ("heads" in found)


def test_flags_of_improved_diffusion_leave_rescaled_timesteps_open():
    found = settings_from_flags(CIFAR, "denoiser")
    assert found == {"image_size": 32, "channels": 128, "res_blocks": 3, "channel_mult": [1, 2, 2, 2], "attention_at": [16, 8],
                     "scale_shift": True, "resample": "conv", "class_conditional": False, "attention_order": "legacy",
                     "heads": 4, "predicts": "eps", "variance": "learned_range", "schedule": "cosine", "T": 4000}
    for flag in ("True", "False"):
        assert settings_from_flags(f"{CIFAR} --rescale_timesteps {flag}", "denoiser")["rescaled_t"] == (flag == "True")
    assert settings_from_flags(f"{CIFAR} --resblock_updown False", "denoiser")["rescaled_t"] is False  # guided-diffusion's
    assert settings_from_flags(f"{CIFAR} --rescale_timesteps True", "classifier")["rescaled_t"] is False


def test_open_rescaled_timesteps_are_asked_for():
    flags = ("--image_size 8 --num_channels 32 --num_heads 1 --attention_resolutions 4 --learn_sigma True --diffusion_steps "
             "4000 --channel_mult 1,2 --resblock_updown True")
    torch.save(tiny_denoiser(channel_mult=(1, 2), attention_at=(4,)).network.state_dict(), "model.pt")
    given = settings_from_flags(flags, "denoiser")
    assert denoiser_from_file(Path("model.pt"), given).rescaled_t is False
    del given["rescaled_t"]
    with pytest.raises(UserError, match="do not tell rescaled_t .--rescale_timesteps: unless given, True in improved"):
        denoiser_from_file(Path("model.pt"), given)


@pytest.mark.parametrize("more, key, value", [
    ("", "variance", "fixed_large"), ("--sigma_small True", "variance", "fixed_small"),
    ("--learn_sigma y --sigma_small 1", "variance", "learned_range"), ("--predict_xstart True", "predicts", "x_0"),
    ("--image_size=128", "channel_mult", [1, 1, 2, 3, 4]), ("--image_size 96", "channel_mult", None),
    ("--image_size 32 --image_size 256", "image_size", 256), ("--channel_mult 0.5,1,2", "channel_mult", [0.5, 1, 2]),
    ("--channel_mult '' --image_size 32", "channel_mult", [1, 2, 2, 2]),
    ("--attention_resolutions '32, 16'", "attention_at", [32, 16]), ("--num_head_channels -1", "heads", 4),
    ("--num_head_channels 32 --num_heads 8", "heads", None), ("--num_heads_upsample 4", "heads", 4),
    ("--use_new_attention_order True", "attention_order", "new"), ("--class_cond T", "class_conditional", True),
    ("--small_size 64", "image_size", 256), ("--small_size 64 --large_size 512", "channel_mult", [1, 1, 2, 2, 4, 4]),
    ("\\\n  --noise_schedule cosine \\\n", "schedule", "cosine"),
    ("--lr 1e-4 --batch_size 128 --use_fp16 True --use_kl False --timestep_respacing ddim25 --model_path x.pt --dropout 0.1",
     "image_size", 64),
])
def test_flags_as_people_write_them(more: str, key: str, value: Any):
    assert settings_from_flags(f"--num_channels 128 {more}", "denoiser").get(key) == value


@pytest.mark.parametrize("flags, words", [
    ("--foo 3", "(unrecognized arguments: --foo 3)"), ("--image-size 64", "(unrecognized arguments: --image-size 64)"),
    ("image_size 64", "(unrecognized arguments: image_size 64)"), ("$MODEL_FLAGS", "(unrecognized arguments: $MODEL_FLAGS)"),
    ("--image_size", "(argument --image_size: expected one argument)"), ("--help", "(unrecognized arguments: --help)"),
    ("--image_size sixty", "invalid int value: 'sixty'"), ("--diffusion_steps 1e3", "invalid int value: '1e3'"),
    ("--class_cond maybe", "'maybe' is neither True nor False"), ("--channel_mult '1,2", "(No closing quotation)"),
    ("--image \n64", "(unrecognized arguments: --image 64)"),
    ("--channel_mult 1,x", "(argument --channel_mult: '1,x' is not a list of numbers such as 32,16,8)"),
    ("--num_heads_upsample 2", "--num_heads_upsample 2 differs from --num_heads 4"),
])
def test_flags_that_cannot_be_read(flags: str, words: str):
    with pytest.raises(UserError) as caught:
        read_settings(None, flags, "denoiser")
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message and ". " not in message
