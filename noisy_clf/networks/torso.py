"""The half that ADM's denoiser and its classifier share: time embedding, down-sampling path, middle block."""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import nn

from noisy_clf.errors import UserError
from noisy_clf.networks.layers import AttentionBlock, AttentionOrder, Downsample, ResBlock, Resample, TimeSequential


@dataclass(frozen=True, kw_only=True)
class TorsoConfig:
    """The architecture's settings that denoiser and classifier have in common.

    image_size      pixels a side; divisible by 2 for each level but the last
    in_channels     1 grey, 3 colour
    channels        base width; a level has channels * channel_mult[level]
    channel_mult    one factor a level; each level but the last ends in down-sampling
    res_blocks      ResBlocks a level
    attention_at    image sizes, in pixels, at which ResBlocks are followed by attention
    head_channels   channels of an attention head; None: `heads` heads whatever the width
    attention_order how q, k and v lie in the weights: "legacy" (head first) or "new" (q, k, v first)
    scale_shift     the time embedding scales and shifts normalised features, rather than being added
    resample        by a "resblock", a "conv" or "plain" (mean pooling, nearest neighbour)
    """

    image_size: int
    in_channels: int
    channels: int
    channel_mult: tuple[float, ...]
    res_blocks: int = 2
    attention_at: tuple[int, ...] = ()
    heads: int = 1
    head_channels: int | None = None
    attention_order: AttentionOrder = "legacy"
    scale_shift: bool = True
    resample: Literal["resblock", "conv", "plain"] = "resblock"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_at"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.channel_mult or not all(0 < factor < float("inf") for factor in self.channel_mult):
            raise UserError(f"channel_mult must be positive numbers, for at least one level, not {self.channel_mult}.")
        for field in fields(self):  # their types are strings here
            value = getattr(self, field.name)
            if (field.type == "int" or field.type == "int | None" and value is not None) \
                    and (not isinstance(value, int) or value < 1):
                raise UserError(f"{field.name} must be a whole number of at least 1, not {value!r}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, not {self.dropout}.")
        stride = 2 ** (len(self.channel_mult) - 1)
        if self.image_size < stride or self.image_size % stride:
            raise UserError(f"image size {self.image_size} does not divide by {stride}, as channel_mult "
                            f"{self.channel_mult} with its {len(self.channel_mult)} levels needs.")
        if self.attention_order not in ("legacy", "new"):
            raise UserError(f"unknown attention_order {self.attention_order!r}; there are: legacy, new.")
        if self.resample not in ("resblock", "conv", "plain"):
            raise UserError(f"unknown resample {self.resample!r}; there are: resblock, conv, plain.")
        for width in self.widths:
            if width < 32 or width % 32:
                raise UserError(f"a level {width} channels wide cannot be normalised in 32 groups; choose channels "
                                f"and channel_mult so that every level is a multiple of 32.")
        for width in {self.widths[level] for level in range(len(self.widths)) if self.attends(level)} | {self.widths[-1]}:
            if width % (self.head_channels or self.heads):
                raise UserError(f"{width} channels do not divide into " + (
                    f"heads of {self.head_channels} channels." if self.head_channels else f"{self.heads} heads."))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(self.channels * factor) for factor in self.channel_mult)

    @property
    def emb_width(self) -> int:
        return 4 * self.channels

    def attends(self, level: int) -> bool:
        return self.image_size // 2 ** level in self.attention_at

    def res_block(self, width_in: int, width_out: int, resample: Resample | None = None) -> ResBlock:
        return ResBlock(width_in, width_out, self.emb_width, self.dropout, self.scale_shift, resample)

    def heads_of(self, width: int) -> int:
        return width // self.head_channels if self.head_channels else self.heads

    def attention(self, width: int) -> AttentionBlock:
        return AttentionBlock(width, self.heads_of(width), self.attention_order)


def time_mlp(config: TorsoConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.channels, config.emb_width), nn.SiLU(), nn.Linear(config.emb_width, config.emb_width))


def down_path(config: TorsoConfig) -> tuple[nn.ModuleList, list[int]]:
    """The blocks from the image to the smallest map, and the width of each block's output."""
    width = config.widths[0]
    blocks = [TimeSequential(nn.Conv2d(config.in_channels, width, 3, padding=1))]
    widths = [width]
    for level, level_width in enumerate(config.widths):
        for _ in range(config.res_blocks):
            layers: list[nn.Module] = [config.res_block(width, level_width)]
            width = level_width
            if config.attends(level):
                layers.append(config.attention(width))
            blocks.append(TimeSequential(*layers))
            widths.append(width)
        if level < len(config.widths) - 1:
            blocks.append(TimeSequential(
                config.res_block(width, width, "down") if config.resample == "resblock"
                else Downsample(width if config.resample == "conv" else None)))
            widths.append(width)
    return nn.ModuleList(blocks), widths


def store_torso_as(dtype: torch.dtype, network: nn.Module) -> None:
    """The weights of the blocks in half precision, for a network that runs under autocast, which would convert them anew
    at every step. Norms, the time embedding's first layers and the head stay float32, as in ADM's program."""
    for path in ("input_blocks", "middle_block", "output_blocks"):
        for module in getattr(network, path, nn.ModuleList()).modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                module.to(dtype)


def middle(config: TorsoConfig) -> TimeSequential:
    width = config.widths[-1]
    return TimeSequential(config.res_block(width, width), config.attention(width), config.res_block(width, width))
