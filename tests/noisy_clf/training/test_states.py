"""A state that the disk has no room for, or the machine no memory; a log that is not whole."""
from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from noisy_clf.errors import UserError
from noisy_clf.training import states as subject
from noisy_clf.training.metrics_log import MetricsLog
from noisy_clf.training.states import states, take_newest, write_state
from tests.noisy_clf.test_files import FullDisk


def test_a_disk_that_fills_while_a_state_is_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buffered_on_a_full_disk(path: Path, mode: str) -> Any:
        builtins.open(path, mode).close()
        return io.BufferedWriter(FullDisk())

    write_state(tmp_path, {"step": 1, "weight": torch.zeros(3)}, keep=2)
    before = states(tmp_path)[0].read_bytes()
    monkeypatch.setattr(subject, "open", buffered_on_a_full_disk, raising=False)
    with pytest.raises(UserError, match=r"the disk is full: .*states/step-0000002.pt could not be written; free some"):
        write_state(tmp_path, {"step": 2, "weight": torch.zeros(10_000)}, keep=2)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-0000001.pt"]
    assert states(tmp_path)[0].read_bytes() == before


@pytest.mark.parametrize("trouble", [lambda: torch.empty(10 ** 15), lambda: bytearray(10 ** 17)], ids=["torch", "Python"])
def test_too_little_memory_says_nothing_against_a_state(trouble: Any, tmp_path: Path) -> None:
    write_state(tmp_path, {"step": 1}, keep=2)
    with pytest.raises((RuntimeError, MemoryError)):
        take_newest(tmp_path, lambda state: trouble(), talk=True)


@pytest.mark.parametrize("line", ["[" * 100_000, "[1]", "{}", '{"step": "3"}', '{"step": null}', "3", '{"step": 1', "\udcff"])
def test_a_line_of_the_log_that_is_none_of_ours_is_dropped(line: str, tmp_path: Path) -> None:
    path, ours = tmp_path / "metrics.jsonl", json.dumps({"step": 1})
    path.write_text(f"{ours}\n{line}\n", errors="surrogateescape")
    MetricsLog(path, 1, tensorboard=False)
    assert path.read_text() == f"{ours}\n"
