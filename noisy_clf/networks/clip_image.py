"""ClipImageTower: the image tower of any dual encoder of open_clip's, told the time and fit for noise.

Images x_t [B,C,H,W] in [-1,1].
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noisy_clf.errors import UserError, one_line, out_of_memory
from noisy_clf.networks.config import refuse_no_size
from noisy_clf.networks.open_clip import imported
from noisy_clf.networks.stages import Stages, stages_of
from noisy_clf.networks.timm_model import drop_nothing, pretrained_cfg
from noisy_clf.networks.timm_stages import stage_widths
from noisy_clf.networks.told_the_time import ToldTheTime

COLOURS = 3
CHANCE = {"patch_dropout": 0.0, "timm_drop": 0.0, "timm_drop_path": None}  # settings that draw at random
ASKS = {"timm_model_pretrained": False, "output_tokens": False}  # that download, or return more


@dataclass(frozen=True, kw_only=True)
class ClipImageConfig:
    """ClipImageTower's settings: all that rebuilding it takes, without a download.

    image_size        pixels a side of x_t, which is resized to the tower's
    in_channels       1 grey, which is shown in all colours, or 3
    embed_dim         D, numbers of an embedding
    vision            open_clip's settings of the tower (its vision_cfg)
    quick_gelu        OpenAI's approximation of GELU, with which its own towers learned
    mean, std         what the tower takes off and divides by, for each colour, in [0,1]
    time_conditional  t scales and shifts each stage's features; else t is not looked at
    """

    image_size: int
    in_channels: int
    embed_dim: int
    vision: dict[str, Any]
    quick_gelu: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    time_conditional: bool = True

    def __post_init__(self) -> None:
        for field in ("image_size", "embed_dim"):
            refuse_no_size(field, getattr(self, field))
        refuse_no_size("input_size", self.size)
        if self.in_channels not in (1, COLOURS):
            raise UserError(f"CLIP's image towers see colour images, or grey ones, not {self.in_channels} channels.")
        for field in ("mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON has lists only
            if len(getattr(self, field)) != COLOURS:
                raise UserError(f"{field} has {len(getattr(self, field))} values for {COLOURS} colours; give one for each.")
        if not all(0 < value < float("inf") for value in self.std):
            raise UserError(f"std must be positive numbers, not {self.std}.")

    @property
    def size(self) -> int:
        """Pixels a side of what the tower sees."""
        size = self.vision.get("image_size", 224)  # open_clip's default
        return size[0] if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1] else size


class ClipImageTower(ToldTheTime):
    """(x_t [B,C,H,W] in [-1,1], t [B]) -> embeddings float32 [B,D].

    Made on the CPU whatever the default device: some towers compute tensors when they are made that no file holds.
    """

    config: ClipImageConfig
    backbone: Any  # open_clip's tower

    def __init__(self, config: ClipImageConfig) -> None:
        super().__init__()
        self.config = config
        stages = find_stages(config)
        with torch.device("cpu"):
            self.backbone = create(config)
        self.tell_stages(stages, getattr(getattr(self.backbone, "trunk", None), "num_prefix_tokens", 1))
        self.train()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.told(x_t, t, self.embedding)

    def embedding(self, x: Tensor) -> Tensor:
        return self.backbone(x).float()


def create(config: ClipImageConfig) -> nn.Module:
    """open_clip's tower with random weights, what it drops at random switched off. UserError where it has no such tower."""
    imported("an image tower of CLIP's")
    from open_clip.model import _build_vision_tower as build

    if config.vision.get("timm_model_name"):
        pretrained_cfg(str(config.vision["timm_model_name"]))  # which refuses what timm has not, and a hub's
    try:
        tower = build(config.embed_dim, config.vision | CHANCE | ASKS, config.quick_gelu)
    except Exception as error:  # whatever the settings make open_clip stumble over
        if out_of_memory(error):
            raise
        raise does_not_fit(error) from error
    drop_nothing(tower)
    return tower


def find_stages(config: ClipImageConfig) -> Stages:
    """By a pass without numbers, which also shows whether the tower works."""
    with torch.device("meta"):
        tower = create(config).eval()
        tower.register_forward_hook(lambda module, inputs, output: refuse_other_shape(output, config.embed_dim))
    try:
        return stages_of(tower, tower_widths(tower), config.size, COLOURS)
    except Exception as error:  # whatever a tower stumbles over
        if isinstance(error, UserError):
            raise
        raise does_not_fit(error) from error


def tower_widths(tower: Any) -> dict[str, int]:
    """The paths of the tower's stages -> their channels, or 0 where they need not be known."""
    if hasattr(tower, "trunk"):  # timm's
        return {f"trunk.{path}": width for path, width in stage_widths(tower.trunk).items()}
    if hasattr(tower, "transformer"):
        return {f"transformer.resblocks.{block}": 0 for block in range(len(tower.transformer.resblocks))}
    return {part: 0 for part in ("avgpool", "layer1", "layer2", "layer3", "layer4")}  # ModifiedResNet: the first ends its stem


def refuse_other_shape(output: Any, embed_dim: int) -> None:
    if not isinstance(output, Tensor) or output.shape[1:] != (embed_dim,):
        raise UserError(f"this image tower of open_clip's does not return one embedding of {embed_dim} numbers for an image; "
                        f"give the tower of a CLIP or a SigLIP.")


def does_not_fit(error: Exception) -> UserError:
    return UserError(f"open_clip cannot make an image tower of these settings ({one_line(error)}).")
