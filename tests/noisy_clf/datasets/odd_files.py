"""About a hundred files such as lie in real folders of images, and what must become of each."""
from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOUR, GREY = (200, 100, 50), 124  # GREY is COLOUR's luminance
WHITE, HALF, THIRD = (255,) * 3, (128,) * 3, (85,) * 3
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Odd:
    """A file and what must become of it: its colour where it is read, words of the reason where it is refused, None where
    it is not looked at."""

    name: str
    content: bytes | Write
    outcome: tuple[int, ...] | str | None

    def write(self, folder: Path) -> None:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)


def encoded(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, COLOUR).convert(mode)


def of(value: float, kind: Any, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.full(size[::-1], value, kind))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def png(width: int, height: int, depth: int, colour_type: int, scanlines: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand: what Pillow can read but not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def seen_through() -> Image.Image:
    """Wholly transparent, over COLOUR."""
    picture = plain("RGBA")
    picture.putalpha(0)
    return picture


def palette(transparency: int | bytes) -> bytes:
    picture = Image.new("P", (40, 30), 1)
    picture.putpalette([0, 0, 0, *COLOUR])
    return encoded(picture, "PNG", transparency=transparency)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def more_pictures() -> dict[str, Any]:
    return {"save_all": True, "append_images": [Image.new("RGB", (40, 30), name) for name in ("blue", "green")]}


def link_to(target: str) -> Write:
    return lambda path: path.symlink_to(target)


def listen(path: Path) -> None:
    """A socket, by a short name: theirs may not be long."""
    before = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(path.name)
    os.chdir(before)


JPEG, PNG, GIF, BMP = (encoded(plain(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP"))
WEBP, TIFF, PPM = (encoded(plain(), kind) for kind in ("WEBP", "TIFF", "PPM"))
NOISY = {suffix: encoded(noise(), kind) for suffix, kind in (
    ("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("bmp", "BMP"), ("webp", "WEBP"), ("tif", "TIFF"), ("ppm", "PPM"))}
DEEP_RGB = png(40, 30, 16, 2, (b"\0" + struct.pack(">HHH", *(257 * c for c in COLOUR)) * 40) * 30)
DEEP_GREY = encoded(of(30000, np.uint16), "PNG")
DEEP = (117,) * 3  # 30000 / 65535 * 255

READ = [
    *(Odd(f"plain.{suffix}", content, COLOUR) for suffix, content in [
        ("jpg", JPEG), ("JPEG", JPEG), ("JpG", JPEG), ("jpe", JPEG), ("jfif", JPEG), ("png", PNG), ("PNG", PNG), ("gif", GIF),
        ("bmp", BMP), ("webp", WEBP), ("tif", TIFF), ("TIFF", TIFF), ("ppm", PPM), ("pnm", PPM)]),
    *(Odd(f"grey.{suffix}", encoded(plain("L"), kind), (GREY,) * 3) for suffix, kind in [
        ("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("bmp", "BMP"), ("webp", "WEBP"), ("tif", "TIFF"), ("pgm", "PPM")]),
    *(Odd(name, content, COLOUR) for name, content in [  # by a wrong name
        ("a-png.jpg", PNG), ("a-jpeg.png", JPEG), ("a-gif.jpeg", GIF), ("a-webp.png", WEBP), ("a-bmp.jpg", BMP),
        ("a-tiff.png", TIFF)]),
    Odd("progressive.jpg", encoded(plain(), "JPEG", progressive=True), COLOUR),
    Odd("quality.jpg", encoded(plain(), "JPEG", quality=100, subsampling=0), COLOUR),
    Odd("cmyk.jpg", encoded(plain("CMYK"), "JPEG"), COLOUR),
    Odd("turned.jpg", encoded(plain(), "JPEG", exif=turned()), COLOUR),
    Odd("exif-of-rubbish.jpg", encoded(plain(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), COLOUR),
    Odd("more-after-its-end.jpg", JPEG + b"\0" * 100, COLOUR),
    Odd("with-a-profile.jpg", encoded(plain(), "JPEG", icc_profile=b"no profile"), COLOUR),
    Odd("two-pictures.jpg", encoded(plain(), "MPO", **more_pictures()), COLOUR),
    Odd("palette.png", encoded(plain().quantize(2), "PNG"), COLOUR),
    Odd("palette-one-transparent.png", palette(1), COLOUR),
    Odd("palette-of-transparencies.png", palette(b"\x80\x10"), COLOUR),
    Odd("one-bit.png", encoded(Image.new("1", (40, 30), 1), "PNG"), WHITE),
    Odd("one-bit.pbm", encoded(Image.new("1", (40, 30), 1), "PPM"), WHITE),
    Odd("one-bit.tif", encoded(Image.new("1", (40, 30), 1), "TIFF", compression="group4"), WHITE),
    Odd("grey-transparent.png", encoded(seen_through().convert("LA"), "PNG"), (GREY,) * 3),
    Odd("transparent.png", encoded(seen_through(), "PNG"), COLOUR),
    Odd("transparent.webp", encoded(seen_through(), "WEBP", lossless=True, exact=True), COLOUR),
    Odd("transparent-colour.png", encoded(plain(), "PNG", transparency=COLOUR), COLOUR),
    Odd("transparent.gif", encoded(plain().quantize(2), "GIF", transparency=0), COLOUR),
    Odd("deep.png", DEEP_RGB, COLOUR),
    Odd("deep-grey.png", DEEP_GREY, DEEP),
    Odd("deep-grey-white.png", encoded(of(65535, np.uint16), "PNG"), WHITE),
    Odd("deep-grey-dark.png", encoded(of(300, np.uint16), "PNG"), (1,) * 3),  # plain conversion clips it to white
    Odd("deep-grey.tif", encoded(of(30000, np.uint16), "TIFF"), DEEP),
    Odd("deep-grey-big-endian.tif", encoded(of(30000, ">u2"), "TIFF"), DEEP),
    Odd("deep-grey.pgm", encoded(of(30000, np.int32), "PPM"), DEEP),
    Odd("integers.tif", encoded(of(30000, np.int32), "TIFF"), DEEP),
    Odd("floats.tif", encoded(of(1 / 3, np.float32), "TIFF"), THIRD),
    *(Odd(f"{how}.tif", encoded(plain(), "TIFF", compression=how), COLOUR) for how in ("tiff_lzw", "tiff_deflate", "packbits")),
    Odd("cmyk.tif", encoded(plain("CMYK"), "TIFF"), COLOUR),
    Odd("lab.tif", encoded(plain("LAB"), "TIFF"), COLOUR),
    Odd("ycbcr.tif", encoded(plain("YCbCr"), "TIFF"), COLOUR),
    Odd("pages.tif", encoded(plain(), "TIFF", **more_pictures()), COLOUR),
    Odd("animated.gif", encoded(plain(), "GIF", **more_pictures()), COLOUR),
    Odd("animated.webp", encoded(plain(), "WEBP", **more_pictures()), COLOUR),
    Odd("animated.png", encoded(plain(), "PNG", **more_pictures()), COLOUR),
    *(Odd(f"{size[0]}x{size[1]}.png", encoded(plain(size=size), "PNG"), COLOUR) for size in [
        (1, 1), (1, 50), (50, 1), (2, 3), (2000, 40), (999, 1001)]),
    Odd("Übergröße 漢字 🙂.png", PNG, COLOUR),
    Odd("n" * 251 + ".png", PNG, COLOUR),
    Odd("new\nline\x1b[31m.png", PNG, COLOUR),
    Odd("it's \"q\", %20 #;$(x).png", PNG, COLOUR),
    Odd("-rf.png", PNG, COLOUR),
    Odd("dots.txt.tar.png", PNG, COLOUR),
    Odd(os.fsdecode(b"latin-\xfc\xff.png"), PNG, COLOUR),
    Odd("folder.jpg/deep/er/in.png", PNG, COLOUR),
    Odd("link.png", link_to("plain.png"), COLOUR),
]
NO_PICTURE, DAMAGED = "not a whole picture in JPEG, PNG, GIF, BMP, WEBP, TIFF or PPM format", "damaged|not a whole picture"
REFUSED = [
    *(Odd(f"empty.{suffix}", b"", "it is empty") for suffix in NOISY),
    *(Odd(f"text.{suffix}", content, NO_PICTURE) for suffix, content in [
        ("jpg", b"404: Not Found\n"), ("png", b"<!DOCTYPE html><html><body>Please log in</body></html>"),
        ("webp", "Schrift".encode("utf-16")), ("gif", b"{}"), ("jpeg", b"version https://git-lfs.github.com/spec/v1\n")]),
    *(Odd(f"other.{suffix}", content, NO_PICTURE) for suffix, content in [
        ("png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("bmp", b"%PDF-1.7\n"), ("tif", b"\x93NUMPY\x01\0"), ("jpe", b"\x1f\x8b\x08\0" + b"\0" * 40), ("pgm", b"PE"),
        ("heic", b"\0\0\0\x18ftypheic" + b"\0" * 40), ("avif", b"\0\0\0\x18ftypavif" + b"\0" * 40)]),
    *(Odd(f"truncated-{part}.{suffix}", content[:int(part * len(content))], DAMAGED)
      for suffix, content in NOISY.items() for part in ((.01, .3, .6, .99) if suffix in ("jpg", "png") else (.5,))),
    Odd("start.jpg", b"\xff\xd8\xff", DAMAGED),
    Odd("start.png", PNG[:8], DAMAGED),
    Odd("end-lost.jpg", NOISY["jpg"][:-2], "damaged .*truncated"),
    Odd("wrong-bytes.png", NOISY["png"][:500] + b"\0" * 100 + NOISY["png"][600:], DAMAGED),
    Odd("zeroed.jpg", b"\0" * len(JPEG), NO_PICTURE),
    Odd("no-pixels.png", png(0, 0, 8, 2, b""), DAMAGED),
    Odd("1x5000.png", encoded(plain(size=(1, 5000)), "PNG"), "1 x 5000 pixels, one side more than 50 times the other"),
    Odd("20000x1.png", encoded(plain(size=(20000, 1)), "PNG"), "20000 x 1 pixels, one side more than 50 times"),
    Odd("bomb.png", png(30000, 30000, 1, 0, b"\0"), "more than 89 million"),
    Odd("half-a-bomb.png", png(10000, 10000, 1, 0, b"\0"), "10000 x 10000 pixels, more than 89 million"),
    Odd("bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + GIF[10:], "more than 89 million"),
    Odd("floats-to-255.tif", encoded(of(124.5, np.float32), "TIFF"), "pixels go from 124.5 to 124.5, not from 0 to 1: save it"),
    Odd("not-a-number.tif", encoded(of(np.nan, np.float32), "TIFF"), "pixels go from nan to nan"),
    Odd("large-integers.tif", encoded(of(70000, np.int32), "TIFF"), "pixels go from 70000 to 70000, not from 0 to 65535"),
    Odd("negative.tif", encoded(of(-1, np.int32), "TIFF"), "pixels go from -1 to -1"),
    Odd("pipe.png", os.mkfifo, "not a plain file"),
    Odd("socket.jpg", listen, "No such device|not supported"),
    Odd("dangling.png", link_to("nowhere.png"), "No such file or directory"),
    Odd("loop.png", link_to("loop.png"), "Too many levels of symbolic links"),
]
IGNORED = [Odd(name, b"\0", None) for name in (
    ".DS_Store", "._plain.jpg", ".hidden.png", "Thumbs.db", "notes.txt", "labels.json", "a.zip", "png", "__MACOSX/._x.png",
    "__MACOSX/x.png", "@eaDir/plain.jpg/thumb.jpg", ".cache/x.png")]
