"""How long a run will take is told before its first step, and changes nothing."""
from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError
from noisy_clf.training import loop, pace
from noisy_clf.training.pace import duration, outlook, step_seconds
from noisy_clf.training.run import Run
from tests.noisy_clf.training.test_training import CONFIG, CPU, new_run, step_on, task


def test_it_is_told_before_the_first_step(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    def first_step(run: Run, *batch: object) -> None:
        raise UserError("stop here")
    monkeypatch.setattr(Run, "train_step", first_step)
    monkeypatch.setattr(pace, "step_seconds", lambda run: 90.0)
    with pytest.raises(UserError, match="stop here"):
        loop.train(task(few_digits), few_digits, CONFIG, Path("run"), CPU)
    assert "10 steps of 8 images: about 15 minutes on cpu" in capsys.readouterr().err


def test_days_come_with_a_hint(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(task(few_digits), replace(CONFIG, iterations=36_000), few_digits, Path("run"))
    monkeypatch.setattr(pace, "step_seconds", lambda run: 3.0)
    told = outlook(run)
    assert "about 30 hours" in told and "--iterations 9600 take 8.0 hours" in told and "GPU" in told
    run.step = 1
    assert "about 30 hours" in outlook(run) and "--iterations" not in outlook(run)  # a run that goes on keeps its options
    run.step = 0
    monkeypatch.setattr(pace, "step_seconds", lambda run: 0.3)
    assert "about 3.0 hours" in outlook(run) and "GPU" not in outlook(run)


def test_what_only_the_first_step_takes_is_not_counted(few_digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run, losses_of, warm = new_run(task(few_digits), CONFIG, few_digits, Path("run")), Run.losses_of, iter([1.2])
    monkeypatch.setattr(Run, "losses_of", lambda *given: time.sleep(next(warm, 0)) or losses_of(*given))
    assert 0 < step_seconds(run) < 1


def test_nothing_is_told_where_no_step_is_left(few_digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    done = replace(task(few_digits), validate=lambda network, processes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train(done, few_digits, replace(CONFIG, iterations=2, validate_every=2), Path("run"), CPU)
    assert "2 steps of 8 images" in capsys.readouterr().err
    loop.train(task(few_digits), few_digits, replace(CONFIG, iterations=2, validate_every=2), Path("run"), CPU)
    assert "steps of 8 images" not in capsys.readouterr().err


def test_measuring_changes_nothing(few_digits: Dataset) -> None:
    run = new_run(task(few_digits), replace(CONFIG, t_sampling="importance"), few_digits, Path("run"))
    step_on(run)
    before = copy.deepcopy(run.state())
    assert "9 steps of 8 images" in outlook(run)
    assert_equal(run.state(), before)
    assert all(p.grad is None for p in run.network.parameters())


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_equal(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("seconds, told", [(0.2, "a few seconds"), (70, "70 seconds"), (600, "10 minutes"), (8000, "2.2 hours"),
                                           (90_000, "25 hours"), (9e6, "104 days")])
def test_durations_are_told_in_words(seconds: float, told: str) -> None:
    assert duration(seconds) == told
