"""The stages of timm's models."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from noisy_clf.errors import UserError
from noisy_clf.networks.stages import Stages, stages_of
from noisy_clf.networks.timm_model import TimmConfig, create, does_not_fit


def find_stages(config: TimmConfig) -> Stages:
    """By a pass without numbers, which also shows whether such images fit. UserError where there are none to be told the
    time."""
    with torch.device("meta"):
        model = create(config).eval()
    try:
        found = stages_of(model, stage_widths(model), config.size, config.in_channels)
    except Exception as error:  # whatever a model stumbles over
        raise does_not_fit(config, error) from error
    if config.time_conditional and not any(found.values()):
        raise UserError(f"timm does not tell the stages of {config.name}, so that it cannot be told the time; choose another "
                        f"model, or time_conditional = false.")
    return found


def stage_widths(model: nn.Module) -> dict[str, int]:
    """The paths of the stages that timm tells of -> their channels; where there are none, the parts of what its models mostly
    call them, of unknown channels (0)."""
    modules = dict(model.named_modules())
    told: Any = getattr(model, "feature_info", [])
    widths = {info["module"]: info["num_chs"] for info in told if info["module"] in modules and info["module"]}  # "": the model
    if not widths:
        widths = {f"{whole}.{part}": 0 for whole in ("stages", "blocks", "layers") if whole in modules
                  for part, _ in modules[whole].named_children()}
    return {f"{path}.{len(blocks) - 1}" if isinstance(blocks := modules[path], nn.ModuleList) else path: width
            for path, width in widths.items()}  # a ModuleList is never called itself: its last one stands for it
