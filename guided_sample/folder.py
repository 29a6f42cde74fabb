"""A sampling run's folder: a PNG and a JSON line for each sample, then grid.png, samples.npz and the manifest.

A sample is finished when its PNG is there and its line is: running the same command again makes only the others.
"""
from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from guided_sample.manifest import ABOUT, MANIFEST, Manifest
from guided_sample.request import KEYS
from noisy_clf.errors import UserError
from noisy_clf.files import (
    atomic_write, filled, made_by_newer, read_json, refuse_other_options, versions, write_json)

LINES = "samples.jsonl"


class RunFolder:
    """Where a run's samples, images of `shape` (C, H, W), go. Made for one manifest: a folder with the results of another,
    by what `identity` says that its images depend on, is refused; `defaults` are of settings that an older one lacks."""

    def __init__(self, path: Path, shape: tuple[int, int, int], manifest: Manifest,
                 identity: Callable[[Manifest], dict[str, Any]], defaults: dict[str, Any]) -> None:
        self.path, self.shape = path, shape
        file = path / MANIFEST
        if not file.exists() and (path.is_file() or any(path.glob("[!.]*"))):
            raise UserError(f"{path} is there already and is not a sampling run's folder; choose another --out.")
        if (path / LINES).exists() and not any(path.glob("*.png")):  # a run that finished nothing: no results to keep apart
            file.unlink(missing_ok=True)
        if file.exists():
            self.about = self._claimed(manifest, identity, defaults)
        else:
            self.about = {"versions": versions()}
            write_json(file, asdict(manifest) | self.about)
        self.manifest = manifest
        self.lines = self._finished_lines()
        self._write_lines()  # without what a kill may have torn

    def _claimed(self, manifest: Manifest, identity: Callable[[Manifest], dict[str, Any]],
                 defaults: dict[str, Any]) -> dict[str, Any]:
        """What the manifest that is there tells beside its request. UserError if it is of other images."""
        file = self.path / MANIFEST
        content = read_json(file)
        there = Manifest.of(content, file)
        if there is None:
            raise UserError(f"{file} is not that of a run of this toolkit; choose another --out.")
        if unknown := [key for key in there.request if key not in KEYS]:
            raise UserError(made_by_newer(file, unknown))
        new = identity(manifest)
        old = filled(identity(there), new, defaults)
        refuse_other_options(file, old, new)
        return {key: content[key] for key in ABOUT if key in content}

    def _finished_lines(self) -> dict[int, dict[str, Any]]:
        lines = {}
        for text in (self.path / LINES).read_text(errors="replace").splitlines() if (self.path / LINES).exists() else []:
            try:
                line = json.loads(text)
                if isinstance(line["class"], int | None) and self.image_path(line["index"]).exists():
                    lines[line["index"]] = line
            except (ValueError, TypeError, KeyError):  # torn, or none of ours
                continue
        return lines

    def _write_lines(self) -> None:
        with atomic_write(self.path / LINES) as temporary:
            temporary.write_text("".join(json.dumps(self.lines[index]) + "\n" for index in sorted(self.lines)))

    def image_path(self, index: int) -> Path:
        return self.path / f"{index:06d}.png"

    def missing(self, num_samples: int) -> list[int]:
        return [index for index in range(num_samples) if index not in self.lines]

    def add(self, pixels: np.ndarray, line: dict[str, Any]) -> None:
        """Stores one finished sample, uint8 [H,W,C]."""
        with atomic_write(self.image_path(line["index"])) as temporary:
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
        with open(self.path / LINES, "a") as file:
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

    def finish(self, num_samples: int, columns: int, report: dict[str, Any]) -> None:
        """Writes samples.npz, grid.png, the lines in order, and the manifest, all from the finished samples."""
        self._write_lines()
        classes = [self.lines[index]["class"] for index in range(num_samples)]
        labels = np.array([-1 if label is None else label for label in classes])
        self._write_npz(num_samples, labels)
        shown = [self.read(index) for index in range(min(num_samples, columns * 10))]
        with atomic_write(self.path / "grid.png") as temporary:
            Image.fromarray(grid(shown, columns)).save(temporary, format="PNG")
        self.about |= {"num_samples": num_samples, **report}
        write_json(self.path / MANIFEST, asdict(self.manifest) | self.about)

    def _write_npz(self, num_samples: int, labels: np.ndarray) -> None:
        """arr_0 uint8 [N,H,W,C], arr_1 labels (-1: none), image by image: they need not fit into memory."""
        shape = (num_samples, *self.read(0).shape)
        with atomic_write(self.path / "samples.npz") as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for index in range(num_samples):
                    file.write(self.read(index).tobytes())
            with archive.open("arr_1.npy", "w") as file:
                npy.write_array(file, labels)


def grid(images: list[np.ndarray], columns: int) -> np.ndarray:
    """Images uint8 [H,W,C] in rows, small ones enlarged to some 64 pixels, on a grey ground: uint8 [h,w] or [h,w,3]."""
    size, gap = images[0].shape[0], 4
    zoom = max(1, math.ceil(64 / size))
    cell = size * zoom + gap
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell + gap, columns * cell + gap, images[0].shape[2]), 96, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * cell, gap + i % columns * cell
        sheet[top:top + size * zoom, left:left + size * zoom] = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return sheet.squeeze(2) if sheet.shape[2] == 1 else sheet
