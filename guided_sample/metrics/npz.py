"""Arrays in .npz files too large for memory, read by parts and as data alone, whatever their headers say."""
from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
from numpy.lib import format as npy

from noisy_clf.errors import UserError, disk_trouble

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and what is extra (PKZIP's APPNOTE 4.3.7)
DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, OverflowError, RuntimeError, KeyError,
          SyntaxError)  # what zipfile and numpy raise of files that are damaged, foreign or encrypted


@dataclass
class Member:
    """An array in an .npz file, of which nothing is in memory.

    offset  of its first row, in the member
    start   of the member, in the file, where it is not compressed
    stream  of what is decompressed, where reading has come to; `turn`: of the threads that read
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    start: int | None
    stream: IO[bytes] | None = None
    turn: Lock = field(default_factory=Lock)

    def read(self, rows: range) -> np.ndarray:
        """These consecutive rows. Where it is compressed, all that lies before them is decompressed, but what was just read."""
        return self.part(rows.start, len(rows) * math.prod(self.shape[1:])).reshape(len(rows), *self.shape[1:])

    def whole(self) -> np.ndarray:
        return self.part(0, math.prod(self.shape)).reshape(self.shape)

    def part(self, row: int, count: int) -> np.ndarray:
        """So many numbers [count], from a row on."""
        position, size = self.offset + row * math.prod(self.shape[1:]) * self.dtype.itemsize, count * self.dtype.itemsize
        try:
            if self.start is not None:
                with open(self.path, "rb") as file:
                    file.seek(self.start + position)
                    content = file.read(size)
            else:
                with self.turn:
                    self.stream = self.stream or zipfile.ZipFile(self.path).open(self.name)
                    self.stream.seek(position)
                    content = self.stream.read(size)
        except DAMAGE as error:
            raise unreadable(self.path, error) from error
        if len(content) < size:
            raise unreadable(self.path, ValueError(f"{self.name} ends early"))
        return np.frombuffer(content, self.dtype)

    def __len__(self) -> int:
        return self.shape[0]


def members(path: Path) -> dict[str, Member]:
    """The arrays in a file by name. UserError where it is no .npz, or a header tells of other bytes than follow it."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return {about.filename.removesuffix(".npy"): member(path, file, archive, about) for about in archive.infolist()
                    if about.filename.endswith(".npy")}
    except DAMAGE as error:
        raise unreadable(path, error) from error


def member(path: Path, file: IO[bytes], archive: zipfile.ZipFile, about: zipfile.ZipInfo) -> Member:
    name = about.filename
    if about.header_offset + about.compress_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{name} is said to be longer than the file")
    with archive.open(about) as content:
        version = npy.read_magic(content)
        if version not in HEADERS:
            raise ValueError(f"{name} is of the version {version}")
        shape, fortran, dtype = HEADERS[version](content)
        offset = content.tell()
    told, there = math.prod(shape) * dtype.itemsize, about.file_size - offset
    if told != there or min(shape, default=0) < 0:
        raise ValueError(f"the header of {name} tells of {dtype} {list(shape)}, and {there} bytes follow it")
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not opened")
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} lies column by column: save np.ascontiguousarray of it")
    stored = about.compress_type == zipfile.ZIP_STORED
    return Member(path, name, shape, dtype, offset, start_of(file, about) if stored else None)


def start_of(file: IO[bytes], about: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin, behind its own header. ValueError where they are not all there."""
    file.seek(about.header_offset)
    header = file.read(LOCAL_HEADER)
    if about.compress_size != about.file_size:
        raise ValueError(f"{about.filename} is said to be of two lengths")
    name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return about.header_offset + LOCAL_HEADER + name_and_extra


def unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno:
        return UserError(disk_trouble(error, path))
    why = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    return UserError(f"{path} is not a whole .npz file of arrays ({why}); copy, download or save it again.")


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal digits, with a bar where it takes a while."""
    from noisy_clf.download import digest_of  # only here: it takes a while to import

    return digest_of(path, "sha256").removeprefix("sha256:")
