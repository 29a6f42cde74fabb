from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noisy_clf.datasets import checked
from noisy_clf.datasets.checked import Record, refused_files
from noisy_clf.datasets.image_files import decoded
from noisy_clf.errors import UserError

PATHS = [f"{i:03}.png" for i in range(100)]
BAD = {"007.png": "it is empty", "050.png": "it is not a whole picture in JPEG, PNG, GIF, BMP, WEBP, TIFF or PPM format"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hundred files, two of them bad."""
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked, "AT_A_TIME", 8)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (2, 2)).save(folder / PATHS[0])
    for path in PATHS[1:]:
        (folder / path).write_bytes((folder / PATHS[0]).read_bytes())
    (folder / "007.png").write_bytes(b"")
    (folder / "050.png").write_bytes(b"text")
    return folder


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded since it was last emptied."""
    names: list[str] = []

    def remember(path: str) -> Image.Image:
        names.append(os.path.basename(path))
        return decoded(path)

    monkeypatch.setattr(checked, "decoded", remember)
    return names


def record(root: Path) -> Path:
    return Record(root).path()


def test_each_file_is_decoded_once(root: Path, looked_at: list[str]) -> None:
    assert refused_files(root, PATHS) == BAD
    assert sorted(looked_at) == PATHS
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD and not looked_at
    assert refused_files(root, PATHS[:40]) == {"007.png": BAD["007.png"]} and not looked_at


def test_new_and_changed_files_are_checked_again(root: Path, looked_at: list[str]) -> None:
    refused_files(root, PATHS)
    looked_at.clear()
    good = (root / PATHS[0]).read_bytes()
    (root / "007.png").write_bytes(good)
    (root / "new.png").write_bytes(b"")
    (root / "008.png").write_bytes(good[:-30] + bytes(30))  # of the same size
    os.utime(root / "009.png", (1, 1))
    (root / "010.png").unlink()
    refused = refused_files(root, [*PATHS, "new.png"])
    assert sorted(looked_at) == ["007.png", "008.png", "009.png", "010.png", "new.png"]
    assert sorted(refused) == ["008.png", "010.png", "050.png", "new.png"]
    assert refused["010.png"] == "No such file or directory"


def test_a_check_that_is_interrupted_goes_on_where_it_was(
        root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = checked.in_threads

    def interrupted(*arguments: Any) -> Any:
        for i, result in enumerate(known(*arguments)):
            if i == 60 and isinstance(result[0], str):  # of the check, not of the looking for changes
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(checked, "in_threads", interrupted)
    with pytest.raises(UserError, match="stopped: 60 of 100 images are checked; the same command goes on from there"):
        refused_files(root, PATHS)
    monkeypatch.setattr(checked, "in_threads", known)
    time.sleep(0.1)  # until its threads have ended
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD
    assert sorted(looked_at) == PATHS[60:]


@pytest.mark.parametrize("kept", [0, 1, 30, -1, -2])
def test_a_torn_record_is_gone_on_from(root: Path, looked_at: list[str], kept: int) -> None:
    refused_files(root, PATHS)
    lines = record(root).read_bytes().splitlines(keepends=True)
    torn = b"".join(lines)[:kept]
    record(root).write_bytes(torn + b'["0')
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD
    assert len(looked_at) <= 100 - torn.count(b"\n") + 1
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD and not looked_at


@pytest.mark.parametrize("line", [b"\0" * 100, b"7", b'[["a"], 1, 2, ""]', b'{"a": 1}', b"\xff\xfe", b"null", b'["a", 1]'])
def test_whatever_else_stands_in_a_record_is_passed_over(root: Path, looked_at: list[str], line: bytes) -> None:
    refused_files(root, PATHS)
    record(root).write_bytes(line + b"\n" + record(root).read_bytes() + line)
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD and not looked_at


def test_a_record_has_the_name_size_and_time_of_each_file(root: Path) -> None:
    refused_files(root, PATHS)
    lines = [json.loads(line) for line in record(root).read_text().splitlines() if line]
    stats = [os.stat(root / path) for path in PATHS]
    assert lines == [[path, about.st_size, about.st_mtime_ns, BAD.get(path, "")] for path, about in zip(PATHS, stats)]


def test_odd_names_are_remembered(root: Path, looked_at: list[str]) -> None:
    names = ["new\nline.png", os.fsdecode(b"\xff\xfe.png"), "漢 \"🙂\".png", "n" * 251 + ".png"]
    for name in names:
        (root / name).write_bytes((root / PATHS[0]).read_bytes())
    for _ in range(2):
        assert refused_files(root, names) == {}
    assert sorted(looked_at) == sorted(names)


def test_folders_of_one_name_have_records_of_their_own(tmp_path: Path) -> None:
    assert record(tmp_path / "a" / "x") != record(tmp_path / "b" / "x")
    assert len(record(tmp_path / ("x" * 255)).name) < 100


@pytest.mark.parametrize("cache", ["file", "file/below", "/dev/null", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_told_and_done_without(
        root: Path, cache: str, looked_at: list[str], monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", cache)
    for _ in range(2):
        assert refused_files(root, PATHS) == BAD
    assert len(looked_at) == 200
    told = capfd.readouterr().err
    assert told.count(f"what is found in {root} cannot be recorded (") == 2 and "checks it again" in told


def test_no_home_is_told_and_done_without(
        root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def nowhere() -> Path:
        raise UserError("there is no home folder.")

    monkeypatch.setattr(checked, "cache_folder", nowhere)
    assert refused_files(root, PATHS) == BAD
    assert "cannot be recorded (there is no home folder.)" in capfd.readouterr().err


def test_a_disk_that_fills_up_is_told_once_and_what_was_recorded_stands(
        root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Filling:
        def __init__(self, *arguments: Any, **more: Any) -> None:
            self.file, self.left = open(*arguments, **more), 1500

        def __enter__(self) -> Filling:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[:self.left])
            self.left -= len(content)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checked, "open", lambda *a, **b: (Filling if "ab" in a else open)(*a, **b), raising=False)
        assert refused_files(root, PATHS) == BAD
    assert capfd.readouterr().err.count("cannot be recorded (No space left on device)") == 1
    looked_at.clear()
    assert refused_files(root, PATHS) == BAD
    assert 50 < len(looked_at) < 90


def test_what_may_pass_is_not_recorded(root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str) -> Image.Image:
        if path.endswith("9.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return decoded(path)

    with monkeypatch.context() as patched:
        patched.setattr(checked, "decoded", failing)
        assert refused_files(root, PATHS) == BAD | {f"0{i}9.png": "Permission denied" for i in range(10)}
    assert refused_files(root, PATHS) == BAD
    assert sorted(looked_at) == [f"0{i}9.png" for i in range(10)]


def test_a_disk_that_is_gone_ends_the_check_and_what_was_found_stands(
        root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str) -> Image.Image:
        if path.endswith(".png") and os.path.basename(path) >= "030":
            raise OSError(errno.EIO, "Input/output error")
        return decoded(path)

    with monkeypatch.context() as patched:
        patched.setattr(checked, "decoded", failing)
        with pytest.raises(UserError, match="20 images in a row cannot be read, the last 049.png in .*: Input/output error"):
            refused_files(root, PATHS)
    assert refused_files(root, PATHS) == BAD
    assert sorted(looked_at) == PATHS[30:]


def test_none_that_can_be_used_is_an_error(root: Path) -> None:
    with pytest.raises(UserError, match=f"none of the 2 images in {root} can be used"):
        refused_files(root, list(BAD))


@pytest.mark.parametrize("count", [10, 11, 13])
def test_the_first_ten_refused_are_named_and_the_rest_listed(
        root: Path, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    for path in PATHS[60:60 + count]:
        (root / path).write_bytes(b"")
    refused_files(root, PATHS[60:])
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("  ", str(count)))]
    names = [f"{path}: it is empty" for path in PATHS[60:60 + count]]
    assert told[0] == f"{count} of the 40 images in {root} cannot be used and are left out:"
    assert told[1:11] == [f"  {name}" for name in names[:10]]
    listed = record(root).with_suffix(".refused.txt")
    assert told[11:] == ([f"  and {count - 10} more: all in {listed}"] if count > 10 else [])
    assert listed.exists() == (count > 10) and (count == 10 or listed.read_text().splitlines() == names)


def test_of_processes_that_train_as_one_only_the_first_talks(
        root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    assert refused_files(root, PATHS) == BAD
    assert "cannot be used" not in capfd.readouterr().err


def test_of_several_at_once_one_checks_and_the_others_wait(
        root: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    check = checked.check

    def slow(*arguments: Any) -> None:
        time.sleep(0.3)  # so that all have come
        check(*arguments)

    monkeypatch.setattr(checked, "check", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: refused_files(root, PATHS), range(4))) == [BAD] * 4
    assert Counter(looked_at) == Counter(PATHS)
    assert capfd.readouterr().err.count(f"waiting for another process that checks the images in {root}") == 3
