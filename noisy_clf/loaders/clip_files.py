"""Where a dual encoder lies, and what its files hold.

open_clip knows architectures and where weights are; files are opened by our own reader, which runs no code in them.
"""
from __future__ import annotations

import difflib
import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from noisy_clf.checkpoints.by_name import CLIP
from noisy_clf.checkpoints.model_folder import BUNDLED
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.errors import UserError, one_line
from noisy_clf.networks.open_clip import imported

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip's names, the safer one first
OF_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")  # where no "text." is
OF_NEITHER = ("logit_scale", "logit_bias", "attn_mask", "text.transformer.embeddings.position_ids")
OF_OPENAI = ("input_resolution", "context_length", "vocab_size")  # what OpenAI's program writes beside the weights


@dataclass(frozen=True)
class Found:
    """A dual encoder's settings and the file of its weights (Clip says what the fields are)."""

    path: Path
    model_cfg: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: str


def bundled_clips() -> list[str]:
    return sorted(folder.parent.name for folder in BUNDLED.glob("*/clip"))


def find(name: str) -> Found:
    """By its name; open_clip's own weights are downloaded, once."""
    open_clip, given = imported(name), name.removeprefix(CLIP)
    folder = BUNDLED / given / "clip" if given in bundled_clips() else Path(given)
    if given and folder.is_dir():
        config = read_config(folder / CONFIG)
        path, tokenizer, model_cfg = weights_in(folder), f"local-dir:{folder}", config.get("model_cfg")
        preprocess = config.get("preprocess_cfg") or {}
    else:
        arch, _, weights = given.partition("@")
        tokenizer = arch.replace("/", "-")  # ViT-B/32, as OpenAI writes it
        path, model_cfg, preprocess = of_architecture(open_clip, name, tokenizer, weights)
    mean, std = preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN, preprocess.get("std") or open_clip.OPENAI_DATASET_STD
    return Found(path, checked(model_cfg, path), tuple(mean), tuple(std), tokenizer)


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} is not a folder of open_clip's: it has no {path.name}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({one_line(error)}).") from error
    return config if isinstance(config, dict) else {}


def weights_in(folder: Path) -> Path:
    found = [path for path in map(folder.joinpath, WEIGHTS) if path.is_file()] or sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    if not found:
        raise UserError(f"{folder} has a {CONFIG} and no weights; put them beside it, as {WEIGHTS[0]}.")
    return found[0]


def of_architecture(open_clip: ModuleType, name: str, arch: str, weights: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file of weights, which are open_clip's by their tag or a file's, the model's settings, and its preprocessing's."""
    model_cfg = open_clip.get_model_config(arch)
    if model_cfg is None:
        near = difflib.get_close_matches(arch, open_clip.list_models(), n=3, cutoff=0.5)
        raise UserError(f"there is no dual encoder {name}: no folder, no architecture of open_clip's" + (
            f" (did you mean {' or '.join(near)}?)" if near else "") + f", and bundled are: "
            f"{', '.join(CLIP + bundled for bundled in bundled_clips())}.")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    possible = f"give {CLIP}{arch}@FILE" + f", or {CLIP}{arch}@TAG with one of open_clip's: {', '.join(tags)}" * bool(tags)
    if not weights:
        raise UserError(f"{name} does not say which weights; {possible}.")
    known = open_clip.get_pretrained_cfg(arch, weights)
    if not known and not Path(weights).is_file():
        raise UserError(f"{weights} is neither a file nor weights that open_clip has of {arch}; {possible}.")
    model_cfg["quick_gelu"] = model_cfg.get("quick_gelu", False) or known.get("quick_gelu", False)
    try:
        return Path(open_clip.download_pretrained(known) if known else weights), model_cfg, known
    except Exception as error:  # whatever the network or the hub makes open_clip raise
        raise UserError(f"open_clip could not get its weights {weights} of {arch} ({one_line(error)}); without a network, give "
                        f"them as a file, {CLIP}{arch}@FILE: a .safetensors, .bin, .pt or .pth of tensors.") from error


def checked(model_cfg: Any, path: Path) -> dict[str, Any]:
    """A copy that asks for no downloads. UserError where these are not the settings of a dual encoder."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    try:
        found = deepcopy(model_cfg)
        found["vision_cfg"] |= {"timm_model_pretrained": False, "output_tokens": False}
        found["text_cfg"] |= {"hf_model_pretrained": False, "output_tokens": False}
        found["embed_dim"], CLIPVisionCfg(**found["vision_cfg"]), CLIPTextCfg(**found["text_cfg"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: its model_cfg is not that of a dual encoder of open_clip's ({error!r}).") from error
    if "multimodal_cfg" in found:
        raise UserError(f"{path} is a CoCa, which is more than an image tower and a text tower; give a CLIP or a SigLIP.")
    return found


def read_towers(found: Found) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The model's settings, by what the file tells of them, and the image tower's and the text tower's tensors."""
    tensors = read_tensors(found.path)
    model_cfg = found.model_cfg | ({"quick_gelu": True} if set(OF_OPENAI) & set(tensors) else {})
    tensors = {name: tensor for name, tensor in tensors.items() if name not in (*OF_NEITHER, *OF_OPENAI)}
    resample(tensors, model_cfg, found.path)
    image, text = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("visual."):
            image[name.removeprefix("visual.")] = tensor
        elif name.startswith(("text.", *OF_TEXT)):
            text[name.removeprefix("text.")] = tensor
        else:
            raise UserError(f"{found.path} is not a dual encoder as open_clip has it: its {name} belongs neither to an image "
                            f"tower (visual.) nor to a text tower.")
    if not image or not text:
        raise UserError(f"{found.path} has no {'text' if image else 'image'} tower; give the weights of a whole dual encoder.")
    return model_cfg, image, text


def resample(tensors: dict[str, Tensor], model_cfg: dict[str, Any], path: Path) -> None:
    """Position embeddings become those of the images' size and the texts' length, by open_clip's own functions."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    vision, text = CLIPVisionCfg(**model_cfg["vision_cfg"]), CLIPTextCfg(**model_cfg["text_cfg"])
    model = SimpleNamespace(visual=SimpleNamespace(), positional_embedding=torch.empty(
        text.context_length + text.embed_cls, text.width))
    if not vision.timm_model_name and isinstance(vision.layers, int) and isinstance(vision.image_size, int):
        model.visual.grid_size = vision.image_size // vision.patch_size  # of a ViT; open_clip resamples no other tower's
    try:
        resize_pos_embed(tensors, model)
        resize_text_pos_embed(tensors, model)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"{path} does not fit its configuration: its position embeddings are another model's.") from error
