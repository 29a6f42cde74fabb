"""Weights for a TimmClassifier to start from, and how fast which of them learn."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig
from noisy_clf.checkpoints.model_folder import refuse_other_tensors
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.torch_file import one_line, read_tensors

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
                        f"file: a .safetensors, .pt or .pth with the model's state dict.") from error


def give(network: TimmClassifier, tensors: dict[str, Tensor], source: str | Path) -> None:
    config, own = network.config, network.backbone.state_dict()
    path = Path(f"timm's {config.name}" if str(source) == TIMM else source)
    tensors = {**{name: own[name] for name in own if name.endswith("num_batches_tracked")},  # old files lack it
               **in_timms_format(network.backbone, config, tensors, path)}
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


def parameter_groups(network: TimmClassifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """For AdamW: what learns, with its "lr_scale" and "weight_decay".

    At layer_decay 1 all of it alike, as ADM's program has it. Below 1 as timm has it: lr_scale is layer_decay to the power of
    a layer's depth below the head (the head's and the time layers' is 1), and biases and norms do not decay.
    """
    from timm.optim import param_groups_layer_decay

    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay must be above 0 and at most 1, not {layer_decay}.")
    if layer_decay == 1:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "lr_scale": 1.0, "weight_decay": weight_decay}]
    backbone = network.backbone
    undecayed = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(backbone, weight_decay, no_weight_decay_list=undecayed, layer_decay=layer_decay)
    time = [p for name, p in network.named_parameters() if not name.startswith("backbone.") and p.requires_grad]
    for decay, params in ((weight_decay, [p for p in time if p.ndim > 1]), (0.0, [p for p in time if p.ndim <= 1])):
        if params:
            groups.append({"params": params, "lr_scale": 1.0, "weight_decay": decay})
    return groups


def freeze_stages(network: TimmClassifier, count: int) -> None:
    """The stem and the first `count` stages, as timm counts them, do not learn; 0: all learn. The time layers always do."""
    from timm.models import group_parameters

    if count == 0:
        return
    name, backbone = network.config.name, network.backbone
    try:
        stage_of = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    except (AttributeError, AssertionError) as error:  # some models have no group_matcher, and some but a fine one
        raise UserError(f"timm does not tell which parameters of {name} are of which stage, so that none can be frozen; let "
                        f"all learn, or choose another model.") from error
    stages = max(stage_of.values()) - 1  # 0 is the stem, the last the head
    if not 0 <= count <= stages:
        raise UserError(f"{name} has {stages} stages, of which 0 to {stages} can be frozen, not {count}.")
    for parameter_name, parameter in backbone.named_parameters():
        if stage_of[parameter_name] <= count:
            parameter.requires_grad_(False)
