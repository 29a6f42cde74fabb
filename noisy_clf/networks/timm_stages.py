"""The stages of timm's models: where features can be told the time."""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noisy_clf.errors import UserError
from noisy_clf.networks.timm_model import TimmConfig, create, does_not_fit


class Features(NamedTuple):
    """A tensor of what a stage returns: its place there, its channels, and the axis that they are along."""

    place: int
    channels: int
    axis: int


def find_stages(config: TimmConfig) -> dict[str, list[Features]]:
    """The path of each stage that is told the time -> what it returns, by a pass without numbers, which also shows whether
    such images fit."""
    found: dict[str, list[Features]] = {}
    with torch.device("meta"):
        model = create(config).eval()
        images = torch.zeros(2, config.in_channels, config.size, config.size)
        channels_last = getattr(model, "output_fmt", None) == "NHWC"
        for path, width in stage_widths(model).items():

            def note(module: nn.Module, inputs: Any, output: Any, path: str = path, width: int = width) -> None:
                tensors = [output] if isinstance(output, Tensor) else output
                found[path] = [Features(place, tensor.shape[axis], axis) for place, tensor in enumerate(tensors)
                               if isinstance(tensor, Tensor) and len(tensor) == len(images)
                               for axis in [channel_axis(tensor, width, channels_last)]]

            model.get_submodule(path).register_forward_hook(note)
        try:
            model(images)
        except Exception as error:  # whatever a model stumbles over
            raise does_not_fit(config, error) from error
    if not config.time_conditional:
        return {}
    if not any(found.values()):
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


def channel_axis(features: Tensor, width: int, channels_last: bool) -> int:
    """Of [B,C,H,W], [B,H,W,C] or [B,L,C], where `width` is what timm says of a stage's C."""
    if features.ndim == 4 and not channels_last and (features.shape[1] == width or features.shape[-1] != width):
        return 1
    return features.ndim - 1
