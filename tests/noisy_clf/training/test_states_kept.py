"""Models of every N-th step that stay beside the last few states, and what a stop does to them."""
from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from noisy_clf import files
from noisy_clf.checkpoints.run_folder import averages, kept_model, states
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.loop import kept_ahead, train
from noisy_clf.training.run import Run
from tests.commands import assert_refused, invoke
from tests.noisy_clf.conftest import snapshot
from tests.noisy_clf.training.test_training import Killed, outcome, task

CONFIG = TrainingConfig(iterations=6, batch_size=4, lr=1e-2, ema=0.5, seed=3, validate_every=4, save_every=2)
EVERY_3 = Execution(keep_every=3)  # beside a saved state, at step 6, and between two


def start(data: Dataset, folder: Path, execution: Execution = EVERY_3) -> None:
    train(task(data, CONFIG), data, CONFIG, folder, execution)


def kept(folder: Path) -> dict[str, bytes]:
    return snapshot(folder / "kept")


@pytest.fixture(scope="module")
def whole(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    start(few_digits, folder)
    return folder


def test_the_average_of_every_nth_step_stays_beside_the_last_states_and_changes_nothing_else(
        few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, step = {}, Run.train_step

    def recorded(run: Run, images: torch.Tensor, y: torch.Tensor) -> None:
        step(run, images, y)
        seen[run.step] = {name: tensor.clone() for name, tensor in run.average.state_dict().items()}

    monkeypatch.setattr(Run, "train_step", recorded)
    start(few_digits, tmp_path / "two", replace(EVERY_3, keep_every=2, keep=1))
    assert [path.name for path in states(tmp_path / "two")] == ["step-0000006.pt"]
    assert sorted(kept(tmp_path / "two")) == [f"step-000000{step}.safetensors" for step in (2, 4, 6)]
    for n in (2, 4, 6):
        tensors = load_file(kept_model(tmp_path / "two", n))
        assert tensors.keys() == seen[n].keys() and all(torch.equal(tensors[name], seen[n][name]) for name in tensors)
    start(few_digits, tmp_path / "none", Execution())
    assert outcome(tmp_path / "two") == outcome(tmp_path / "none") and not (tmp_path / "none" / "kept").exists()


def test_a_death_at_any_write_loses_no_kept_model(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died_at(limit: int) -> bool:
        count = 0

        def replace_or_die(source: Path, target: Path) -> None:
            nonlocal count
            if count == limit:
                raise Killed
            count += 1
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", replace_or_die)
            try:
                start(few_digits, tmp_path / str(limit))
            except Killed:
                return True
        return False

    assert sorted(kept(whole)) == ["step-0000003.safetensors", "step-0000006.safetensors"]
    limit = 0
    while died_at(limit):
        start(few_digits, tmp_path / str(limit))
        assert kept(tmp_path / str(limit)) == kept(whole) and outcome(tmp_path / str(limit)) == outcome(whole)
        limit += 1
    assert limit >= 12  # options, metrics, 4 states, 2 kept models, 2 configurations, 2 last models


def test_a_run_goes_on_from_states_alone_and_may_begin_to_keep_later(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "validate", lambda run: (_ for _ in ()).throw(Killed))  # at step 4
        start(few_digits, tmp_path, Execution())
    kept_model(tmp_path, 5).parent.mkdir()
    kept_model(tmp_path, 5).write_bytes(b"no model")
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)
    assert kept(tmp_path) == {"step-0000005.safetensors": b"no model",
                              "step-0000006.safetensors": kept(whole)["step-0000006.safetensors"]}


def test_of_a_step_that_is_kept_twice_the_file_that_stays_is_taken(whole: Path) -> None:
    assert averages(whole) == {3: kept_model(whole, 3), 4: whole / "states/step-0000004.pt", 6: kept_model(whole, 6)}
    assert list(averages(whole)) == [3, 4, 6]


def test_a_disk_that_fills_leaves_no_half_model_and_the_run_goes_on(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.parent.name != "kept":
            return write(path, content)
        write(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="the disk is full: .*kept/step-0000003.safetensors could not be written; free"):
            start(few_digits, tmp_path)
    assert kept(tmp_path) == {}
    start(few_digits, tmp_path)
    assert kept(tmp_path) == kept(whole)


def test_weights_of_a_loss_that_is_no_number_are_not_kept(
        few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisy_clf.training.loop.outlook", lambda run: "")  # which takes losses, too
    right = task(few_digits, CONFIG)
    steps = iter(range(100))
    broken = replace(right, loss=lambda *given: right.loss(*given) * (math.nan if next(steps) == 2 else 1))
    with pytest.raises(UserError, match="the loss became nan at step 2"):
        train(broken, few_digits, CONFIG, tmp_path, EVERY_3)
    assert not (tmp_path / "kept").exists()


def test_the_disk_that_they_will_take_is_told_and_what_would_keep_nothing_refused(
        few_digits: Dataset, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Any = Run(task(few_digits, CONFIG), CONFIG, few_digits, tmp_path, EVERY_3)
    megabytes = sum(map(len, kept(whole).values())) / 1e6
    assert kept_ahead(run) == f" {tmp_path / 'kept'} will hold 2 models more, {megabytes:.1f} MB."
    run.step = 3
    assert "will hold 1 models more" in kept_ahead(run)
    assert kept_ahead(Run(task(few_digits, CONFIG), CONFIG, few_digits, tmp_path, Execution())) == ""
    start(few_digits, tmp_path / "told")
    assert f"{tmp_path / 'told' / 'kept'} will hold 2 models more" in capsys.readouterr().err
    with pytest.raises(UserError, match="keep-every 7 keeps nothing of a run of 6 iterations; give --keep-every 6 or less"):
        start(few_digits, tmp_path / "refused", replace(EVERY_3, keep_every=7))
    with pytest.raises(UserError, match="keep-every must be at least 0, not -1"):
        Execution(keep_every=-1)
    assert_refused(invoke(train_noisy_clf, "--keep-every", 0), "0 is not in the range")
