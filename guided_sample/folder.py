"""A sampling run's folder: a PNG and a JSON line for each sample, then grid.png, samples.npz and the manifest.

A sample is finished when its PNG is there and its line is: running the same command again makes only the others. Each process
writes its lines into a file of its own; the one that finds nothing missing gathers them in samples.jsonl.
"""
from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageDraw, ImageFont

from guided_sample.at_work import Stake, briefly_alone, others_at_work, staked
from guided_sample.manifest import ABOUT, MANIFEST, Manifest
from guided_sample.request import KEYS
from guided_sample.shares import Share
from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.files import (
    atomic_write, filled, from_json, made_by_newer, read_json, refuse_other_options, versions, write_json)

LINES, PARTS, NPZ = "samples.jsonl", "samples.*-of-*.jsonl", "samples.npz"


class RunFolder:
    """Where a run's samples, images of `shape` (C, H, W), go. Made for one manifest: a folder with the results of another,
    by what `identity` says that its images depend on, is refused; `defaults` are of settings that an older one lacks, and
    `labels_of` tells what each sample is asked to show, as its line does: a class, a wish's weights, or None. Several
    processes, of a share each, may be at work."""

    def __init__(self, path: Path, shape: tuple[int, int, int], manifest: Manifest,
                 identity: Callable[[Manifest], dict[str, Any]], defaults: dict[str, Any],
                 labels_of: Callable[[Sequence[int]], Sequence[int | dict[str, float] | None]]) -> None:
        self.path, self.shape, self.manifest = path, shape, manifest
        self.identity, self.defaults, self.labels_of = identity, defaults, labels_of
        self.about: dict[str, Any] = {}
        self.lines: dict[int, dict[str, Any]] = {}

    @contextmanager
    def claimed(self, share: Share, block: int, about: dict[str, Any]) -> Iterator[None]:
        """Within, the share's blocks of so many samples are this process's own. UserError if the folder is of other images.

        about  what the manifest shall tell beside, of a new run
        """
        visible = self.path.is_file() or any(self.path.glob("[!.]*"))  # asked first: a claim writes the manifest first
        if visible and self._manifest_there() is None:
            raise UserError(f"{self.path} is there already and is not a sampling run's folder; choose another --out.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(disk_trouble(error, self.path)) from error
        self._before = self._npz_written()
        self._lock = staked(self.path, Stake(share.number, share.count, block), lambda others: self._claim(others, about))
        self._part = self.path / f"samples.{share.number}-of-{share.count}.jsonl"
        try:
            with open(self._part, "a") as file:
                file.write("\n" * bool(file.tell()))  # ends what a kill may have torn
            self.look()
            yield
        finally:
            self._lock.release()

    def _claim(self, others: bool, about: dict[str, Any]) -> None:
        """While `briefly_alone`. A run that finished nothing, and is not at work, has no results to keep apart."""
        finished = any(self.path.glob("[0-9]*.png")) or (self.path / NPZ).exists()
        if (there := self._manifest_there()) and (others or finished):
            old, new = self.identity(there[0]), self.identity(self.manifest)
            refuse_other_options(self.path / MANIFEST, filled(old, new, self.defaults), new)
            self.about = there[1]
        else:
            self.about = {"versions": versions(), **about}
            write_json(self.path / MANIFEST, asdict(self.manifest) | self.about)
            for path in self._line_files():
                path.unlink(missing_ok=True)

    def _manifest_there(self) -> tuple[Manifest, dict[str, Any]] | None:
        """The manifest, and what it tells beside; None where there is none. UserError where it is none of ours."""
        file = self.path / MANIFEST
        if not file.exists():
            return None
        content = read_json(file, way_out="choose another --out, or remove that folder")
        there = Manifest.of(content, file)
        if there is None:
            raise UserError(f"{file} is not that of a run of this toolkit; choose another --out, or remove that folder.")
        if unknown := [key for key in there.request if key not in KEYS]:
            raise UserError(made_by_newer(file, unknown))
        return there, {key: content[key] for key in ABOUT if key in content}

    def _line_files(self) -> list[Path]:
        """samples.jsonl the last: what is not in a part any more is there."""
        return [*self.path.glob(PARTS), self.path / LINES]

    def look(self) -> None:
        """Finds the finished samples, of all processes. A line that tells another class than was asked for is none of them."""
        pictures, found = {path.name for path in self.path.glob("*.png")}, []
        for file in self._line_files():
            with suppress(FileNotFoundError):  # not yet there, or gathered since
                for text in file.read_text(errors="replace").splitlines():
                    with suppress(ValueError, TypeError, KeyError):  # torn, or none of ours
                        line = from_json(text)
                        if type(line["index"]) is int and f"{line['index']:06d}.png" in pictures:
                            told = json.dumps(line.get("wish", line["class"]))  # 1 is not true, nor 1.0
                            found.append((line["index"], told, line))
        indices = list({index for index, _, _ in found})
        asked = {index: json.dumps(label) for index, label in zip(indices, self.labels_of(indices))}
        self.lines = {index: line for index, told, line in found if told == asked[index]}

    def image_path(self, index: int) -> Path:
        return self.path / f"{index:06d}.png"

    def missing(self, num_samples: int) -> list[int]:
        return [index for index in range(num_samples) if index not in self.lines]

    @property
    def gathered(self) -> int:
        """How many samples samples.npz has."""
        count = self.about.get("num_samples")
        return count if type(count) is int else 0

    def add(self, pixels: np.ndarray, line: dict[str, Any]) -> None:
        """Stores one finished sample, uint8 [H,W,C]."""
        with atomic_write(self.image_path(line["index"])) as temporary:
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
        with open(self._part, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[line["index"]] = line

    def read(self, index: int) -> np.ndarray:
        """One finished sample, uint8 [H,W,C]."""
        try:
            pixels = np.asarray(Image.open(self.image_path(index)))
        except (OSError, SyntaxError) as error:
            raise UserError(f"{self.image_path(index)} is damaged ({error}); remove it, and the same command makes it "
                            f"again.") from error
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        C, H, W = self.shape
        if pixels.shape != (H, W, C) or pixels.dtype != np.uint8:
            raise UserError(f"{self.image_path(index)} is no picture of {W} x {H} pixels and {C} channels, as it was drawn; "
                            f"remove it, and the same command makes it again.")
        return pixels

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Finished samples, uint8 [B,H,W,C]."""
        return np.stack([self.read(index) for index in indices])

    def finish(self, num_samples: int, columns: Callable[[int], Columns], report: dict[str, Any]) -> None:
        """Where no sample is missing, gathers those of all processes: the lines in order, samples.npz, grid.png, and at last
        the manifest. Fewer samples than were gathered before leave those as they are."""
        with briefly_alone(self.path):
            self._lock.release()
            parts, there = self._parts_not_at_work(), self._manifest_there()
            self.look()
            self.about = there[1] if there else self.about
            total = max(num_samples, self.gathered)
            if self.missing(total):
                return
            with atomic_write(self.path / LINES) as temporary:
                temporary.write_text("".join(json.dumps(self.lines[index]) + "\n" for index in sorted(self.lines)))
            if self.gathered < total or self._npz_written() == self._before:  # else another process has, since this one began
                self._gather(total, columns(total), report)
            for path in parts:
                path.unlink()

    def _gather(self, total: int, columns: Columns, report: dict[str, Any]) -> None:
        classes = [self.lines[index]["class"] for index in range(total)]
        self._write_npz(total, np.array([-1 if label is None else label for label in classes]))
        shown = [self.read(index) for index in range(min(total, columns.number * 10))]
        with atomic_write(self.path / "grid.png") as temporary:
            Image.fromarray(grid(shown, columns.number, columns.headings)).save(temporary, format="PNG")
        self.about |= {"num_samples": total, **report, **effective_sizes([self.lines[index] for index in range(total)])}
        request = self.manifest.request | {"num_samples": total}
        write_json(self.path / MANIFEST, asdict(replace(self.manifest, request=request)) | self.about)

    def _parts_not_at_work(self) -> list[Path]:
        at_work = {f"samples.{other.number}-of-{other.shares}.jsonl" for other in others_at_work(self.path)}
        return [path for path in self.path.glob(PARTS) if path.name not in at_work]

    def _npz_written(self) -> tuple[int, int] | None:
        """Which writing of samples.npz is there."""
        with suppress(FileNotFoundError):
            told = (self.path / NPZ).stat()
            return told.st_ino, told.st_mtime_ns
        return None

    def _write_npz(self, num_samples: int, labels: np.ndarray) -> None:
        """arr_0 uint8 [N,H,W,C], arr_1 labels (-1: none), image by image: they need not fit into memory."""
        shape = (num_samples, *self.read(0).shape)
        with atomic_write(self.path / NPZ) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for index in range(num_samples):
                    file.write(self.read(index).tobytes())
            with archive.open("arr_1.npy", "w") as file:
                npy.write_array(file, labels)


def effective_sizes(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Of particles, where samples were drawn by them: the mean and the smallest of the samples' smallest effective numbers."""
    sizes = [line["ess"] for line in lines if "ess" in line]
    return {"ess": {"mean": round(fmean(sizes), 3), "smallest": min(sizes)}} if sizes else {}


class Columns(NamedTuple):
    """Of the grid: how many, and what stands above each, where that is a class."""

    number: int
    headings: tuple[str, ...] = ()


def grid(images: list[np.ndarray], columns: int, headings: Sequence[str] = ()) -> np.ndarray:
    """Images uint8 [H,W,C] in rows, small ones enlarged to some 64 pixels, on a grey ground, each column below its heading:
    uint8 [h,w] or [h,w,3]."""
    size, gap = images[0].shape[0], 4
    zoom = max(1, math.ceil(64 / size))
    cell = size * zoom + gap
    rows, above = math.ceil(len(images) / columns), 20 * bool(headings)
    sheet = np.full((above + rows * cell + gap, columns * cell + gap, images[0].shape[2]), 96, np.uint8)
    for i, image in enumerate(images):
        top, left = above + gap + i // columns * cell, gap + i % columns * cell
        sheet[top:top + size * zoom, left:left + size * zoom] = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    for i, heading in enumerate(headings):
        left = gap + i * cell
        sheet[gap:above, left:left + size * zoom] = lettered(heading, size * zoom, above - gap)[:, :, None]
    return sheet.squeeze(2) if sheet.shape[2] == 1 else sheet


def lettered(text: str, width: int, height: int) -> np.ndarray:
    """The text in white on the grid's grey, uint8 [height,width], in the middle; shortened where it is too long."""
    picture, font = Image.new("L", (width, height), 96), ImageFont.load_default(size=12)
    words, shown = text, text
    while words and font.getlength(shown) > width - 4:
        words = words[:-1]
        shown = words.rstrip() + "..."
    ImageDraw.Draw(picture).text((width / 2, height / 2), shown, fill=255, font=font, anchor="mm")
    return np.asarray(picture)
