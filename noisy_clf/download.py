"""Files from the network, each downloaded to its place by as many connections as it takes.

FILE is whole or not there. While it comes, FILE.part holds its first bytes and FILE.part.json says which version of the file
they are of, so that any later command goes on from them, and never adds to them what is another version's.
"""
from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from noisy_clf.errors import UserError
from noisy_clf.files import locked, read_json, write_json

PATIENCE = 5  # tries in a row that bring nothing
BACKOFF = 1.0  # seconds; doubles with each such try
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
MINUTE, LEAST = 60.0, 64 << 10  # seconds in which so many bytes must come, or the server is given up
VERSION = ("ETag", "Last-Modified")  # what tells one version of a file from another


class Broken(Exception):
    """A connection failed in a way that another try may mend."""


class Failed(Exception):
    """A URL does not give the file; the message says why."""


class Pace:
    """Sees that bytes come at a rate that leads somewhere, over as many connections as it takes."""

    def __init__(self) -> None:
        self.came, self.since = 0, monotonic()

    def see(self, came: int) -> None:
        """Failed where so many more, and those before, are too few for the time that they took."""
        self.came, now = self.came + came, monotonic()
        if self.came >= LEAST:
            self.came, self.since = 0, now
        elif now - self.since > MINUTE:
            raise Failed(f"only {tqdm.format_sizeof(self.came, 'B')} came in {now - self.since:.0f} seconds, so that it would "
                         f"never end; try again later, or from another network")


def download(urls: Sequence[str], path: Path, digest: str | None = None, name: str | None = None, hint: str = "") -> None:
    """Puts a file at `path`, from the first of the URLs that gives it, unless it is there.

    digest  what it must hash to, such as "md5:0123..."; a file at `path` that does not is replaced
    name    what to call it where no URL gives it; default: the first URL
    hint    what else can be done then, after "download it on another machine and put it at PATH"

    Of several processes that want it one downloads, and the others wait. UserError if no URL gives it, and on Ctrl-C; OSError,
    with the file's name, if the disk fails.
    """
    if is_there(path, digest):
        return
    part = path.with_name(f"{path.name}.part")
    lock = part.with_name(f"{part.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, f"downloads {path.name}"):
            if not is_there(path, digest):
                from_any(urls, part, digest)
                os.replace(part, path)
                record_of(part).unlink(missing_ok=True)
            with suppress(OSError):  # whoever waits finds the file, with or without this lock
                os.unlink(lock)
    except Failed as error:
        there = f"; {what_is_there(part)}" if size_of(part) else ""
        raise UserError(f"{name or urls[0]} could not be downloaded ({error}){there}; by hand: download "
                        f"{urls[0] if name else 'it'} on another machine and put it at {path}{hint}.") from error
    except KeyboardInterrupt as error:
        raise UserError(f"stopped: {what_is_there(part)}.") from error
    except OSError as error:
        error.filename = error.filename or str(part)
        raise


def is_there(path: Path, digest: str | None) -> bool:
    return os.path.isfile(path) and (digest is None or digest_of(path, digest.partition(":")[0]) == digest)


def digest_of(path: Path, algorithm: str) -> str:
    """Of a file, such as "sha256:0123...". OSError if it cannot be read."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file, tqdm(total=size_of(path), unit="B", unit_scale=True, delay=3, leave=False,
                                        desc=f"checking {path.name}", dynamic_ncols=True) as bar:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return f"{algorithm}:{digest.hexdigest()}"


def from_any(urls: Sequence[str], part: Path, digest: str | None) -> None:
    """Makes `part` whole, and sees that it is on the disk. Failed, with all reasons, if no URL gives it."""
    reasons = []
    for url in urls:
        try:
            from_one(url, part, PATIENCE if url == urls[-1] else 1)
            if digest and (found := digest_of(part, digest.partition(":")[0])) != digest:
                part.unlink()
                raise Failed(f"{url} gives a corrupted or another file, of {found}, not {digest}")
            with open(part, "rb") as file:
                return os.fsync(file.fileno())
        except Failed as error:
            reasons.append(" ".join(str(error).split()).rstrip("."))  # a server's words may go over several lines
    raise Failed("; ".join(dict.fromkeys(reasons)))


def from_one(url: str, part: Path, patience: int) -> None:
    """Connects again and again until `part` is whole. Failed after so many tries in a row that bring nothing."""
    failures, furthest, first, pace = 0, size_of(part), True, Pace()
    while True:
        try:
            return connect(url, part, pace)
        except Broken as error:
            failures = 0 if size_of(part) > furthest else failures + 1  # to begin anew for ever is no progress
            furthest = max(furthest, size_of(part))
            if failures == patience or first and isinstance(error.__cause__, URLError):  # no network: not worth a wait
                raise Failed(error) from error
            pace.see(0)
            time.sleep(BACKOFF * 2 ** failures)
            first = False


def connect(url: str, part: Path, pace: Pace) -> None:
    """One connection. Adds what it brings to `part`, and returns when that is whole."""
    known, have = remembered(part), size_of(part)
    if have and have == known.get("size"):  # stopped between the last byte and the new name
        return
    version = certain_version(known)
    resuming = bool(have and version and have < (known.get("size") or have + 1))
    try:
        response = urlopen(Request(url, headers={"User-Agent": "guided-sample"} | (
            {"Range": f"bytes={have}-", "If-Range": version} if version and resuming else {})), timeout=SILENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing follows our bytes at the server: they are not the beginning of its file
            part.unlink(missing_ok=True)
        elif error.code < 500 and error.code not in (408, 425, 429):
            raise Failed(f"HTTP {error.code} {error.reason}") from error
        raise Broken(f"HTTP {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise Broken(getattr(error, "reason", error)) from error
    with response:
        receive(response, part, known if resuming else None, pace)


def receive(response: HTTPResponse, part: Path, resumed: dict[str, Any] | None, pace: Pace) -> None:
    if response.headers.get_content_type() == "text/html":  # before anything of `part` is given up for it
        raise Failed("a web page came, not a file: perhaps that of a login or of a proxy")
    have = size_of(part)
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if resumed is None or not sent or int(sent[1]) != have or resumed.get("size") not in (None, int(sent[2])) or any(
                name in resumed and response.headers.get(name, resumed[name]) != resumed[name] for name in VERSION):
            part.unlink(missing_ok=True)
            raise Broken("the server sent another part or another version of the file than was asked for")
        size: int | None = int(sent[2])
    else:
        have, size = 0, response.length
        open(part, "wb").close()  # first: no other version's bytes are ever under this one's name
        tags = {name: response.headers[name] for name in VERSION if name in response.headers}
        write_json(record_of(part), {"size": size} | tags)
    with open(part, "ab") as file, tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem,
                                        dynamic_ncols=True) as bar:
        while True:
            try:
                chunk = response.read1(1 << 18)  # at once what has come: none of it is lost when the rest does not come
            except (OSError, HTTPException) as error:
                raise Broken(f"the connection broke: {error!r}") from error
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
            pace.see(len(chunk))
    if size_of(part) < (size or 1):
        raise Broken("the connection broke before the end")
    if size is not None and size_of(part) > size:
        part.unlink()
        raise Broken("more came than the file's announced size")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def record_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def remembered(part: Path) -> dict[str, Any]:
    """Size, where known, and version of the file that `part` is the beginning of; {} where that cannot be told."""
    try:
        known = read_json(record_of(part))
    except UserError:
        return {}
    return {name: value for name, value in known.items() if name == "size" and isinstance(value, int)
            or name in VERSION and isinstance(value, str) and value.isascii() and value.isprintable()}


def certain_version(known: dict[str, Any]) -> str | None:
    """What If-Range may name: not a weak ETag, which does not promise the same bytes."""
    return next((known[name] for name in VERSION if known.get(name) and not known[name].startswith("W/")), None)


def what_is_there(part: Path) -> str:
    known = remembered(part)
    of = f" of {tqdm.format_sizeof(known['size'], 'B')}" if known.get("size") else ""
    then = "goes on from there" if certain_version(known) else "begins anew, as the server does not tell versions apart"
    return f"{tqdm.format_sizeof(size_of(part), 'B')}{of} are in {part}, and the same command {then}"
