"""The same seeds side by side: samples of equal index of runs that differ in one setting, a row a run."""
from __future__ import annotations

import io
import zipfile
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from guided_sample.folder import LINES, NPZ
from guided_sample.report.figures import by_sampler, steps_of
from guided_sample.report.runs import Compared, Group, Run
from guided_sample.report.words import h, setting
from noisy_clf.errors import UserError
from noisy_clf.files import from_json

COLUMNS, LARGEST = 10, 160  # samples in a row; pixels a side, to which larger pictures are shrunk
READ = 200  # of samples.jsonl: so many lines


def sheets(c: Compared) -> list[str]:
    """One for each series of several scales, or kind of several numbers of steps, and where kinds are compared, of each at its
    best; otherwise one of all groups."""
    if c.bests or len(c.scales) > 1:
        found = [sheet(list(c.bests.values()), "Each kind at its best setting", "kind", list(c.bests))] if c.bests else []
        found += [sheet(groups, name, groups[0].knob, [f"{group.scale:g}" for group in groups])
                  for name, groups in c.by_series.items() if len(groups) > bool(c.bests)]
        found += [sheet(groups, name, "steps", [steps_of(group) for group in groups])
                  for name, groups in (() if c.over_scales else by_sampler(c).items())]
    else:
        found = [sheet(c.groups, setting("seed", c.groups[0].runs[0].seed), "", [group.series for group in c.groups])]
    return [one for one in found if one]


def sheet(groups: Sequence[Group], title: str, corner: str, names: Sequence[str]) -> str:
    """A table of pictures, of the first seed; nothing where no run has any."""
    runs = [group.runs[0] for group in groups]
    indices, headings = columns(runs)
    rows = [(name, run, [picture(run.folder, index) for index in indices]) for name, run in zip(names, runs)]
    rows = [row for row in rows if any(row[2])]
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{h(heading)}</th>' for heading in headings)
    body = "".join(f'<tr><th scope="row">{h(name)}</th>' + "".join(
        cell(address, f"{name}: {heading}, index {index}, {setting('seed', run.seed)}")
        for address, heading, index in zip(addresses, headings, indices)) + "</tr>" for name, run, addresses in rows)
    return (f'<figure class="sheet"><figcaption>{h(title)}</figcaption><div class="scroll" tabindex="0"><table>'
            f'<thead><tr><th>{h(corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>')


def cell(address: str, told: str) -> str:
    return f'<td><img src="{address}" alt="{h(told)}" title="{h(told)}"></td>' if address else "<td></td>"


def columns(runs: Sequence[Run]) -> tuple[list[int], list[str]]:
    """Which samples are shown, and what stands above them: one of each class where these are few, else the first ones."""
    classes = [classes_of(run) for run in runs]
    same = {index: name for index, name in classes[0].items() if all(one.get(index) == name for one in classes)}
    first = {name: index for index, name in reversed(same.items())}
    indices = sorted(first.values()) if 2 <= len(first) <= COLUMNS else list(range(COLUMNS))
    return indices, [same.get(index, f"#{index}") for index in indices]


def classes_of(run: Run) -> dict[int, str]:
    """What the first samples show, by their index; nothing of those that were asked for no class."""
    found: dict[int, str] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError), open(run.folder / LINES, encoding="utf-8") as file:
        for text in islice(file, READ):
            told = from_json(text)
            if (name := told.get("class_name") or told["class"]) is not None:
                found[int(told["index"])] = str(name)
    return found


def picture(folder: Path, index: int) -> str:
    """A sample as a data: address; "" where it is not there."""
    with suppress(FileNotFoundError, KeyError):
        return address(pixels_of(folder, index))
    return ""


def address(pixels: np.ndarray) -> str:
    """uint8 [H,W,C] as PNG in a data: address, shrunk if it is large."""
    image, file = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), io.BytesIO()
    image.thumbnail((LARGEST, LARGEST))
    image.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def pixels_of(folder: Path, index: int) -> np.ndarray:
    """uint8 [H,W,C], from its PNG or from samples.npz."""
    file = folder / f"{index:06d}.png"
    if not file.is_file():
        return of_archive(folder / NPZ, index)
    try:
        with Image.open(file, formats=("PNG",)) as image:
            return np.atleast_3d(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, and the run's command makes it again.") from error


def of_archive(file: Path, index: int) -> np.ndarray:
    """Of arr_0, this image alone. KeyError where there are fewer."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as stream:
            npy.read_magic(stream)
            shape, by_columns, dtype = npy.read_array_header_1_0(stream)
            if len(shape) != 4 or by_columns or dtype != np.uint8:
                raise UserError(f"{file}: arr_0 is not uint8 of N, H, W, C; a report shows a run's own samples.npz.")
            if index >= shape[0]:
                raise KeyError(index)
            size = int(np.prod(shape[1:]))
            stream.seek(index * size, io.SEEK_CUR)
            return np.frombuffer(stream.read(size), np.uint8).reshape(shape[1:])
    except (zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, and the run's command makes it again.") from error
