"""The cache folder: released model files are found there, or downloaded into it, and are what they were when first used."""
from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.files import atomic_write

SOURCE = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"


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
    from noisy_clf.download import download  # only here: it takes a while to import

    path = cache_folder() / file
    try:
        download([f"{source()}/{quote(file)}"], path, hint=f", or set GUIDED_SAMPLE_MIRROR to the URL of a folder that has "
                                                           f"{file}, or GUIDED_SAMPLE_CACHE to a folder that has it")
    except OSError as error:
        raise UserError(f"{disk_trouble(error)[:-1]}; what is downloaded stays, and GUIDED_SAMPLE_CACHE may name another "
                        f"folder.") from error
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


def checked_digest(path: Path) -> str:
    """SHA-256 of a file in the cache: recorded beside it at first use, and from then on refused if another.

    The record, FILE.sha256, is one of the sha256sum tool's. A folder that cannot be written to does without it.
    """
    from noisy_clf.download import digest_of

    record, recorded = path.with_name(f"{path.name}.sha256"), None
    try:
        if record.exists():
            line = re.fullmatch(r"([0-9a-f]{64}) [ *](.*)\n?", record.read_text(encoding="utf-8", errors="replace"))
            if not line or line[2] != path.name:
                raise UserError(f"{record} is not the record of a SHA-256 of {path.name}; remove it to have it made anew.")
            recorded = line[1]
        found = digest_of(path, "sha256").removeprefix("sha256:")
    except OSError as error:
        raise UserError(disk_trouble(error, error.filename or path)) from error
    if recorded is None:
        with suppress(UserError, OSError):  # OSError: a file system that is mounted read-only
            with atomic_write(record) as temporary:
                temporary.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    elif found != recorded:
        raise UserError(f"{path} has the SHA-256 {found[:12]}..., but {recorded[:12]}... when it was first used; remove it "
                        f"to download it again, or {record.name} if the change is meant.")
    return found
