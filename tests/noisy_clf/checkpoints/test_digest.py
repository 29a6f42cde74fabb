"""The SHA-256 of a cached file: recorded at first use, then checked."""
from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noisy_clf.errors import UserError
from noisy_clf.checkpoints import cache as subject
from noisy_clf.checkpoints.cache import checked_digest, obtain
from tests.noisy_clf.conftest import snapshot
from tests.noisy_clf.checkpoints.mirror import FILE, OTHER, Bar, refused


@pytest.fixture
def stored(cache: Path) -> Path:
    cache.mkdir()
    (cache / FILE).write_bytes(OTHER * 8)  # more than one piece
    return cache / FILE


DIGEST = hashlib.sha256(OTHER * 8).hexdigest()


def test_a_digest_is_recorded_as_sha256sum_does(stored: Path) -> None:
    assert checked_digest(stored) == DIGEST
    assert snapshot(stored.parent) == {FILE: OTHER * 8, f"{FILE}.sha256": f"{DIGEST}  {FILE}\n".encode()}
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "-c", "--status", f"{FILE}.sha256"], cwd=stored.parent, check=True)


@pytest.mark.parametrize("record", [f"{DIGEST}  {FILE}\n", f"{DIGEST} *{FILE}", f"{DIGEST}  {FILE}\r\n"], ids=repr)
def test_a_recorded_digest_is_checked_and_left_alone(record: str, stored: Path) -> None:
    written = stored.with_name(f"{FILE}.sha256")
    written.write_bytes(record.encode())
    assert checked_digest(stored) == DIGEST and written.read_bytes() == record.encode()


def test_a_changed_file_is_refused_until_one_of_the_two_is_removed(stored: Path) -> None:
    checked_digest(stored)
    changed = OTHER * 8 + b"\0"
    stored.write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    for _ in range(2):
        with refused(stored, digest[:12], DIGEST[:12], "remove it to download it again",
                     f"{FILE}.sha256 if the change is meant"):
            checked_digest(stored)
    stored.with_name(f"{FILE}.sha256").unlink()
    assert checked_digest(stored) == digest == checked_digest(stored)


@pytest.mark.parametrize("record", [
    "", "\n", DIGEST, f"{DIGEST[:-1]}  {FILE}\n", f"{DIGEST}0  {FILE}\n", f"{DIGEST}  other.pt\n", f"{'g' * 64}  {FILE}\n",
    2 * f"{DIGEST}  {FILE}\n", "\udcff"], ids=repr)
def test_a_damaged_record_is_refused(record: str, stored: Path) -> None:
    stored.with_name(f"{FILE}.sha256").write_bytes(record.encode(errors="surrogateescape"))
    with refused(stored.with_name(f"{FILE}.sha256"), "remove it"):
        checked_digest(stored)


@pytest.mark.parametrize("error", [UserError("No."), OSError(errno.EROFS, "Read-only file system")], ids=repr)
def test_a_cache_that_takes_no_record_is_usable(error: Exception, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def read_only(path: Path) -> Iterator[Path]:
        raise error
        yield path

    monkeypatch.setattr(subject, "atomic_write", read_only)
    assert checked_digest(stored) == DIGEST
    assert obtain(FILE) == stored and list(snapshot(stored.parent)) == [FILE]


def test_a_missing_file_has_no_digest(cache: Path) -> None:
    with refused(cache / FILE, "No such file"):
        checked_digest(cache / FILE)


def test_hashing_shows_a_bar_only_where_it_takes_long(stored: Path, capsys: pytest.CaptureFixture[str], bar: type[Bar]) -> None:
    checked_digest(stored)
    assert capsys.readouterr().err == "" and [(made["total"], made["delay"]) for made in bar.made] == [(len(OTHER) * 8, 3)]
