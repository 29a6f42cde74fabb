"""Images listed in a CSV file: file, label and, where there is one, split."""
from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from noisy_clf.datasets.folders import VALIDATION, Listed, Listing, dataset_of
from noisy_clf.datasets.image_files import printable
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError, disk_trouble

SPLIT = "split"


class Row(NamedTuple):
    """file  relative to the CSV's folder; split  "" where there is no such column; line  of the CSV, from 1."""

    file: str
    label: str
    split: str
    line: int


def csv_dataset(path: Path, image_size: int, channels: int = 3, classes: bool = True) -> Dataset:
    """The images that a CSV lists by columns `file` (relative to the CSV's folder), `label` (where classes are needed; else it
    is not looked at) and, perhaps, `split`.

    A split is train or val (or validation, valid, test: the first of them that is there). Without this column every tenth
    image of each class is held out. UserError for whatever is wrong in it, with the line.
    """
    path = Path(os.path.abspath(path))
    rows = distinct(path, read_rows(path, ("file", "label") if classes else ("file",)))
    refuse_missing(path, rows)
    splits = {row.split for row in rows}
    held_out = next((name for name in VALIDATION if name in splits), None)
    if splits == {""}:
        listed = Listed(path, path.parent, listing(rows, ""), None, classes)
    elif "train" in splits and held_out:
        listed = Listed(path, path.parent, listing(rows, "train"), listing(rows, held_out), classes)
    else:
        raise UserError(f"{path} has the split {' and '.join(sorted(splits))} only; there must be both train and val.")
    return dataset_of(listed, str(path), image_size, channels)


def read_rows(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            if not set(needed) <= set(columns) or any(columns.count(name) > 1 for name in (*needed, SPLIT)):
                raise UserError(f"{path} has the columns {printable(', '.join(columns)) or '(none)'}; its first line must name "
                                f"{' and '.join(needed)} and, if there is one, split, each once, with commas between them.")
            for fields in reader:
                if not any(map(str.strip, fields)):
                    continue
                if len(fields) != len(columns):
                    raise UserError(f"{path}, line {reader.line_num}, has {len(fields)} fields instead of {len(columns)}; a "
                                    f"field with a comma in it is put in double quotes.")
                found = dict(zip(columns, map(str.strip, fields)))
                yield row_of(path, {name: found[name] for name in (*needed, SPLIT) if name in found}, reader.line_num)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; save it as such.") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}, is not CSV ({error}).") from error
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error


def row_of(path: Path, fields: dict[str, str], line: int) -> Row:
    for name, value in fields.items():
        if not value:
            raise UserError(f"{path}, line {line}, has no {name}.")
    split = fields.get(SPLIT, "").lower()
    if split not in ("", "train", *VALIDATION):
        raise UserError(f"{path}, line {line}, has the split {printable(split)}; a split is train or val.")
    return Row(os.path.normpath(fields["file"]), fields.get("label", ""), split, line)


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
