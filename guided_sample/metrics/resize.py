"""Images as feature networks want them: in colour, and resized as the network's own program does."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def in_colour(images: np.ndarray) -> np.ndarray:
    """uint8 [B,H,W,C], C 1 or 3 -> [B,H,W,3]; grey is repeated."""
    return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)


def tensorflow_bilinear(images: Tensor, size: int) -> Tensor:
    """uint8 [B,H,W,C] -> float32 [B,size,size,C], equal to the last bit to TensorFlow 1's resize_bilinear, which aligns no
    corners and puts pixels at whole numbers: out[i] lies at i * H / size, and nothing is antialiased."""
    left, right, across = neighbours(images.shape[2], size, images.device)
    rows = between(images[:, :, left].float(), images[:, :, right].float(), across[:, None])
    above, below, down = neighbours(images.shape[1], size, images.device)
    return between(rows[:, above], rows[:, below], down[:, None, None])


def neighbours(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `size` pixels, the two of `length` that it lies between, int64, and how far it is from the first, 0..1."""
    place = torch.arange(size, dtype=torch.float32, device=device) * (torch.tensor(float(length)) / size).item()
    first = place.long()
    return first, (first + 1).clamp(max=length - 1), place - first


def between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """first + (second - first) * share, in the second's place; not torch.lerp, which rounds otherwise."""
    return second.sub_(first).mul_(share).add_(first)


def pillow_bicubic(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [B,H,W,3] -> [B,size,size,3]: antialiased and rounded to grey levels, as Pillow does it."""
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images])
