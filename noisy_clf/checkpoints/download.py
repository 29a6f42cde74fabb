"""Released model files, in a cache folder: found there, or downloaded into it by as many connections as it takes.

FILE is whole or not there. While it comes, FILE.part holds its first bytes and FILE.part.json says which version of the file
they are of, so that any later command goes on from them, and never adds to them what is another version's.
"""
from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.files import atomic_write, locked, read_json, write_json

SOURCE = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
PATIENCE = 5  # tries in a row that bring nothing
BACKOFF = 1.0  # seconds; doubles with each such try
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
VERSION = ("ETag", "Last-Modified")  # what tells one version of a file from another


class Broken(Exception):
    """A connection failed in a way that another try may mend."""


def cache_folder() -> Path:
    own, shared = os.environ.get("GUIDED_SAMPLE_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return (Path(own) if own else Path(shared) / "guided-sample").expanduser().absolute()
    except RuntimeError as error:
        raise UserError("there is no home folder to keep models in; set GUIDED_SAMPLE_CACHE to a folder.") from error


def cached(file: str) -> Path | None:
    path = cache_folder() / file
    return path if os.path.isfile(path) else None


def obtain(file: str) -> Path:
    """The file in the cache; it is downloaded, or what is missing of it, where it is not there."""
    if found := cached(file):
        return found
    path = cache_folder() / file
    part, url = path.with_name(f"{file}.part"), f"{source()}/{quote(file)}"
    lock = part.with_name(f"{part.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, f"downloads {file}"):
            if not cached(file):
                download(url, part, path)
            with suppress(OSError):  # whoever waits finds the file, with or without this lock
                os.unlink(lock)
    except KeyboardInterrupt as error:
        raise UserError(f"stopped: {what_is_there(part)}.") from error
    except OSError as error:
        raise UserError(f"{disk_trouble(error, part)[:-1]}; what is downloaded stays, and GUIDED_SAMPLE_CACHE may name "
                        f"another folder.") from error
    return path


def source() -> str:
    """The URL of the folder to download from."""
    mirror = os.environ.get("GUIDED_SAMPLE_MIRROR") or SOURCE
    try:
        url = urlsplit(mirror)
        usable = bool(url.scheme in ("http", "https") and url.hostname and url.port != 0)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", mirror) or set(mirror) & set("?#@"):
        raise UserError(f"GUIDED_SAMPLE_MIRROR is {mirror!r}, which is not a plain URL of a folder; give one such as "
                        f"https://host/folder, with http or https and without a query or a password.")
    return mirror.rstrip("/")


def download(url: str, part: Path, path: Path) -> None:
    """Connects again and again until `part` is whole, then names it `path`."""
    failures, furthest, first = 0, size_of(part), True
    while True:
        try:
            connect(url, part, path)
            break
        except Broken as error:
            failures = 0 if size_of(part) > furthest else failures + 1  # to begin anew for ever is no progress
            furthest = max(furthest, size_of(part))
            if failures == PATIENCE or first and isinstance(error.__cause__, URLError):  # no network: not worth a wait
                raise failure(url, error, part, path) from error
            time.sleep(BACKOFF * 2 ** failures)
            first = False
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    record_of(part).unlink(missing_ok=True)


def connect(url: str, part: Path, path: Path) -> None:
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
            raise failure(url, f"HTTP {error.code} {error.reason}", part, path) from error
        raise Broken(f"HTTP {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise Broken(getattr(error, "reason", error)) from error
    with response:
        receive(response, url, part, path, known if resuming else None)


def receive(response: HTTPResponse, url: str, part: Path, path: Path, resumed: dict[str, Any] | None) -> None:
    if response.headers.get_content_type() == "text/html":  # before anything of `part` is given up for it
        raise failure(url, "a web page came, not a model: perhaps that of a login or of a proxy", part, path)
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
    with open(part, "ab") as file, tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=path.name,
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
    if size_of(part) < (size or 1):
        raise Broken("the connection broke before the end")
    if size is not None and size_of(part) > size:
        part.unlink()
        raise Broken("more came than the file's announced size")


def failure(url: str, why: object, part: Path, path: Path) -> UserError:
    why = " ".join(str(why).split())  # a server's words, or a library's, may go over several lines
    there = f"; {what_is_there(part)}" if size_of(part) else ""
    return UserError(f"{url} could not be downloaded ({why}){there}; by hand: download it on another machine and put it at "
                     f"{path}, or set GUIDED_SAMPLE_MIRROR to the URL of a folder that has {path.name}, or "
                     f"GUIDED_SAMPLE_CACHE to a folder that has it.")


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


def checked_digest(path: Path) -> str:
    """SHA-256 of a file in the cache: recorded beside it at first use, and from then on refused if another.

    The record, FILE.sha256, is one of the sha256sum tool's. A folder that cannot be written to does without it.
    """
    record, recorded = path.with_name(f"{path.name}.sha256"), None
    digest = hashlib.sha256()
    try:
        if record.exists():
            line = re.fullmatch(r"([0-9a-f]{64}) [ *](.*)\n?", record.read_text(encoding="utf-8", errors="replace"))
            if not line or line[2] != path.name:
                raise UserError(f"{record} is not the record of a SHA-256 of {path.name}; remove it to have it made anew.")
            recorded = line[1]
        with open(path, "rb") as file, tqdm(total=size_of(path), unit="B", unit_scale=True, delay=3, leave=False,
                                            desc=f"checking {path.name}", dynamic_ncols=True) as bar:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise UserError(disk_trouble(error, error.filename or path)) from error
    found = digest.hexdigest()
    if recorded is None:
        with suppress(UserError, OSError):  # OSError: a file system that is mounted read-only
            with atomic_write(record) as temporary:
                temporary.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    elif found != recorded:
        raise UserError(f"{path} has the SHA-256 {found[:12]}..., but {recorded[:12]}... when it was first used; remove it "
                        f"to download it again, or {record.name} if the change is meant.")
    return found
