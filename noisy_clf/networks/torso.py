"""The half that ADM's denoiser and its classifier share: time embedding, down-sampling path, middle block."""
from __future__ import annotations

import torch
from torch import nn

from noisy_clf.networks.config import TorsoConfig
from noisy_clf.networks.layers import AttentionBlock, Downsample, ResBlock, Resample, TimeSequential


def res_block(config: TorsoConfig, width_in: int, width_out: int, resample: Resample | None = None) -> ResBlock:
    return ResBlock(width_in, width_out, config.emb_width, config.dropout, config.scale_shift, resample)


def attention(config: TorsoConfig, width: int) -> AttentionBlock:
    return AttentionBlock(width, config.heads_of(width), config.attention_order)


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
            layers: list[nn.Module] = [res_block(config, width, level_width)]
            width = level_width
            if config.attends(level):
                layers.append(attention(config, width))
            blocks.append(TimeSequential(*layers))
            widths.append(width)
        if level < len(config.widths) - 1:
            blocks.append(TimeSequential(
                res_block(config, width, width, "down") if config.resample == "resblock"
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
    return TimeSequential(res_block(config, width, width), attention(config, width), res_block(config, width, width))
