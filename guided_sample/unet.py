"""UNet, ADM's denoiser. (ADM sec. 3; Improved DDPM for the learned range of variance)"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from guided_sample.unet_config import UNetConfig
from noisy_clf.networks.layers import GroupNorm32, TimeSequential, Upsample, normal, time_embedding, zeroed
from noisy_clf.networks.torso import attention, down_path, middle, res_block, time_mlp


class UNet(nn.Module):
    """(x_t [B,C,H,W], t [B], y [B] or None) -> [B, out_channels, H, W]."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = time_mlp(config)
        if config.num_classes is not None:
            self.label_emb = nn.Embedding.from_pretrained(normal(config.num_classes, config.emb_width), freeze=False)
        self.input_blocks, skip_widths = down_path(config)
        self.middle_block = middle(config)
        self.output_blocks = up_path(config, skip_widths)
        width = config.widths[0]
        self.out = nn.Sequential(
            GroupNorm32(width), nn.SiLU(), zeroed(nn.Conv2d(width, config.out_channels, 3, padding=1)))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is None) != (self.config.num_classes is None):
            raise ValueError("a class-conditional UNet needs y, an unconditional one takes none")
        emb = self.time_embed(time_embedding(t, self.config.channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        h, skips = x_t, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        with torch.autocast(h.device.type, enabled=False):  # the head in float32 whatever the blocks computed in
            return self.out(h.float())


def up_path(config: UNetConfig, skip_widths: list[int]) -> nn.ModuleList:
    """The blocks from the smallest map back to the image's size; each also reads the matching output on the way down."""
    skips, width = list(skip_widths), config.widths[-1]
    blocks = []
    for level, level_width in reversed(list(enumerate(config.widths))):
        for i in range(config.res_blocks + 1):
            layers: list[nn.Module] = [res_block(config, width + skips.pop(), level_width)]
            width = level_width
            if config.attends(level):
                layers.append(attention(config, width))
            if level and i == config.res_blocks:
                layers.append(res_block(config, width, width, "up") if config.resample == "resblock"
                              else Upsample(width if config.resample == "conv" else None))
            blocks.append(TimeSequential(*layers))
    return nn.ModuleList(blocks)
