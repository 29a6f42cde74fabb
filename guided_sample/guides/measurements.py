"""What of a picture the samples shall agree with: a known part, the blurred or the small picture, the colour.

Log-densities, minus the norm, unsquared, of y - A(x0_hat) (DPS). Pictures are [C,H,W], or one for each sample [B,C,H,W], in
[-1,1]; they are measured by A or, where that is `given`, are y.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from guided_sample.model import Look
from noisy_clf.errors import UserError


def measured(A: Callable[[Tensor], Tensor], picture: Tensor, given: bool = False) -> Callable[[Look], Tensor]:
    y = picture if given else A(picture)

    def log_density(look: Look) -> Tensor:
        seen = A(look.x0_hat)
        if y.shape[-3:] != seen.shape[1:] or y.shape[:-3] not in ((), seen.shape[:1]):
            raise UserError(f"what is measured of the picture is shaped {list(y.shape)}, of the samples {list(seen.shape)}; "
                            f"give a picture of their size and channels, one for all of them or for each.")
        return -(y.to(seen.device, non_blocking=True) - seen).flatten(1).norm(dim=1)
    return log_density


def inpaint(picture: Tensor, mask: Tensor) -> Callable[[Look], Tensor]:
    """The part where the mask, bool [H,W] or shaped as the picture, is true: known. The rest is to be painted."""
    if mask.shape[-2:] != picture.shape[-2:] or not mask.any():
        raise UserError(f"the mask {list(mask.shape)} marks nothing of the picture {list(picture.shape)} as known; give one of "
                        f"its size, true (white) where it is.")
    return measured(lambda images: images * mask.to(images, non_blocking=True), picture)


def blur(picture: Tensor, sigma: float, given: bool = False) -> Callable[[Look], Tensor]:
    """The picture through a Gaussian of sigma pixels."""
    if not sigma > 0:
        raise UserError(f"a sigma of {sigma:g} blurs nothing; give one above 0, in pixels.")

    def blurred(images: Tensor) -> Tensor:
        down, across = (gaussian(length, sigma).to(images, non_blocking=True) for length in images.shape[-2:])
        return down @ images @ across.mT
    return measured(blurred, picture, given)


def gaussian(length: int, sigma: float) -> Tensor:
    """Each pixel's weights of all in its line, float64 [length,length], which add up to 1 at the border too."""
    place = torch.arange(length, dtype=torch.float64)
    return (-((place[:, None] - place) / sigma).square() / 2).softmax(dim=1)


def downsample(picture: Tensor, factor: int, given: bool = False) -> Callable[[Look], Tensor]:
    """The means of its blocks of factor x factor pixels."""
    def block_means(images: Tensor) -> Tensor:
        if factor < 1 or any(length % factor for length in images.shape[-2:]):
            raise UserError(f"{images.shape[-2]} x {images.shape[-1]} pixels cannot be made {factor} times fewer a side; give "
                            f"a factor that divides both.")
        return F.avg_pool2d(images, factor)
    return measured(block_means, picture, given)


def colour(rgb: Tensor) -> Callable[[Look], Tensor]:
    """The mean colour of all pixels, [C] in [-1,1]."""
    return measured(lambda images: images.mean(dim=(-2, -1), keepdim=True), rgb.view(-1, 1, 1), given=True)
