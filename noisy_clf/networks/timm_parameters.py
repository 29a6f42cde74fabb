"""Which parameters of a TimmClassifier learn, and how fast."""
from __future__ import annotations

from typing import Any

from noisy_clf.errors import UserError
from noisy_clf.networks.timm_classifier import TimmClassifier


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
