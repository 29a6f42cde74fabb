"""Weights for a TimmClassifier: timm's own, or those of a file."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisy_clf.checkpoints.tensors import refuse_other_tensors
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.errors import UserError, one_line
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig, create

TIMM = "timm"  # the source of weights that timm downloads


def start_from(network: TimmClassifier, source: str | Path) -> None:
    """Gives the backbone the weights of a classifier of clean images: timm's own ("timm": a download), or those in a file.

    As timm does it, position embeddings are resampled to another image size, the first convolution is adapted to
    other channels, and the last layer is left as it is where there are other classes, which is told on stderr. Any
    other tensor that is missing, unknown or of another shape is refused by name.
    """
    give(network, find_tensors(network.config.name, source), source)


def find_tensors(name: str, source: str | Path) -> dict[str, Tensor]:
    """The tensors of timm's own weights, or of a file."""
    if str(source) != TIMM:
        return read_tensors(Path(source))
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever the network, the hub or a lack of weights makes timm raise
        raise UserError(f"timm could not get its weights of {name} ({one_line(error)}); without a network, give them as a "
                        f"file, timm:{name}@FILE or --pretrained FILE: a .safetensors, .pt or .pth of tensors.") from error


def give(network: TimmClassifier, tensors: dict[str, Tensor], source: str | Path) -> None:
    config, own = network.config, network.backbone.state_dict()
    path = Path(f"timm's {config.name}" if str(source) == TIMM else source)
    tensors = {**{name: own[name] for name in own if name.endswith("num_batches_tracked")},  # old files lack it
               **in_timms_format(network.backbone, config, tensors, path)}
    if config.num_classes == 0:
        with torch.device("meta"):
            last = set(create(replace(config, num_classes=1)).state_dict()) - set(own)  # whatever a last layer has
        tensors = {name: tensor for name, tensor in tensors.items() if name not in last}
    if any(name.endswith("running_var") for name in set(tensors) - set(own)):
        raise UserError(f"{path} learned with BatchNorm, whose statistics GroupNorm has no use for; choose batch_norm frozen.")
    adapt_first_convolution(network.backbone, config, tensors)
    for layer in names_of(network.backbone.pretrained_cfg["classifier"]):
        classes = len(tensors.get(f"{layer}.weight", ()))
        if classes and classes != config.num_classes:
            print(f"{path} knows {classes} classes and this network {config.num_classes}: the last layer, {layer}, starts "
                  f"anew.", file=sys.stderr)
            tensors.update({name: own[name] for name in (f"{layer}.weight", f"{layer}.bias") if name in own})
    refuse_other_tensors(path, tensors, own)
    network.backbone.load_state_dict(tensors)


def in_timms_format(backbone: nn.Module, config: TimmConfig, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """By timm's own filter for this family of models: older names, position embeddings of another size."""
    import timm

    family = sys.modules[timm.model_entrypoint(config.name.partition(".")[0]).__module__]
    try:
        return dict(getattr(family, "checkpoint_filter_fn", lambda found, model: found)(tensors, backbone))
    except Exception as error:  # the filters take it that a file is of their model
        raise UserError(f"{path} does not hold a {config.name} as timm has it ({one_line(error)}).") from error


def adapt_first_convolution(backbone: Any, config: TimmConfig, tensors: dict[str, Tensor]) -> None:
    """From colour to other channels; what timm cannot adapt stays as it is, of a shape that will be refused."""
    from timm.models import adapt_input_conv

    own = backbone.state_dict()
    for name in (f"{layer}.weight" for layer in names_of(backbone.pretrained_cfg["first_conv"])):
        if name in tensors and name in own and tensors[name].shape[1:2] != own[name].shape[1:2]:
            with suppress(NotImplementedError, AssertionError):
                tensors[name] = adapt_input_conv(config.in_channels, tensors[name])


def names_of(layers: str | Sequence[str] | None) -> list[str]:
    """timm names one layer, several or none."""
    return [layers] if isinstance(layers, str) else list(layers or ())
