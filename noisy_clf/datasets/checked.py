"""Which image files can be used: each is decoded once before it is trained on, and what is found is recorded.

The record of a folder, checked/NAME.jsonl in the cache folder, has a line for each file: [path, bytes, mtime in ns, why it is
refused or ""]. Lines are only added, a later one overrules an earlier, and one that was torn counts as none.
"""
from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from noisy_clf.datasets.image_files import PATIENCE, Refused, decoded, printable, silence_pillow, why
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write, locked
from noisy_clf.checkpoints.download import cache_folder
from noisy_clf.datasets.read_ahead import read_ahead

RULES = 1  # of what is refused; another number begins new records
THREADS = min(32, 2 * (os.cpu_count() or 4))
AT_A_TIME = 32  # files that a thread takes on
TOLD = 10  # refused files that are named

Stamp = tuple[int, int]  # bytes, mtime in ns
Known = dict[str, tuple[int, int, str]]  # path -> its stamp, and why it is refused
Item = TypeVar("Item")
Result = TypeVar("Result")


def refused_files(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Those of the files (by paths relative to `root`) that cannot be used, and why: {path: reason}.

    Only new and changed files are decoded. They are told on stderr. UserError if none can be used, or if so many in a row
    cannot be read that the disk must be the reason.
    """
    silence_pillow()
    record = Record(root)
    known = record.load()
    stamps = list(in_threads(lambda path: stamp(root, path), paths, "looking for changes"))

    def unknown() -> list[tuple[str, Stamp]]:
        return [(path, now) for path, now in zip(paths, stamps) if path not in known or known[path][:2] != now]

    if unknown():
        with record.alone():
            known = record.load()  # another process may have checked them while this one waited
            check(root, unknown(), known, record)
    refused = {path: known[path][2] for path in paths if known[path][2]}
    if refused:
        tell(root, refused, len(paths), record)
    if len(refused) == len(paths):
        raise UserError(f"none of the {len(paths)} images in {root} can be used.")
    return refused


def check(root: Path, files: list[tuple[str, Stamp]], known: Known, record: Record) -> None:
    """Decodes the files, and adds what is found to `known` and, unless it may pass, to the record."""
    reasons = in_threads(lambda file: reason_against(os.path.join(root, file[0])), files, f"checking {root.name}")
    failures = done = 0
    lines: list[str] = []
    try:
        for (path, (size, mtime)), (reason, lasting) in zip(files, reasons):
            known[path] = size, mtime, reason
            failures = 0 if lasting else failures + 1
            if failures == PATIENCE:
                raise UserError(f"{PATIENCE} images in a row cannot be read, the last {printable(path)} in {root}: {reason}; "
                                f"see that the disk is there and the files may be read, and run the same command again.")
            if lasting:
                lines.append(json.dumps([path, size, mtime, reason]))
            done += 1
            if done % AT_A_TIME == 0:
                record.add(lines)
                lines = []
    except KeyboardInterrupt as error:
        raise UserError(f"stopped: {done} of {len(files)} images are checked; the same command goes on from there.") from error
    finally:
        record.add(lines)


def reason_against(path: str) -> tuple[str, bool]:
    """(why the file cannot be used or "", whether that is so for as long as the file does not change)."""
    try:
        decoded(path)
    except Refused as error:
        return why(error), True
    except OSError as error:
        return why(error), False
    return "", True


def stamp(root: Path, path: str) -> Stamp:
    try:
        about = os.stat(os.path.join(root, path))
    except (OSError, ValueError):
        return -1, -1
    return about.st_size, about.st_mtime_ns


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Iterator[Result]:
    """function(item) of each, in order, by several threads, with a progress bar if it takes longer."""
    def some(start: int) -> list[Result]:
        return [function(item) for item in items[start:start + AT_A_TIME]]

    with tqdm(total=len(items), unit="image", desc=what, delay=3, dynamic_ncols=True) as bar:
        for results in read_ahead(some, range(0, len(items), AT_A_TIME), THREADS):
            yield from results
            bar.update(len(results))


def tell(root: Path, refused: dict[str, str], total: int, record: Record) -> None:
    """Names the refused files on stderr."""
    lines = [f"{printable(path)}: {reason}" for path, reason in refused.items()]
    more = [f"and {len(lines) - TOLD} more{record.list_refused(lines)}"] if len(lines) > TOLD else []
    say("\n  ".join([f"{len(lines)} of the {total} images in {root} cannot be used and are left out:", *lines[:TOLD], *more]))


def say(text: str) -> None:
    """On stderr; of several processes that torchrun started, only the first does."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(text, file=sys.stderr)


class Record:
    """What is known of the files below a folder. Where it cannot be kept, that is told, and all goes on without it."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(f"{RULES} {root}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
        self.root, self.name = root, f"{root.name[:40]}-{digest}"
        self.file: FileIO | None = None  # open only while this process is alone with it

    def path(self, suffix: str = ".jsonl") -> Path:
        return cache_folder() / "checked" / f"{self.name}{suffix}"

    def load(self) -> Known:
        known: Known = {}
        with suppress(OSError, UserError), open(self.path(), encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, TypeError):
                    path, size, mtime, reason = json.loads(line)
                    known[path] = size, mtime, reason
        return known

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, lines can be added, and no other process adds any (where the file system has locks)."""
        with ExitStack() as stack:
            try:
                self.path().parent.mkdir(parents=True, exist_ok=True)
                self.file = stack.enter_context(open(self.path(), "ab", buffering=0))
                stack.enter_context(self.locked())
            except (OSError, UserError) as error:
                self.give_up(error)
            self.add([""])  # so that what follows a torn line is a line of its own
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            with suppress(OSError):
                stack.enter_context(locked(self.path(".lock"), f"checks the images in {self.root}"))
            yield

    def add(self, lines: list[str]) -> None:
        if self.file and lines:
            try:
                self.file.write("".join(f"{line}\n" for line in lines).encode())
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        self.file = None
        reason = error if isinstance(error, UserError) else why(error)
        say(f"what is found in {self.root} cannot be recorded ({reason}); the next command checks it again")

    def list_refused(self, lines: list[str]) -> str:
        """Where all of them are, as the end of a sentence."""
        try:
            with atomic_write(self.path(".refused.txt")) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            return f": all in {self.path('.refused.txt')}"
        except (UserError, OSError):  # OSError: a file system that is mounted read-only
            return ""
