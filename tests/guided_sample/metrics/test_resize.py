"""Resizing equals the reference's to the last bit."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.metrics.resize import in_colour, pillow_bicubic, tensorflow_bilinear
from tests.guided_sample.metrics import inputs

VECTORS = Path(__file__).parents[2] / "data" / "evaluator" / "eval_graph_vectors.npz"


@pytest.mark.parametrize("size", [8, 32, 64, 256, 512])
def test_tensorflows_bilinear_to_the_last_bit(size: int) -> None:
    resized = tensorflow_bilinear(torch.from_numpy(inputs.images(200 + size, 1, size)), 299)
    assert np.array_equal(((resized - 128) / 128)[0, ::23, ::23].numpy(), np.load(VECTORS)[f"resize_{size}_every23"])


def test_an_image_of_that_size_stays() -> None:
    image = torch.from_numpy(inputs.images(0, 1, 20))
    assert torch.equal(tensorflow_bilinear(image, 20), image.float())


def test_a_plane_stays_a_plane_up_to_the_last_pixel() -> None:
    """Bilinear interpolation of a + b y + c x is that itself: here at i * H / size, and what is beyond the last pixel is it."""
    y, x = np.mgrid[:6, :4]
    y_out, x_out = (np.minimum(np.arange(9) * length / 9, length - 1) for length in (6, 4))
    resized = tensorflow_bilinear(torch.from_numpy((7 + 11 * y + 5 * x).astype(np.uint8)[None, :, :, None]), 9)
    np.testing.assert_allclose(resized[0, :, :, 0], 7 + 11 * y_out[:, None] + 5 * x_out, rtol=1e-6)


def test_bicubic_is_pillows_image_by_image() -> None:
    images = inputs.images(0, 2, 30)
    for size in (12, 50):
        for image, found in zip(images, pillow_bicubic(images, size)):
            assert np.array_equal(found, Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def test_grey_is_repeated() -> None:
    grey = inputs.images(0, 2, 8)[..., :1]
    assert np.array_equal(in_colour(grey), np.concatenate([grey] * 3, axis=3))
    assert in_colour(inputs.images(0, 2, 8)).shape == (2, 8, 8, 3)
