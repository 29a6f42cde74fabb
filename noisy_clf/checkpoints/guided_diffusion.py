"""Bare state dicts of guided-diffusion and improved-diffusion: the architecture, from the names and shapes of their tensors.

Shapes tell widths, levels, blocks and where attention is. What they do not tell comes as `Settings`, or is asked for.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisy_clf import imagenet
from noisy_clf.checkpoints.tensors import refuse_other_tensors
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.released import RELEASED, shapes_digest
from noisy_clf.checkpoints.settings import Settings, checked

Shapes = dict[str, tuple[int, ...]]
Fields = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)


def architecture(path: Path, tensors: Mapping[str, Tensor], settings: Settings | None, kind: str,
                 make: Callable[[Fields], Network], options: str) -> tuple[Network, Settings]:
    """The network without its weights, and the settings that hold for it: given ones, or those of a released file.

    `make` builds a network from configuration fields; `options` are those of a command that bring settings. Refused:
    another kind of file, tensors that fit no architecture, settings that the tensors contradict, and settings that are lacking.
    """
    shapes = shapes_of(tensors)
    refuse_other_kind(path, shapes, kind)
    digest = shapes_digest(shapes.items())
    if any(file.file == path.name and file.settings == settings and file.shapes != digest for file in RELEASED[kind].values()):
        raise UserError(f"{path} does not hold the tensors of the file that was released by that name; remove it to have it "
                        f"downloaded anew, or give a file of your own another name.")
    try:
        possible = possible_architectures(shapes, kind)
    except (IndexError, ValueError, ZeroDivisionError):  # tensors with too few dimensions, or with none in them
        possible = []
    if not possible:
        raise UserError(f"{path} is not a {kind} of guided-diffusion: its blocks fit no number of levels; copy or download it "
                        f"again, or give a file that guided-diffusion or improved-diffusion wrote.")
    fitting = [fields for fields in possible if fits(make, fields, shapes)]
    if not fitting:
        refuse_other_tensors(path, dict(tensors), without_weights(path, make, possible[0]).state_dict())
    same = [name for name, file in RELEASED[kind].items() if file.shapes == digest]
    if settings is None:
        settings = next((RELEASED[kind][name].settings for name in same if RELEASED[kind][name].file == path.name), {})
    settings = checked(settings, f"the settings given for {path}")
    if settings.get("res_blocks"):
        fitting = [fields for fields in fitting if fields["res_blocks"] == settings["res_blocks"]] or fitting[:1]
    told = fitting[0]
    refuse_contradictions(path, told, settings)
    lacking = what_is_lacking(settings, told, kind) + (["res_blocks"] if len(fitting) > 1 else [])
    if lacking:
        hint = f", or, if the file is the released {same[0]}, {same[0]} in that file's place" if same else ""
        raise UserError(f"{path}: its tensors do not tell {', '.join(lacking)}; give them in a TOML or JSON file{hint}, or the "
                        f"flags that it was trained with ({options}).")
    return without_weights(path, make, completed(told, settings)), settings


def without_weights(path: Path, make: Callable[[Fields], Network], fields: Fields) -> Network:
    try:
        with torch.device("meta"):
            return make(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def refuse_other_kind(path: Path, shapes: Shapes, kind: str) -> None:
    if "time_embed.0.weight" not in shapes or "input_blocks.0.0.weight" not in shapes:
        raise UserError(f"{path} holds no U-Net of guided-diffusion or improved-diffusion (it has no time_embed.0.weight, "
                        f"but {next(iter(shapes))}); a diffusers model is given by its folder.")
    found = "denoiser" if any(name.startswith("output_blocks.") for name in shapes) else "classifier"
    if found != kind:
        raise UserError(f"{path} holds a {found}, and a {kind} is wanted here.")


def possible_architectures(shapes: Shapes, kind: str) -> list[Fields]:
    """Every architecture whose blocks could be these, the likeliest first; what shapes leave open stands at any value."""
    def shape(name: str) -> tuple[int, ...]:
        return shapes.get(name, ())

    def indices(path: str) -> set[int]:
        return {int(found[1]) for name in shapes if (found := re.match(rf"{path}\.(\d+)\.", name))}

    channels, in_channels = shape("time_embed.0.weight")[1], shape("input_blocks.0.0.weight")[1]
    blocks = 1 + max(indices("input_blocks"))
    resample = "conv" if any(".op." in name for name in shapes) else \
        "plain" if len(indices("input_blocks")) < blocks else "resblock"
    found = []
    for levels in range(1, blocks + 1):
        res_blocks = blocks // levels - 1  # a level has its ResBlocks and one block of down-sampling; the first is the input's
        first = [1 + level * (res_blocks + 1) for level in range(levels)]
        widths = [shape(f"input_blocks.{i}.0.out_layers.3.bias") for i in first]
        if blocks % levels or res_blocks < 1 or not all(widths):
            continue
        up = {i for i in indices("output_blocks") if f"output_blocks.{i}.1.in_layers.0.weight" in shapes
              or f"output_blocks.{i}.2.in_layers.0.weight" in shapes or any(
                  f"output_blocks.{i}.{layer}.conv.weight" in shapes for layer in (1, 2))}
        if kind == "denoiser" and resample != "plain" and len(up) != levels - 1:
            continue
        emb = shape("input_blocks.1.0.emb_layers.1.bias")
        fields: Fields = {
            "in_channels": in_channels, "channels": channels, "res_blocks": res_blocks, "resample": resample,
            "channel_mult": tuple(whole(width[0] / channels) for width in widths),
            "scale_shift": emb == (2 * widths[0][0],), "image_size": 8 * 2 ** (levels - 1)}
        head = classifier_head(shapes, levels) if kind == "classifier" else {
            "out_channels": (shape("out.2.weight") or (1,))[0], "num_classes": (shape("label_emb.weight") or (None,))[0]}
        fields |= head
        fields["attention_at"] = tuple(fields["image_size"] // 2 ** level for level, i in enumerate(first)
                                       if f"input_blocks.{i}.1.qkv.weight" in shapes)
        found.append(fields)
    return sorted(found, key=lambda fields: fields["res_blocks"] != 2)


def classifier_head(shapes: Shapes, levels: int) -> Fields:
    if "out.2.positional_embedding" in shapes:
        pixels = shapes["out.2.positional_embedding"][1] - 1
        return {"pool": "attention", "num_classes": shapes.get("out.2.c_proj.weight", (1,))[0],
                "image_size": math.isqrt(pixels) * 2 ** (levels - 1)}
    last = max((name for name in shapes if name.startswith("out.") and name.endswith(".weight")), default="")
    pool = {"out.3.weight": "adaptive" if len(shapes[last]) == 4 else "spatial_v2", "out.2.weight": "spatial"}.get(last)
    return {"pool": pool or "attention", "num_classes": shapes[last][0] if last else 1}


def fits(make: Callable[[Fields], nn.Module], fields: Fields, shapes: Shapes) -> bool:
    try:
        with torch.device("meta"):
            network = make(fields)
    except UserError:
        return False
    return shapes_of(network.state_dict()) == shapes


def refuse_contradictions(path: Path, told: Fields, settings: Settings) -> None:
    """Settings that say another thing than the tensors do: the settings of another model, or incomplete flags."""
    size = settings.get("image_size", told["image_size"])
    facts = told | {"class_conditional": told.get("num_classes") is not None,
                    "attention_at": sorted(size * at // told["image_size"] for at in told["attention_at"])}
    if told.get("pool") != "attention":
        facts.pop("image_size")
    if len(told["channel_mult"]) == 1:
        facts.pop("resample")
    sizes = [size // 2 ** level for level in range(len(told["channel_mult"]))]
    given: Settings = dict(settings)
    if "attention_at" in given:  # flags name sizes that do not occur, too
        given["attention_at"] = sorted(at for at in given["attention_at"] if at in sizes)
    different = [f"{name} {given[name]} where the tensors tell {facts[name]}" for name in facts
                 if name in given and listed(given[name]) != listed(facts[name])]
    if different:
        raise UserError(f"the settings given for {path} say {', '.join(different)}; give those of this very model, whole.")


def what_is_lacking(settings: Settings, told: Fields, kind: str) -> list[str]:
    lacking = []
    if told.get("pool") != "attention" and "image_size" not in settings:
        lacking.append("image_size")
    if "heads" not in settings and "head_channels" not in settings:
        lacking.append("heads (or head_channels)")
    if "attention_order" not in settings and settings.get("heads") != 1:
        lacking.append("attention_order")
    if "alpha_bar" not in settings:
        lacking += [name for name in ("schedule", "T") if name not in settings]
    if kind == "denoiser":
        T = len(settings["alpha_bar"]) if "alpha_bar" in settings else settings.get("T", 1000)
        if T != 1000 and "rescaled_t" not in settings:
            lacking.append("rescaled_t (--rescale_timesteps: unless given, True in improved-diffusion, False in "
                           "guided-diffusion)")
        if "predicts" not in settings:
            lacking.append("predicts")
        C = told["in_channels"] // (2 if "small_size" in settings else 1)
        if told["out_channels"] == C and "variance" not in settings:
            lacking.append("variance (fixed_small or fixed_large)")
        if told["in_channels"] not in (1, 3) and "small_size" not in settings and "in_channels" not in settings:
            lacking.append("small_size (of an upsampler; of another model, in_channels)")
    return lacking


def completed(told: Fields, settings: Settings) -> Fields:
    size = settings.get("image_size", told["image_size"])
    untold = {name: settings[name] for name in ("heads", "head_channels", "attention_order") if name in settings}
    return told | untold | {
        "image_size": size, "attention_at": tuple(size * at // told["image_size"] for at in told["attention_at"])}


def names_of_classes(path: Path, settings: Settings, K: int) -> tuple[str, ...]:
    """The names that the settings give the K classes; their numbers where they give none."""
    given = settings.get("class_names", list(map(str, range(K))))
    names = imagenet.class_names() if given == "imagenet" else tuple(given)
    if len(names) != K:
        raise UserError(f"{path} has {K} classes, and class_names gives {len(names)} names; give one for each, in the order "
                        f"of their numbers, or leave class_names out.")
    return names


def whole(number: float) -> float:
    return int(number) if number == int(number) else number


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
