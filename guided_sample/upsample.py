"""The second stage: an upsampler draws a large image given a small one. (ADM sec. 5.3; its program's SuperResModel)"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided_sample.denoiser import Denoiser
from noisy_clf.errors import UserError


class Enlarging(nn.Module):
    """An upsampler's network with the small images [B,C,h,w] that it enlarges: (x_t [B,C,H,W], t, y) as any denoiser's."""

    def __init__(self, network: nn.Module, small: Tensor) -> None:
        super().__init__()
        self.network, self.small = network, small

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        enlarged = F.interpolate(self.small, x_t.shape[2:], mode="bilinear")
        return self.network(torch.cat([x_t, enlarged], dim=1), t, y)


def enlarging(upsampler: Denoiser, small: Tensor) -> Denoiser:
    """The upsampler as a denoiser of the large versions of `small` [B,C,h,w] in [-1,1]."""
    return replace(upsampler, network=Enlarging(upsampler.network, small), small_size=None)


def refuse_misfit(upsampler: Denoiser, denoiser: Denoiser, class_names: tuple[str, ...] | None) -> None:
    """UserError where the upsampler cannot enlarge the denoiser's samples of these classes."""
    if upsampler.small_size is None:
        raise UserError("the model given as --upsample is no upsampler; try imagenet64-256 or imagenet128-512.")
    if (upsampler.small_size, upsampler.channels) != (denoiser.image_size, denoiser.channels):
        raise UserError(f"the upsampler enlarges images of {upsampler.small_size} pixels and {upsampler.channels} channels, "
                        f"and the model's have {denoiser.image_size} and {denoiser.channels}.")
    if upsampler.class_names and (class_names is None or len(class_names) != len(upsampler.class_names)):
        raise UserError(f"the upsampler is conditional on {len(upsampler.class_names)} classes, and the samples have "
                        f"{f'{len(class_names)} others' if class_names else 'none'}; leave out --upsample.")
