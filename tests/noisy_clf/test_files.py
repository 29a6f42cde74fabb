from __future__ import annotations

import errno
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from noisy_clf import files
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write, claim_folder, defaults_of, differences, read_json, read_table, versions, write_json
from tests.noisy_clf.conftest import snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("old")
    return tmp_path / "file"


@pytest.mark.parametrize("name", ["file", "new", "a/b/new"])
def test_a_whole_write_replaces_the_file_or_makes_it_with_its_folder(path: Path, name: str) -> None:
    target = path.parent / name
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert snapshot(path.parent) == {"file": b"old", name: b"new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")], ids=repr)
def test_a_write_that_fails_half_way_leaves_the_old_file_alone(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        with atomic_write(path) as temporary:
            temporary.write_text("ne")
            raise error
    assert snapshot(path.parent) == {"file": b"old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_to_do(path: Path, number: int) -> None:
    with pytest.raises(UserError, match="the disk is full: .*/file could not be written; free some space and run the same"):
        with atomic_write(path) as temporary:
            temporary.write_text("ne")
            raise OSError(number, "No space")
    assert snapshot(path.parent) == {"file": b"old"}


def test_a_really_full_disk_is_told_too(path: Path) -> None:
    (path.parent / ".file.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full: .*/file could not be written"):
        with atomic_write(path) as temporary:
            temporary.write_text("new")
    assert snapshot(path.parent) == {"file": b"old"}


def test_another_trouble_is_told_with_the_files_name(path: Path) -> None:
    with pytest.raises(UserError, match="/file: Permission denied"):
        with atomic_write(path):
            raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_where_a_folder_is_wanted_is_told_by_its_name(path: Path) -> None:
    with pytest.raises(UserError, match="/file"):
        write_json(path / "options.json", {})


@pytest.mark.parametrize("text, sentence", [("{", "cannot be read as JSON"), ("[1]", "is not a JSON object")])
def test_json_that_is_none_is_refused(path: Path, text: str, sentence: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match=f"/file {sentence}"):
        read_json(path)


def test_differences_name_each_setting_that_differs() -> None:
    old, new = {"lr": 0.1, "a": {"b": [1], "c": 2}, "gone": 1}, {"lr": 0.2, "a": {"b": [1], "c": 3}, "seed": 0}
    assert differences(old, new) == [
        "lr 0.1 there, 0.2 now", "a.c 2 there, 3 now", "gone 1 there, None now", "seed None there, 0 now"]
    assert differences(old, json.loads(json.dumps(old))) == []


def test_a_folder_is_claimed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "options.json"
    claim_folder(record, {"seed": 0, "mult": (1, 2)})
    assert json.loads(record.read_text()) == {"options": {"seed": 0, "mult": [1, 2]}, "versions": versions()}
    before = snapshot(tmp_path)
    monkeypatch.setattr(files, "versions", lambda: {"torch": "0"})  # another version may go on
    claim_folder(record, {"seed": 0, "mult": (1, 2)})
    with pytest.raises(UserError, match=r"holds another run's results \(seed 0 there, 1 now\); choose another --out"):
        claim_folder(record, {"seed": 1, "mult": (1, 2)})
    assert snapshot(tmp_path) == before


def test_what_a_record_lacks_counts_as_its_default(tmp_path: Path) -> None:
    record, defaults = tmp_path / "options.json", {"mult": (1, 2), "net": {"pool": "mean", "depth": 1}}
    claim_folder(record, {"seed": 0, "net": {"width": 3}})
    claim_folder(record, {"seed": 0, "net": {"width": 3, "pool": "mean"}, "mult": (1, 2)}, defaults)
    with pytest.raises(UserError, match=r"another run's results \(net.pool 'mean' there, 'max' now\)"):
        claim_folder(record, {"seed": 0, "net": {"width": 3, "pool": "max"}}, defaults)
    with pytest.raises(UserError, match=r"another run's results \(net.act None there, 'relu' now\)"):
        claim_folder(record, {"seed": 0, "net": {"width": 3, "act": "relu"}}, defaults)


@pytest.mark.parametrize("newer, told", [
    ({"seed": 0, "warm": None, "net": {"width": 3}}, "warm"), ({"seed": 0, "net": {"width": 3, "act": "relu"}}, "net.act"),
    ({"seed": 0, "a": 1, "net": {"width": 3, "b": {"c": 1}}}, "a, net.b")])
def test_what_only_a_newer_version_knows_is_named(tmp_path: Path, newer: dict[str, object], told: str) -> None:
    claim_folder(tmp_path / "options.json", newer)
    with pytest.raises(UserError, match=f"options.json was made by a newer version: it has the setting {told}, which"):
        claim_folder(tmp_path / "options.json", {"seed": 0, "net": {"width": 3}})


def test_renamed_options_are_the_same_options(tmp_path: Path) -> None:
    claim_folder(tmp_path / "options.json", {"clip": True, "net": {"size": 3}})
    claim_folder(tmp_path / "options.json", {"threshold": True, "net": {"width": 3}},
                 renamed={"clip": "threshold", "net.size": "net.width", "gone.key": "gone.name"})


@dataclass
class Settings:
    width: int
    mult: tuple[int, ...] = (1, 2)
    pool: str | None = None


def test_defaults_are_those_of_the_fields_that_have_one() -> None:
    assert defaults_of(Settings) == {"mult": (1, 2), "pool": None}


DEEP = {"lists": "[" * 100_000 + "]" * 100_000, "objects": '{"a":' * 90 + "1" + "}" * 90, "torn": '{"a":' * 100_000,
        "in an object": '{"kind": ' + "[" * 400 + "]" * 400 + "}"}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_json_that_is_nested_too_deeply_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match="/file cannot be read as JSON .*too deeply"):
        read_json(path)
    with pytest.raises(UserError, match=r"cannot be read as JSON \(it is nested too deeply\); write it like this: {}, or"):
        read_table(path.rename(path.with_suffix(".json")), "", "{}")


DOTTED = ".".join("a" * 400)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, f"{DOTTED} = 1", f"[{DOTTED}]"])
def test_toml_that_is_nested_too_deeply_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match=r"cannot be read as TOML \(.*\); write it like this: a = 1, or"):
        read_table(path, "a = 1", "{}")


def test_a_record_that_cannot_be_read_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"options": ')
    with pytest.raises(UserError, match=r"cannot be read as JSON \(.*\); choose another --out, or remove that folder\."):
        claim_folder(tmp_path / "options.json", {"seed": 0})


class FullDisk(io.RawIOBase):
    """A file on a disk with little left. What is written through a buffer fails later, behind another's back."""

    def __init__(self) -> None:
        self.left = 10_000

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(content)


def test_torch_tells_of_a_full_disk_as_of_something_else_and_it_is_told_all_the_same(path: Path) -> None:
    with pytest.raises(RuntimeError, match="unexpected pos"):
        torch.save({"weight": torch.zeros(10_000)}, io.BufferedWriter(FullDisk()))
    with pytest.raises(UserError, match="the disk is full: .*/file could not be written; free some space and run the same"):
        with atomic_write(path) as temporary:
            temporary.touch()
            torch.save({"weight": torch.zeros(10_000)}, io.BufferedWriter(FullDisk()))
    assert snapshot(path.parent) == {"file": b"old"}
