"""Down-sampled ImageNet (Chrabaszcz et al. 2017) from image-net.org's files, converted once to arrays mapped to memory.

FOLDER/converted-SIZE/ holds train_images.npy (uint8 [N,3,S,S]), train_labels.npy (int64 [N], in the models' order: sorted
WordNet ids, from 0), the same for val, and converted.json: what they hold of which file. A file is recorded once its rows are
on the disk; rows behind the recorded ones are another try's, and are written over.
"""
from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import zipfile
import zlib
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from tqdm import tqdm

from noisy_clf import imagenet
from noisy_clf.datasets.array_unpickler import read_pickled_arrays
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.errors import UserError, disk_trouble, out_of_memory
from noisy_clf.files import alone, read_json, write_json

FILES = {"train": [f"train_data_batch_{number}" for number in range(1, 11)], "val": ["val_data"]}
RECORD = "converted.json"
HEADER = 128  # bytes before an array's first row, whatever their number: numpy leaves it room to grow
CHUNK = 1024  # images written at once
LOOKED_AT = 8  # images of each file that are checked whenever the arrays are opened
COPIED = 2 * 10 ** 9  # nanoseconds by which a copy's time may differ where a file system rounds it


@dataclass(frozen=True)
class Part:
    """What the arrays hold of one file; `few` are the rows that are looked at whenever the arrays are opened."""

    name: str
    bytes: int
    mtime_ns: int
    rows: int
    images_crc32: int
    labels_crc32: int
    few_crc32: int


Parts = dict[str, list[Part]]  # of train and of val: those that are converted


def downsampled_imagenet(size: int, folder: Path) -> Dataset:
    """The images of `size` pixels a side that image-net.org's files in `folder` hold, pickles or .npz; converted at first use.

    Converting takes as much space as the images; stopped in any way, it goes on where it was. Of several processes of one
    machine one converts and the others wait. The files may be deleted afterwards.
    """
    converted = folder / f"converted-{size}"
    parts = read_record(converted)
    refuse_changed(parts, folder, converted)
    if missing(parts):
        find_files(folder, size, missing(parts))
        with alone(converted, f"converts {folder}"):
            parts = read_record(converted)
            if missing(parts):
                convert(size, folder, converted, parts)
    arrays = {split: mapped(converted, split, size, parts[split]) for split in FILES}
    train, validation = (LabelledImages(ArrayImages(images), torch.from_numpy(labels.copy()))
                         for images, labels in arrays.values())
    content = [astuple(part)[3:] for split in FILES for part in parts[split]]  # wherever the files came from
    return Dataset(f"imagenet{size}", train, validation, imagenet.class_names(),
                   source=f"content {hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}")


def missing(parts: Parts) -> list[str]:
    return [name for split, names in FILES.items() for name in names[len(parts[split]):]]


def find_files(folder: Path, size: int, names: list[str]) -> dict[str, Path]:
    """Where each file is: in the folder, or one below it that the archives unpack to; .npz rather than a pickle."""
    places = [folder] + [path for path in sorted(folder.glob("*/"))
                         if re.fullmatch(rf"imagenet{size}_.*|train|val", path.name, re.IGNORECASE)]
    paths = {name: [path for suffix in (".npz", "") for place in places if (path := place / f"{name}{suffix}").is_file()]
             for name in names}
    lacking = [name for name in names if not paths[name]]
    if len(lacking) == sum(map(len, FILES.values())):
        raise UserError(f"{folder} has none of the files of down-sampled ImageNet, train_data_batch_1 to 10 and val_data (all "
                        f"with or without .npz); register at image-net.org, download Imagenet{size}_train and "
                        f"Imagenet{size}_val from its down-sampled images, and unpack them there.")
    if lacking:
        raise UserError(f"{folder} lacks {', '.join(lacking)} (or the same with .npz) of down-sampled ImageNet; unpack all of "
                        f"Imagenet{size}_train and Imagenet{size}_val from image-net.org into it.")
    return {name: paths[name][0] for name in names}


# reading image-net.org's files


def data_size(path: Path) -> int:
    """How many bytes the images in a file take, or a little more."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return archive.getinfo("data.npy").file_size
        return path.stat().st_size
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def read_file(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N,3,S,S], labels int64 [N] in the models' order)"""
    try:
        if path.suffix == ".npz":
            data, labels = read_npz(path)
        else:
            content = read_pickled_arrays(path)
            data, labels = np.asarray(content["data"]), np.asarray(content["labels"])
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes zipfile and numpy raise
        if out_of_memory(error):
            raise
        raise unreadable(path, error) from error
    if data.dtype != np.uint8 or data.ndim != 2 or not len(data) or labels.shape != data.shape[:1]:
        raise unreadable(path, ValueError(f"data {data.dtype} {list(data.shape)} with labels {list(labels.shape)}"))
    if data.shape[1] != 3 * size ** 2:
        side = math.isqrt(data.shape[1] // 3)
        raise UserError(f"{path} holds images of {side} pixels a side, not of {size}; choose imagenet{side}, or the folder of "
                        f"Imagenet{size}'s files.")
    if labels.dtype.kind not in "iu" or labels.min() < 1 or labels.max() > 1000:
        raise unreadable(path, ValueError("its labels are not whole numbers from 1 to 1000"))
    return data.reshape(-1, 3, size, size), models_order()[labels]


def read_npz(path: Path) -> list[np.ndarray]:
    """Data and labels. ValueError where a header tells of another array than there are bytes for."""
    arrays = []
    with zipfile.ZipFile(path) as archive:
        for name in ("data.npy", "labels.npy"):
            with archive.open(name) as file:
                header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = header(file)
                told, there = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - file.tell()
            if told != there or min(shape, default=0) < 0:
                raise ValueError(f"the header of {name} tells of {dtype} {list(shape)}, and {there} bytes follow it")
            with archive.open(name) as file:
                arrays.append(npy.read_array(file, allow_pickle=False))
    return arrays


def unreadable(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
    return UserError(f"{path} is not a whole file of down-sampled ImageNet ({why}); copy or download it again.")


@cache
def models_order() -> np.ndarray:
    """What models call the classes that the files call 1 to 1000: int64 [1001]."""
    ids = (Path(__file__).parent / "imagenet_downsampled_order.txt").read_text(encoding="ascii").split()
    positions = {id: position for position, id in enumerate(sorted(ids))}
    return np.array([-1] + [positions[id] for id in ids], np.int64)


# converting


def convert(size: int, folder: Path, converted: Path, parts: Parts) -> None:
    """Adds the missing parts to the arrays, and to `parts`."""
    paths = find_files(folder, size, missing(parts))
    for split in FILES:
        mapped(converted, split, size, parts[split])
    wanted, free = sum(map(data_size, paths.values())), shutil.disk_usage(converted).free
    if wanted > free:
        raise UserError(f"converting {folder} takes {tqdm.format_sizeof(wanted, 'B')} and {converted} has "
                        f"{tqdm.format_sizeof(free, 'B')} left; free some space, or make it a link to a folder that has it.")
    try:
        with tqdm(total=wanted, unit="B", unit_scale=True, desc=f"converting imagenet{size}", dynamic_ncols=True) as bar:
            for split, names in FILES.items():
                for name in names[len(parts[split]):]:
                    bar.set_postfix_str(name)
                    parts[split].append(convert_file(paths[name], size, folder, converted / split, parts[split], bar))
                    write_json(converted / RECORD, {split: list(map(asdict, parts[split])) for split in FILES})
    except KeyboardInterrupt as error:
        raise UserError(f"stopped: all but {len(missing(parts))} files are converted, and the same command goes on from "
                        f"there.") from error
    tqdm.write(f"{converted} is all that imagenet{size} needs from now on; the files it was made of may be deleted",
               file=sys.stderr)


def convert_file(path: Path, size: int, folder: Path, array: Path, before: list[Part], bar: tqdm[Any]) -> Part:
    """Writes what a file holds behind the parts before it, into the arrays whose names begin with `array`."""
    status = path.stat()
    images, labels = read_file(path, size)
    start = sum(part.rows for part in before)
    crc32 = append(array.with_name(f"{array.name}_images.npy"), images, start, bar)
    append(array.with_name(f"{array.name}_labels.npy"), labels, start)
    return Part(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, len(labels), crc32,
                zlib.crc32(labels.data), few_crc32(images))


def append(path: Path, rows: np.ndarray, start: int, bar: tqdm[Any] | None = None) -> int:
    """Writes rows behind the first `start` of the array at `path`, over whatever is there, and to the disk; their CRC-32.

    Stopped at any moment, it leaves a file that has all the rows that its header tells of.
    """
    header, crc32 = io.BytesIO(), 0
    np.lib.format.write_array_header_1_0(header, {
        "descr": rows.dtype.str, "fortran_order": False, "shape": (start + len(rows), *rows.shape[1:])})
    assert header.tell() == HEADER
    try:
        with open(path, "r+b" if start else "wb") as file:
            file.seek(HEADER + start * rows[0].nbytes)
            for first in range(0, len(rows), CHUNK):
                chunk = np.ascontiguousarray(rows[first:first + CHUNK])
                file.write(chunk.data)
                crc32 = zlib.crc32(chunk.data, crc32)
                if bar is not None:
                    bar.update(chunk.nbytes)
            end = file.tell()
            file.seek(0)
            file.write(header.getvalue())
            file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    return crc32


def few_crc32(images: np.ndarray) -> int:
    few = np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).astype(int)
    return zlib.crc32(np.ascontiguousarray(images[few]).data)


# opening what was converted


def read_record(converted: Path) -> Parts:
    """Which parts the arrays hold; none where there is no record."""
    if not (converted / RECORD).exists():
        return {split: [] for split in FILES}
    try:
        content = read_json(converted / RECORD)
        parts = {split: [Part(**part) for part in content[split]] for split in FILES}
    except (UserError, KeyError, TypeError) as error:
        raise damaged(converted, f"{RECORD} is not whole") from error
    types = {field.name: str if field.type == "str" else int for field in fields(Part)}
    if any(type(getattr(part, name)) is not type_ for split in FILES for part in parts[split] for name, type_ in types.items()):
        raise damaged(converted, f"{RECORD} is not whole")
    return parts


def refuse_changed(parts: Parts, folder: Path, converted: Path) -> None:
    """A file may be gone, but one that is there is the one that was converted."""
    for part in (part for split in FILES for part in parts[split]):
        path = folder / part.name
        if path.exists() and (path.stat().st_size != part.bytes or abs(path.stat().st_mtime_ns - part.mtime_ns) > COPIED):
            raise UserError(f"{path} has changed since {converted} was made of it; remove that folder to convert the files "
                            f"anew, or move {part.name} away to go on with what was converted.")


def mapped(converted: Path, split: str, size: int, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N,3,S,S], labels int64 [N]) of these parts, mapped to memory, with all labels and a few images checked."""
    rows = sum(part.rows for part in parts)
    if not parts:
        return np.empty((0, 3, size, size), np.uint8), np.empty(0, np.int64)
    arrays = []
    for what, shape, dtype in (("images", (3, size, size), np.uint8), ("labels", (), np.int64)):
        path = converted / f"{split}_{what}.npy"
        try:
            array = np.load(path, mmap_mode="r").view(np.ndarray)[:rows]
        except (OSError, ValueError, EOFError, TypeError, OverflowError) as error:  # the last two: of a header that lies
            raise damaged(converted, f"{path.name} is gone or not whole") from error
        if array.shape != (rows, *shape) or array.dtype != dtype:
            raise damaged(converted, f"{path.name} is not of {rows} images")
        arrays.append(array)
    images, labels = arrays
    start = 0
    for part in parts:
        of_part = slice(start, start := start + part.rows)
        if zlib.crc32(labels[of_part].data) != part.labels_crc32 or few_crc32(images[of_part]) != part.few_crc32:
            raise damaged(converted, f"of {part.name} it holds other images or labels than were written")
    return images, labels


def damaged(converted: Path, why: str) -> UserError:
    return UserError(f"{converted} is damaged ({why}); remove that folder, and the same command converts the files anew.")
