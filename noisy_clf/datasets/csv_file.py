"""Images listed in a CSV file: file, label and, where there is one, split."""
from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from noisy_clf.datasets.folders import VALIDATION, Listed, Listing, dataset_of
from noisy_clf.datasets.image_files import printable
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError, disk_trouble

NEEDED, POSSIBLE = ("file", "label"), ("file", "label", "split")


class Row(NamedTuple):
    """file  relative to the CSV's folder; split  "" where there is no such column; line  of the CSV, from 1."""

    file: str
    label: str
    split: str
    line: int


def csv_dataset(path: Path, image_size: int, channels: int = 3) -> Dataset:
    """The images that a CSV lists by columns `file` (relative to the CSV's folder), `label` and, perhaps, `split`.

    A split is train or val (or validation, valid, test: the first of them that is there). Without this column every tenth
    image of each class is held out. UserError for whatever is wrong in it, with the line.
    """
    path = Path(os.path.abspath(path))
    rows = distinct(path, read_rows(path))
    refuse_missing(path, rows)
    splits = {row.split for row in rows}
    held_out = next((name for name in VALIDATION if name in splits), None)
    if splits == {""}:
        listed = Listed(path, path.parent, listing(rows, ""))
    elif "train" in splits and held_out:
        listed = Listed(path, path.parent, listing(rows, "train"), listing(rows, held_out))
    else:
        raise UserError(f"{path} has the split {' and '.join(sorted(splits))} only; there must be both train and val.")
    return dataset_of(listed, str(path), image_size, channels)


def read_rows(path: Path) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            if not set(NEEDED) <= set(columns) or any(columns.count(name) > 1 for name in POSSIBLE):
                raise UserError(f"{path} has the columns {printable(', '.join(columns)) or '(none)'}; its first line must name "
                                f"file and label and, if there is one, split, each once, with commas between them.")
            for fields in reader:
                if not any(map(str.strip, fields)):
                    continue
                if len(fields) != len(columns):
                    raise UserError(f"{path}, line {reader.line_num}, has {len(fields)} fields instead of {len(columns)}; a "
                                    f"field with a comma in it is put in double quotes.")
                yield row_of(path, dict(zip(columns, map(str.strip, fields))), reader.line_num)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; save it as such.") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}, is not CSV ({error}).") from error
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error


def row_of(path: Path, fields: dict[str, str], line: int) -> Row:
    for name in POSSIBLE:
        if fields.get(name) == "":
            raise UserError(f"{path}, line {line}, has no {name}.")
    split = fields.get("split", "").lower()
    if split not in ("", "train", *VALIDATION):
        raise UserError(f"{path}, line {line}, has the split {printable(split)}; a split is train or val.")
    return Row(os.path.normpath(fields["file"]), fields["label"], split, line)


def distinct(path: Path, rows: Iterator[Row]) -> list[Row]:
    """The rows, each file once. UserError if two say different things of a file, or there are none."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.file, row)
        for what, one, other in (("label", first.label, row.label), ("split", first.split, row.split)):
            if one != other:
                raise UserError(f"{path} gives {printable(row.file)} the {what} {printable(one)} in line {first.line} and "
                                f"{printable(other)} in line {row.line}; remove one of them.")
    if not seen:
        raise UserError(f"{path} lists no images.")
    return list(seen.values())


def refuse_missing(path: Path, rows: list[Row]) -> None:
    bar = tqdm(rows, unit="file", desc="looking for files", delay=3, dynamic_ncols=True)
    if missing := [row for row in bar if not os.path.exists(path.parent / row.file)]:
        raise UserError(f"{len(missing)} of the {len(rows)} files that {path} lists are not there, the first "
                        f"{printable(missing[0].file)} in line {missing[0].line}; files are relative to the CSV's folder.")


def listing(rows: list[Row], split: str) -> Listing:
    found: Listing = {}
    for row in sorted(rows):
        if row.split == split:
            found.setdefault(row.label, []).append(row.file)
    return found
