"""From the tensors of a bare file to its architecture: every released file, and what shapes do not tell."""
import json
from pathlib import Path

import pytest
import torch

from guided_sample.unet import UNet, UNetConfig
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.adm_flags import settings_from_flags
from noisy_clf.checkpoints.guided_diffusion import architecture
from noisy_clf.checkpoints.released import CLASSIFIERS, DENOISERS, shapes_digest
from noisy_clf.networks.torso import TorsoConfig
from tests.reference import FOLDER

FILES = json.loads((FOLDER / "released.json").read_text())["files"]
TORSO = set(TorsoConfig.__dataclass_fields__)


def make(fields):
    return EncoderUNet(EncoderUNetConfig(**fields)) if "pool" in fields else UNet(UNetConfig(**fields))


def from_flags(name, flags):
    """The network's configuration as the program that released it builds it, which is not how we find it."""
    kind = "classifier" if "classifier" in name else "denoiser"
    settings = settings_from_flags(flags, kind)
    fields = {key: value for key, value in settings.items() if key in TORSO}
    if kind == "classifier":
        return kind, settings, fields | {"in_channels": 3, "num_classes": 1000, "pool": settings["pool"]}
    return kind, settings, fields | {"in_channels": 6 if "small_size" in settings else 3, "out_channels": 6,
                                     "num_classes": 1000 if settings["class_conditional"] else None}


def on_meta(fields):
    with torch.device("meta"):
        return make(fields)


@pytest.mark.parametrize("name", FILES)
def test_released_files_build_with_exactly_their_tensors_and_are_recognised(name):
    known = FILES[name]
    kind, settings, fields = from_flags(name, known["flags"])
    network = on_meta(fields)
    tensors = network.state_dict()
    assert shapes_digest((name, tensor.shape) for name, tensor in tensors.items()) == known["shapes"]
    assert sum(tensor.numel() for tensor in tensors.values()) == known["parameters"] and len(tensors) == known["tensors"]

    found, recognised = architecture(Path(f"/models/{name}.pt"), tensors, None, kind, make, "--these")
    assert found.config == network.config
    table = {file.file: file for file in (CLASSIFIERS if kind == "classifier" else DENOISERS).values()}[f"{name}.pt"]
    assert recognised == table.settings and table.shapes == known["shapes"]
    for key in recognised.keys() & settings.keys() - {"schedule"}:  # a classifier's comes with the denoiser's flags
        assert recognised[key] == settings[key], key
    assert table.settings["schedule"] == ("cosine" if name.startswith("64x64") else "linear") and table.settings["T"] == 1000


IMPROVED = json.loads((FOLDER.parent / "improved_diffusion_released.json").read_text())["files"]


@pytest.mark.parametrize("name", IMPROVED)
def test_improved_diffusions_files_are_what_their_published_flags_say(name):
    known, flags = IMPROVED[name], IMPROVED[name]["flags"]
    if name.startswith("upsample"):
        flags += " --large_size 256"  # that it is an upsampler only their program's name tells
    kind, settings, fields = from_flags(name, flags)
    tensors = on_meta(fields).state_dict()
    assert shapes_digest((name, tensor.shape) for name, tensor in tensors.items()) == known["shapes"]
    assert sum(tensor.numel() for tensor in tensors.values()) == known["parameters"]
    if settings["T"] != 1000 and "rescaled_t" not in settings:  # as nothing in them tells which program they are of
        assert "do not tell rescaled_t (--rescale_timesteps" in refused(tensors, settings)
        settings = settings_from_flags(f"{flags} --rescale_timesteps {known['rescaled_t']}", kind)
    network, settings = architecture(Path("x.pt"), tensors, settings, kind, make, "--these")
    assert network.config == on_meta(fields).config and settings["rescaled_t"] == known["rescaled_t"]


def test_the_lsun_files_have_the_tensors_of_the_unconditional_model():
    assert {DENOISERS[name].shapes for name in ("lsun-bedroom", "lsun-cat", "lsun-horse", "lsun-horse-nodropout")} \
        == {DENOISERS["imagenet256-uncond"].shapes}


SMALL = {"image_size": 16, "in_channels": 3, "channels": 32, "channel_mult": (1, 2, 2), "res_blocks": 2,
         "attention_at": (8, 4), "head_channels": 32}
TOLD = {"image_size": 16, "head_channels": 32, "attention_order": "legacy", "schedule": "linear", "T": 1000, "predicts": "eps"}


@pytest.mark.parametrize("changed", [
    {}, {"resample": "conv"}, {"resample": "plain"}, {"scale_shift": False}, {"res_blocks": 1}, {"res_blocks": 3},
    {"channel_mult": (1,)}, {"channel_mult": (1, 1, 1)}, {"channel_mult": (2, 3, 4)}, {"attention_at": ()},
    {"attention_at": (16, 8, 4)}, {"in_channels": 1, "attention_at": (16,)}, {"channels": 64, "channel_mult": (0.5, 1)}],
    ids=str)
@pytest.mark.parametrize("more", [
    {"out_channels": 6, "num_classes": 7}, {"out_channels": 3}, {"num_classes": 5}, {"num_classes": 5, "pool": "adaptive"},
    {"num_classes": 5, "pool": "spatial"}, {"num_classes": 5, "pool": "spatial_v2"}], ids=str)
def test_any_architecture_is_found_from_its_tensors(changed, more):
    fields = SMALL | changed | more
    if "out_channels" not in more:
        fields = {"pool": "attention"} | fields
    network = on_meta(fields)
    kind = "classifier" if "pool" in fields else "denoiser"
    settings = TOLD | {"res_blocks": fields["res_blocks"], "variance": "fixed_large"}
    found, _ = architecture(Path("x.pt"), network.state_dict(), settings, kind, make, "--these")
    wanted = network.config.__dict__ | ({"resample": "resblock"} if len(network.config.channel_mult) == 1 else {})
    at = {size for size in wanted["attention_at"] if size * 2 ** len(wanted["channel_mult"]) > 16}  # those that occur
    assert found.config.__dict__ == wanted | {"attention_at": tuple(sorted(at, reverse=True))}


def refused(tensors, settings, kind="denoiser", path="mine.pt"):
    with pytest.raises(UserError) as caught:
        architecture(Path(path), tensors, settings, kind, make, "--these")
    return str(caught.value)


UNCONDITIONAL = on_meta(SMALL | {"out_channels": 6}).state_dict()
ENCODER = on_meta(SMALL | {"num_classes": 5, "pool": "adaptive"}).state_dict()


def test_what_tensors_do_not_tell_is_asked_for_never_guessed():
    told = refused(UNCONDITIONAL, None)
    assert "do not tell image_size, heads (or head_channels), attention_order, schedule, T, predicts;" in told
    assert told.endswith("give them in a TOML or JSON file, or the flags that it was trained with (--these).")
    told = refused(ENCODER, None, "classifier")
    assert "do not tell image_size, heads (or head_channels), attention_order, schedule, T;" in told
    for name in TOLD:
        left = {key: value for key, value in TOLD.items() if key != name}
        assert f"its tensors do not tell {'heads (or head_channels)' if name == 'head_channels' else name};" \
            in refused(UNCONDITIONAL, left)
    assert "do not tell rescaled_t (--rescale_timesteps: unless given, True in improved" \
        in refused(UNCONDITIONAL, TOLD | {"T": 4000})
    architecture(Path("x"), UNCONDITIONAL, {key: value for key, value in TOLD.items() if key != "attention_order"
                                            and key != "head_channels"} | {"heads": 1}, "denoiser", make, "")  # no order of one


def test_six_channels_may_be_an_upsamplers_or_an_images():
    tensors = on_meta(SMALL | {"in_channels": 6, "out_channels": 6}).state_dict()
    assert "small_size (of an upsampler; of another model, in_channels);" in refused(tensors, TOLD)
    architecture(Path("x"), tensors, TOLD | {"small_size": 4}, "denoiser", make, "--these")
    assert "do not tell variance (fixed_small or fixed_large);" in refused(tensors, TOLD | {"in_channels": 6})
    architecture(Path("x"), tensors, TOLD | {"in_channels": 6, "variance": "fixed_large"}, "denoiser", make, "--these")


def test_a_released_files_tensors_under_another_name_are_pointed_out_not_assumed():
    _, _, fields = from_flags("64x64_classifier", FILES["64x64_classifier"]["flags"])
    tensors = on_meta(fields).state_dict()
    assert "if the file is the released imagenet64, imagenet64 in that file's place" in refused(tensors, None, "classifier")


@pytest.mark.parametrize("settings, words", [
    ({"channels": 64}, "channels 64 where the tensors tell 32"),
    ({"channel_mult": [1, 2, 3]}, "channel_mult [1, 2, 3] where the tensors tell (1, 2, 2)"),
    ({"attention_at": [8]}, "attention_at [8] where the tensors tell [4, 8]"),
    ({"image_size": 32, "attention_at": [8, 4]}, "attention_at [8] where the tensors tell [8, 16]"),
    ({"res_blocks": 3}, "res_blocks 3 where the tensors tell 2"),
    ({"resample": "conv"}, "resample conv where the tensors tell resblock"),
    ({"scale_shift": False}, "scale_shift False where the tensors tell True"),
    ({"class_conditional": True}, "class_conditional True where the tensors tell False"),
    ({"num_classes": 10}, "num_classes 10 where the tensors tell None"),
])
def test_settings_that_the_tensors_contradict_are_refused(settings, words):
    assert words in refused(UNCONDITIONAL, TOLD | settings)


def test_damaged_or_other_tensors_are_refused_by_name():
    lacking = {name: tensor for name, tensor in UNCONDITIONAL.items() if name != "middle_block.1.qkv.weight"}
    assert "1 missing tensor, such as middle_block.1.qkv.weight" in refused(lacking, TOLD)
    assert "1 unknown tensor, such as extra.weight" in refused(UNCONDITIONAL | {"extra.weight": torch.zeros(1)}, TOLD)
    other = UNCONDITIONAL | {"middle_block.1.qkv.weight": torch.zeros(3, 3)}
    assert "middle_block.1.qkv.weight has shape [3, 3], not [192, 64, 1]" in refused(other, TOLD)
    assert "holds a denoiser, and a classifier is wanted here" in refused(UNCONDITIONAL, TOLD, "classifier")
    assert "holds a classifier, and a denoiser is wanted here" in refused(ENCODER, TOLD)
    assert "holds no U-Net of guided-diffusion" in refused({"conv1.weight": torch.zeros(1)}, TOLD)
    assert "3 heads" in refused(UNCONDITIONAL, {**TOLD, "heads": 3, "head_channels": None})
