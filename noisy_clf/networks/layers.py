"""ADM's building blocks. Attribute names are fixed by the tensor names of released files.

Feature maps [B,C,H,W]; time embedding `emb` [B,E].
"""
from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.networks.config import AttentionOrder

Resample = Literal["up", "down"]


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[B] timesteps, whole or fractional -> [B, width] of cosines, then sines. (Transformer sec. 3.5; ADM's program)"""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def zeroed(module: nn.Module) -> nn.Module:
    """The module with every parameter 0: a residual branch that starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def normal(*shape: int, over: float = 1.0) -> Tensor:
    """Standard normal draws, divided; on the meta device none, for which torch would load its compiler."""
    empty = torch.empty(shape)
    return empty if empty.is_meta else empty.normal_().div_(over)


class GroupNorm32(nn.GroupNorm):
    """GroupNorm of 32 groups, computed in float32 whatever it is fed."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and (x.is_contiguous() or not torch.is_grad_enabled()):
            return super().forward(x)  # in float32 inside; channels-last its gradient is slow in half precision
        return super().forward(x.float()).to(x.dtype)


class Upsample(nn.Module):
    """Nearest neighbour, twice as large, then (with channels given) a convolution."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if channels else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.conv else x


class Downsample(nn.Module):
    """Half as large: the mean of 2x2 pixels, or (with channels given) a strided convolution."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if channels else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Dropout(nn.Dropout):
    """Dropout that, where there are `generators`, one a sample, draws each sample's mask from its own."""

    generators: list[torch.Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.generators is None:
            return super().forward(x)
        return x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        # torch.compile leaves this out by itself, for the generators; marked so, the module would load all of the compiler
        assert self.generators is not None and len(self.generators) == len(x)
        kept = torch.empty_like(x)
        for row, generator in zip(kept, self.generators):
            row.bernoulli_(1 - self.p, generator=generator)
        return kept / (1 - self.p)


class ResBlock(nn.Module):
    """Two convolutions around the time embedding, with a skip connection; it may resample on the way. (ADM sec. 3)"""

    def __init__(self, channels: int, out_channels: int, emb_width: int, dropout: float, scale_shift: bool,
                 resample: Resample | None = None) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = {"up": Upsample, "down": Downsample, None: nn.Identity}[resample]()
        self.in_layers = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_width, 2 * out_channels if scale_shift else out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels), nn.SiLU(), Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.skip_connection = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm_in, activation, conv_in = self.in_layers  # resampled before the convolution, as the skip connection is
        h = conv_in(self.resample(activation(norm_in(x))))
        time = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm_out, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = norm_out(h) * (1 + scale) + shift
        else:
            h = norm_out(h + time)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


def split_heads(qkv: Tensor, heads: int, order: AttentionOrder) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, 3 C] -> q, k, v, each [B, heads, L, C / heads].

    `legacy` files hold (head, q|k|v, channel) in that order, `new` ones (q|k|v, head, channel).
    """
    B, L, _ = qkv.shape
    if order == "legacy":
        q, k, v = qkv.view(B, L, heads, 3, -1).permute(3, 0, 2, 1, 4)
    else:
        q, k, v = qkv.view(B, L, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


IN_CACHE = 2 ** 22  # attention weights
fused_attention = F.scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [B, heads, L, d]. (Transformer eq. 1)

    On a CPU in half precision torch's fused kernel takes twice as long as the three products, of as many heads at a time as the
    weights of fit into the cache.
    """
    heads_at_once = IN_CACHE // (q.shape[2] * k.shape[2])
    if q.device.type != "cpu" or q.dtype == torch.float32 or heads_at_once == 0 or torch.compiler.is_compiling():
        return fused_attention(q, k, v)
    parts = zip(*(tensor.flatten(0, 1).split(heads_at_once) for tensor in (q * q.shape[3] ** -0.5, k, v)))
    answers = [(q @ k.transpose(1, 2)).softmax(dim=2, dtype=q.dtype) @ v for q, k, v in parts]
    return torch.cat(answers).unflatten(0, q.shape[:2])


class AttentionBlock(nn.Module):
    """Self-attention among all pixels, with a skip connection."""

    def __init__(self, channels: int, heads: int, order: AttentionOrder) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).contiguous()  # [B,H,W,C]
        pixels = pixels.flatten(1, 2) if x.is_contiguous() else pixels
        qkv = pointwise(self.qkv, pixels).reshape(B, H * W, 3 * C)
        q, k, v = split_heads(qkv, self.heads, self.order)
        h = attend(q, k, v).transpose(1, 2).reshape(pixels.shape)
        h = pointwise(self.proj_out, h).reshape(B, H, W, C).permute(0, 3, 1, 2)
        return x + (h.contiguous() if x.is_contiguous() else h)


class AttentionPool(nn.Module):
    """[B,C,H,W] -> [B,K]: the mean pixel asks all pixels and itself, once. (ADM sec. 4; the pooling of CLIP's ResNet)"""

    def __init__(self, size: int, channels: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(normal(channels, size ** 2 + 1, over=channels ** 0.5))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(self.c_proj, self.answer(x))

    def answer(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C]."""
        pixels = x.flatten(2)
        pixels = torch.cat([pixels.mean(2, keepdim=True), pixels], dim=2) + self.positional_embedding.to(x.dtype)
        q, k, v = split_heads(pointwise(self.qkv_proj, pixels.transpose(1, 2)), self.heads, "new")
        return fused_attention(q[:, :, :1], k, v).flatten(1)  # the mean's query is the only one read


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 Conv1d (the shape that released files fix) as a linear map of the last axis; of a map's pixels [B,H,W,C] in float32
    on a CPU as a convolution, which takes half the time of that product."""
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    if x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32:
        return F.conv2d(x.permute(0, 3, 1, 2), weight[..., None], bias).permute(0, 2, 3, 1)
    return F.linear(x, weight[:, :, 0], bias)


class TimeSequential(nn.Sequential):
    """A sequence whose ResBlocks also receive the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x
