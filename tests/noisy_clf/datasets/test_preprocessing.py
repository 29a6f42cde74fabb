"""The crops against those that openai/guided-diffusion's image_datasets.py computes of the same pictures, to the byte."""
from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noisy_clf.datasets.preprocessing import centre_crop, random_crop

# width, height, mode, size, SHA-256 (16 digits of it) of their center_crop_arr; the draws of their random_crop_arr (shorter
# side, y, x) and its SHA-256
THEIRS = [
    (500, 375, "RGB", 64, "f2ea2733e3e99029", (72, 4, 25), "d360df6474e58899"),
    (375, 500, "RGB", 64, "ef9574bf08e96ea9", (80, 1, 2), "3f1ed81bda21a913"),
    (500, 333, "RGB", 256, "f1f120eb2c776eaf", (309, 51, 52), "210c0141a423905d"),
    (64, 64, "RGB", 64, "799f0199ec129adf", (69, 5, 2), "01874985aae97d39"),
    (63, 65, "RGB", 32, "13f0b313c6067554", (34, 3, 0), "c1e89a9b1269dcd6"),
    (127, 128, "L", 64, "a96ba0bd0a870b3b", (70, 5, 3), "5f65a89c14b427af"),
    (1023, 517, "RGB", 128, "2c09dc7e302c336d", (130, 0, 112), "f88a0914414a2321"),
    (1, 1, "RGB", 8, "34875961eb0ef2b6", (10, 2, 1), "34875961eb0ef2b6"),
    (1, 50, "L", 8, "69f1a78ca5ebac2d", (10, 162, 1), "db5ddc5a47c77628"),
    (150, 3, "RGB", 16, "4ae4543a1d61a809", (19, 0, 283), "21f7830a83c0fbe1"),
    (20, 30, "RGB", 64, "4a34843721461e3b", (66, 16, 2), "0306bd5e75df1096"),
    (28, 28, "L", 28, "91eac46678f42907", (29, 0, 0), "2117b2e468fac963"),
]


def drawn_picture(width: int, height: int, mode: str) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = (np.stack([x * x + 31 * y, 7 * x + y * y, x * y + 100], axis=-1) % 256).astype(np.uint8)
    return Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])


class Draws:
    """A generator that gives what it is told to, and remembers what it was asked for."""

    def __init__(self, *draws: int) -> None:
        self.draws, self.asked = list(draws), list[range]()

    def integers(self, low: int, high: int | None = None) -> int:
        self.asked.append(range(low) if high is None else range(low, high))
        return self.draws.pop(0)


def digest(picture: Image.Image) -> str:
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("width, height, mode, size, centre, draws, random", THEIRS)
def test_crops_are_theirs_to_the_byte(width: int, height: int, mode: str, size: int, centre: str, draws: tuple[int, ...],
                                      random: str) -> None:
    picture = drawn_picture(width, height, mode)
    assert digest(centre_crop(picture, size)) == centre
    generator: Any = Draws(*draws)
    assert digest(random_crop(picture, size, generator)) == random
    shorter = draws[0]
    assert generator.asked[0] == range(size, -(-size * 10 // 8) + 1)
    assert min(map(len, generator.asked[1:])) == shorter - size + 1  # every place in the picture


def test_small_crops_in_numbers() -> None:
    assert np.asarray(centre_crop(drawn_picture(9, 6, "L"), 2)).tolist() == [[37, 55], [123, 141]]
    assert np.asarray(centre_crop(drawn_picture(5, 3, "L"), 3)).tolist() == [[1, 4, 9], [32, 35, 40], [63, 66, 71]]
    generator: Any = Draws(4, 1, 2)
    crop = random_crop(drawn_picture(11, 9, "L"), 3, generator)
    assert np.asarray(crop).tolist() == [[119, 150, 184], [197, 228, 134], [131, 34, 68]]


@pytest.mark.parametrize("size", [1, 7, 16])
def test_crops_have_the_size_whatever_the_pictures(size: int) -> None:
    generator = np.random.default_rng(0)
    for width, height in product(range(1, 40, 3), range(1, 40, 5)):
        picture = drawn_picture(width, height, "RGB")
        assert centre_crop(picture, size).size == random_crop(picture, size, generator).size == (size, size)


def test_a_random_crop_depends_on_its_generator_alone() -> None:
    picture = drawn_picture(100, 80, "RGB")
    crops = [digest(random_crop(picture, 32, np.random.default_rng(seed))) for seed in (0, 1, 0)]
    assert crops[0] == crops[2] != crops[1]


def test_a_centre_crop_of_a_picture_of_that_size_is_the_picture() -> None:
    picture = drawn_picture(31, 31, "RGB")
    assert digest(centre_crop(picture, 31)) == digest(picture)
