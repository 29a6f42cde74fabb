"""The stages of a backbone: where its features can be told the time, and read as maps."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class StageTensor(NamedTuple):
    """A tensor of what a stage returns: its place there, its channels, and the axis that they are along."""

    place: int
    channels: int
    axis: int


Stages = dict[str, list[StageTensor]]  # the path of each stage -> what it returns


def stages_of(model: nn.Module, widths: Mapping[str, int], size: int, channels: int) -> Stages:
    """By a pass of images without numbers, `size` pixels a side; whatever the model stumbles over is raised.

    model   on the meta device; timm's say where their channels are
    widths  the paths of the stages -> what is said of their channels, or 0
    """
    found: Stages = {}
    channels_last = getattr(getattr(model, "trunk", model), "output_fmt", None) == "NHWC"  # trunk: timm's, within open_clip's
    with torch.device("meta"):
        images = torch.zeros(2, channels, size, size)
        for path, width in widths.items():

            def note(module: nn.Module, inputs: Any, output: Any, path: str = path, width: int = width) -> None:
                tensors = [output] if isinstance(output, Tensor) else output
                found[path] = [StageTensor(place, tensor.shape[axis], axis) for place, tensor in enumerate(tensors)
                               if isinstance(tensor, Tensor) and len(tensor) == len(images)
                               for axis in [channel_axis(tensor, width, channels_last)]]

            model.get_submodule(path).register_forward_hook(note)
        model(images)
    return found


def channel_axis(features: Tensor, width: int, channels_last: bool) -> int:
    """Of [B,C,H,W], [B,H,W,C] or [B,L,C], where `width` is what is said of a stage's C."""
    if features.ndim == 4 and not channels_last and (features.shape[1] == width or features.shape[-1] != width):
        return 1
    return features.ndim - 1


def as_map(features: Tensor, axis: int, extra: int) -> Tensor | None:
    """[B,C,H,W] of a stage's tensor whose channels are along `axis`; None where it is no map.

    extra  tokens that are of no place in the image, and come first, if there are any
    """
    if features.ndim == 4:
        return features if axis == 1 else features.permute(0, 3, 1, 2)
    for skipped in (extra, 0) if features.ndim == 3 else ():
        places = features.shape[1] - skipped
        side = math.isqrt(max(places, 0))
        if side and side ** 2 == places:
            return features[:, skipped:].transpose(1, 2).unflatten(2, (side, side))
    return None
