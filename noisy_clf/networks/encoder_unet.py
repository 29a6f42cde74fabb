"""EncoderUNet, ADM's time-conditioned classifier: the U-Net's first half and a pooling head. (ADM sec. 4)"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisy_clf.networks.config import EncoderUNetConfig
from noisy_clf.networks.features import Features
from noisy_clf.networks.layers import AttentionPool, GroupNorm32, time_embedding, zeroed
from noisy_clf.networks.torso import down_path, middle, time_mlp


class EncoderUNet(nn.Module):
    """(x_t [B,C,H,W], t [B]) -> logits [B,K]."""

    def __init__(self, config: EncoderUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = time_mlp(config)
        self.input_blocks, widths = down_path(config)
        self.middle_block = middle(config)
        self.out = pooling_head(config, block_widths=[*widths, config.widths[-1]])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.pooled(self.outputs(x_t, t))
        with torch.autocast(h.device.type, enabled=False):  # the head in float32 whatever the blocks computed in
            return self.out(h.float())

    def features(self, x_t: Tensor, t: Tensor) -> Features:
        """The last map of each level, and what the last layer tells the classes by."""
        outputs = self.outputs(x_t, t)
        levels, depth = len(self.config.widths), self.config.res_blocks + 1
        maps = [outputs[level * depth - 1].float() for level in range(1, levels)] + [outputs[-1].float()]
        h = self.pooled(outputs)
        with torch.autocast(h.device.type, enabled=False):
            if self.config.pool == "attention":
                pool: Any = self.out[-1]
                return Features(maps, pool.answer(self.out[:-1](h.float())))
            last = 2 if self.config.pool == "adaptive" else 1  # after it, adaptive only flattens
            return Features(maps, self.out[:-last](h.float()).flatten(1))

    def outputs(self, x_t: Tensor, t: Tensor) -> list[Tensor]:
        """Of all blocks."""
        emb = self.time_embed(time_embedding(t, self.config.channels))
        h, outputs = x_t, []
        for block in [*self.input_blocks, self.middle_block]:
            h = block(h, emb)
            outputs.append(h)
        return outputs

    def pooled(self, outputs: list[Tensor]) -> Tensor:
        """What the head is shown."""
        if self.config.pool.startswith("spatial"):
            return torch.cat([output.float().mean(dim=(2, 3)) for output in outputs], dim=1)
        return outputs[-1]


def pooling_head(config: EncoderUNetConfig, block_widths: list[int]) -> nn.Sequential:
    width, K = config.widths[-1], config.num_classes
    if config.pool == "attention":
        smallest = config.image_size // 2 ** (len(config.widths) - 1)
        return nn.Sequential(
            GroupNorm32(width), nn.SiLU(), AttentionPool(smallest, width, config.heads_of(width), K))
    if config.pool == "adaptive":
        return nn.Sequential(
            GroupNorm32(width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), zeroed(nn.Conv2d(width, K, 1)), nn.Flatten())
    if config.pool == "spatial":
        return nn.Sequential(nn.Linear(sum(block_widths), 2048), nn.ReLU(), nn.Linear(2048, K))
    return nn.Sequential(nn.Linear(sum(block_widths), 2048), GroupNorm32(2048), nn.SiLU(), nn.Linear(2048, K))
