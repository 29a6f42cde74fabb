"""Pictures in files of many kinds and sizes, decoded and cut to size each time they are read."""
from __future__ import annotations

import errno
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from noisy_clf.datasets.images import Generators, as_array
from noisy_clf.datasets.preprocessing import centre_crop, random_crop
from noisy_clf.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # and no other: for some, Pillow starts other programs
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
            ".avif", ".heic", ".heif", ".jp2")  # the last four are refused by name rather than not seen
MOST_BYTES = 1 << 30
MOST_PIXELS = 89_478_485  # from here on Pillow suspects a decompression bomb
MOST_STRETCHED = 50  # longer side over shorter side
DEEP = {"I": 65535, "F": 1}  # white, in pixels of more than 8 bits: 16-bit integers (modes I;16, I), floating point
PAUSES = (1.0, 4.0)  # seconds before an image is tried a second and a third time
PATIENCE = 20  # images in a row that cannot be read


class Refused(Exception):
    """A file that is no picture to use; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class ImageFiles:
    """The pictures in these files, as `Images` has them.

    paths     of N files
    size      pixels a side
    channels  3: RGB, or 1: grey
    """

    paths: Sequence[str]
    size: int
    channels: int = 3
    unreadable: set[int] = field(default_factory=set, init=False, repr=False, compare=False)  # those told of so far
    enlarged: set[int] = field(default_factory=set, init=False, repr=False, compare=False)  # the first one, which is told of

    def __post_init__(self) -> None:
        silence_pillow()

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: np.ndarray, crops: Generators | None) -> tuple[np.ndarray, np.ndarray]:
        images, read = np.empty((len(indices), *self.shape), np.uint8), np.empty(len(indices), np.int64)
        for i, index in enumerate(indices.tolist()):
            picture, read[i] = self.picture(index)
            if min(picture.size) < self.size and not self.enlarged:
                self.enlarged.add(index)
                tqdm.write(f"{printable(self.paths[index])} has {picture.width} x {picture.height} pixels; it is enlarged to "
                           f"{self.size}, and so are all others that are smaller", file=sys.stderr)
            if self.channels == 1:
                picture = picture.convert("L")
            images[i] = as_array(random_crop(picture, self.size, crops[i]) if crops is not None else
                                 centre_crop(picture, self.size))
        return images, read

    def picture(self, index: int) -> tuple[Image.Image, int]:
        """(the picture in RGB, its index): that of the index or, where it cannot be used, the next that can.

        UserError if none can, or if so many in a row cannot be read that the disk must be the reason.
        """
        failures = 0
        for i in chain(range(index, len(self)), range(index)):
            try:
                return self.patiently(i), i
            except (Refused, OSError) as error:
                told = f"{printable(self.paths[i])}: {why(error)}"
                if i not in self.unreadable:
                    self.unreadable.add(i)
                    tqdm.write(f"{told}; other images stand in for it", file=sys.stderr)
                failures = failures + 1 if isinstance(error, OSError) else 0
                if failures == PATIENCE:
                    break
        raise UserError(f"{failures or len(self)} images in a row cannot be read, the last {told}; see that the disk is there, "
                        f"and run the same command again.")

    def patiently(self, index: int) -> Image.Image:
        """The picture; a file that cannot be read is tried three times: a network's file system may have but hiccuped."""
        for pause in () if index in self.unreadable else PAUSES:
            try:
                return decoded(self.paths[index])
            except OSError:
                time.sleep(pause)
        return decoded(self.paths[index])


def why_unusable(paths: Iterable[str]) -> str | None:
    """Why none of the files can be used, as is told of the last; None as soon as one can."""
    reason = "there is none"
    for path in paths:
        try:
            decoded(path)
            return None
        except (Refused, OSError) as error:
            reason = f"{printable(path)}: {why(error)}"
    return reason


def decoded(path: str) -> Image.Image:
    """The picture in a file, in RGB; of several the first, and as it lies in the file, whatever its EXIF orientation.

    Refused if the file is none, or one that is too large to be meant; OSError if it cannot be read.
    """
    content = contents(path)
    try:
        picture = Image.open(BytesIO(content), formats=FORMATS)
        refuse_extremes(*picture.size)
        picture.load()
        return in_rgb(picture)
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise Refused(f"it is not a whole picture in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels") from error
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "not enough memory to decode it") from error
    except Exception as error:  # whatever Pillow's many decoders do with damaged files
        raise Refused(f"it is damaged ({' '.join(str(error).split())[:100] or type(error).__name__})") from error


def contents(path: str) -> bytes:
    """All of a plain file. A pipe, which would be waited for, and all else that is none is refused."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Refused("it is not a plain file")
            if not 0 < about.st_size <= MOST_BYTES:
                raise Refused("it is empty" if about.st_size == 0 else f"it has {about.st_size / 1e9:.1f} GB")
            return file.read()
    except IsADirectoryError as error:
        raise Refused("it is a folder") from error


def refuse_extremes(width: int, height: int) -> None:
    """Small files may tell of pictures that take all memory, before or after they are resized."""
    if width * height > MOST_PIXELS:
        raise Refused(f"it has {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        raise Refused(f"it has {width} x {height} pixels, one side more than {MOST_STRETCHED} times the other")


def in_rgb(picture: Image.Image) -> Image.Image:
    """Pillow's own conversion, which drops transparency (as ADM's program does), but deep pixels scaled, not clipped."""
    white = DEEP.get(picture.mode.partition(";")[0])
    if white:
        pixels = np.asarray(picture)
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= white):  # not a number is neither
            raise Refused(f"its pixels go from {low:g} to {high:g}, not from 0 to {white}: save it with 8 bits")
        picture = Image.fromarray(np.multiply(pixels, 255 / white, dtype=np.float32).round().astype(np.uint8))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def silence_pillow() -> None:
    """No warnings of Pillow's about pictures that it decodes all the same (odd EXIF, transparency that is dropped, ...).

    For the whole process: filters of warnings within a block are not safe among threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def why(error: Exception) -> str:
    """Why a file cannot be used, in a few words."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def printable(path: str) -> str:
    """A path as it can be shown in one line, whatever bytes its name is of."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)
