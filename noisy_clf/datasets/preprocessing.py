"""From a picture of any size to a square one, as ADM's program does it: halved by boxes, then bicubic, then cropped."""
from __future__ import annotations

import math

import numpy as np
from PIL import Image

LEAST_KEPT = 0.8  # of the shorter side, by a random crop


def centre_crop(picture: Image.Image, size: int) -> Image.Image:
    """The middle of the picture, its shorter side `size` pixels. (ADM's program, center_crop_arr)"""
    picture = shorter_side(picture, size)
    return cropped(picture, (picture.width - size) // 2, (picture.height - size) // 2, size)


def random_crop(picture: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """A square from anywhere in the picture that keeps 80 to 100 % of its shorter side. (ADM's program, random_crop_arr)"""
    picture = shorter_side(picture, int(generator.integers(size, math.ceil(size / LEAST_KEPT) + 1)))
    y = int(generator.integers(picture.height - size + 1))
    x = int(generator.integers(picture.width - size + 1))
    return cropped(picture, x, y, size)


def shorter_side(picture: Image.Image, size: int) -> Image.Image:
    """The picture with its shorter side `size` pixels: boxes of 2x2 averaged while it is twice too large, then bicubic."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, x: int, y: int, size: int) -> Image.Image:
    return picture.crop((x, y, x + size, y + size))
