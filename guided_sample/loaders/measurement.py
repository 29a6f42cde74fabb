"""From files and words to measurements."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from guided_sample.guides import NEEDED, refuse_needy
from guided_sample.guides.measurements import blur, colour, downsample, inpaint
from guided_sample.model import Look
from guided_sample.pictures import picture_file
from noisy_clf.datasets.image_files import Refused, decoded, printable, why
from noisy_clf.datasets.images import as_array, to_x_0
from noisy_clf.datasets.preprocessing import centre_crop
from noisy_clf.errors import UserError


def load_measurement(kind: str, source: str, settings: Mapping[str, Any], shape: tuple[int, int, int],
                     device: torch.device | str = "cpu") -> Callable[[Look], Tensor]:
    """Of samples of that shape, C, H, W, the log-density to be inpaint, blur or downsample of a picture in a file or, without
    one, colour: "#ff8800", or C numbers from -1 to 1, "0.2:0.1:-1". UserError where it cannot be.

    Pictures are cut to size as training's are, and are the whole, clean ones; but what has H / factor pixels a side already is
    what downsample shall find. Of inpaint's mask, a file too, what is white is known.
    """
    C, size, _ = shape
    if kind == "colour":
        return colour(colour_from(source, C).to(device))
    refuse_needy(kind, source, settings)
    value, picture = settings[NEEDED[kind]], picture_in(source)
    if kind == "inpaint":
        mask = picture_in(value)
        if mask.size != picture.size:
            raise UserError(f"the mask {printable(value)} has {mask.width} x {mask.height} pixels and the picture "
                            f"{printable(source)} {picture.width} x {picture.height}; give a mask of the picture's size.")
        known = x_0_from(centre_crop(mask, size), 1) > 0
        return inpaint(x_0_from(centre_crop(picture, size), C).to(device), known.to(device))
    if kind == "blur":
        return blur(x_0_from(centre_crop(picture, size), C).to(device), value, settings.get("given", False))
    small = value > 0 and picture.size == (size / value, size / value)
    return downsample(x_0_from(picture if small else centre_crop(picture, size), C).to(device), value, given=small)


def picture_in(path: str) -> Image.Image:
    """In RGB."""
    try:
        return decoded(str(picture_file(path)))
    except (Refused, OSError) as error:
        raise UserError(f"{printable(path)} cannot be read as a picture ({why(error)}); give another, or save it again as "
                        f"PNG.") from error


def x_0_from(picture: Image.Image, C: int) -> Tensor:
    """float32 [C,H,W] of a picture in RGB."""
    return to_x_0(torch.tensor(as_array(picture.convert("L") if C == 1 else picture)))


def colour_from(text: str, C: int) -> Tensor:
    try:
        found = [int(pair, 16) / 127.5 - 1 for pair in re.findall("..", text[1:])] if re.fullmatch("#[0-9a-fA-F]{6}", text) \
            else [float(number) for number in text.split(":")]
    except ValueError:
        found = []
    if C == 1 and len(set(found)) == 1:
        found = found[:1]  # a grey
    if len(found) != C or not all(-1 <= number <= 1 for number in found):
        raise UserError(f"the colour {text!r} is none of samples of {C} channel{'s' * (C > 1)}; write "
                        f"{'#ff8800, or ' if C == 3 else ''}a number from -1 to 1 for each, as in {':'.join(['0.2'] * C)}.")
    return torch.tensor(found)
