"""A batch that does not fit into memory is halved and told, and its images are what they were, but for rounding."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guided_sample.plan import Plan
from tests.commands import assert_refused, run

COMMAND = ["--model", "digits", "--class", "3", "--class", "8", "--num-samples", 13, "--batch-size", 8, "--no-check", "--steps",
           "6"]


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch):
    """So many chains fit at once, from the third step on; what was tried is listed."""
    tried: list[int] = []

    def limited(most: int, error: BaseException) -> list[int]:
        model = Plan.model

        def tight(self: Plan, indices: Any, small: Any = None) -> Any:
            inner, passes = model(self, indices, small), []
            tried.append(len(indices))

            def failing(x_t: torch.Tensor, step: Any) -> Any:
                passes.append(step)
                if len(passes) > 2 and len(x_t) > most:
                    raise error
                return inner(x_t, step)
            return failing
        monkeypatch.setattr(Plan, "model", tight)
        return tried
    return limited


def assert_same_images(one: str, other: str) -> None:
    """By a grey level, of one pixel in a thousand at most: kernels for another size of batch round otherwise."""
    a, b = (np.load(f"{folder}/samples.npz")["arr_0"].astype(int) for folder in (one, other))
    assert np.abs(a - b).max() <= 1 and (a != b).mean() < 1e-3


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_batches_that_do_not_fit_are_drawn_in_halves(room_for: Any, error: BaseException):
    assert run(*COMMAND, "--out", "whole").exit_code == 0
    tried = room_for(3, error)
    result = run(*COMMAND, "--out", "halved")
    assert result.exit_code == 0, result.output
    assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 1]  # 8 of 13, in twos, then 5: never more than fitted
    assert "A batch of 8 does not fit into the memory of cpu: going on with 4." in result.stderr
    assert result.stderr.count("does not fit") == 2
    assert_same_images("halved", "whole")
    lines = [[json.loads(line) for line in Path(out, "samples.jsonl").read_text().splitlines()] for out in ("whole", "halved")]
    assert [line | {"log_prob": None} for line in lines[0]] == [line | {"log_prob": None} for line in lines[1]]
    assert json.loads(Path("halved/manifest.json").read_text())["batch_size"] == 8


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_cpu_a_batch_of_twice_the_size_takes_no_more_memory_and_changes_no_byte(room_for: Any, precision: str):
    command = [*COMMAND[:4], "--num-samples", 140, "--no-check", "--steps", 3, "--precision", precision]
    assert run(*command, "--batch-size", 128, "--out", "one").exit_code == 0
    tried = room_for(128, MemoryError())
    assert run(*command, "--batch-size", 256, "--out", "other").exit_code == 0
    assert tried == [128, 12]
    assert Path("one/samples.npz").read_bytes() == Path("other/samples.npz").read_bytes()


def test_halves_of_which_nothing_is_lacking_are_not_drawn_again(room_for: Any):
    assert run(*COMMAND, "--out", "out").exit_code == 0
    before = Path("out/000001.png").read_bytes()
    Path("out/000001.png").unlink()
    tried = room_for(4, MemoryError())
    assert run(*COMMAND, "--out", "out").exit_code == 0
    assert tried == [8, 4] and abs(len(Path("out/000001.png").read_bytes()) - len(before)) < 20
    assert json.loads(Path("out/manifest.json").read_text())["last_run"]["halved_to"] == 4


def test_one_sample_that_does_not_fit_is_told_and_what_is_finished_stays(room_for: Any):
    assert run(*COMMAND[:-2], "--steps", "6", "--num-samples", 2, "--out", "out").exit_code == 0
    tried = room_for(0, MemoryError())
    assert_refused(run(*COMMAND, "--out", "out"), "not even one sample fits into the memory of cpu; choose a smaller model, or "
                   "end other programs: the 2 finished images stay.")
    assert tried == [8, 4, 2, 1] and len(list(Path("out").glob("00*.png"))) == 2


def test_a_samples_particles_stay_together(room_for: Any):
    command = [*COMMAND, "--particles", 2, "--num-samples", 4]
    assert run(*command, "--out", "whole").exit_code == 0
    tried = room_for(4, MemoryError())
    assert run(*command, "--out", "halved").exit_code == 0
    assert tried == [8, 4, 4]
    assert_same_images("halved", "whole")


def test_other_errors_are_not_taken_for_too_little_memory(room_for: Any):
    tried = room_for(3, ZeroDivisionError())
    assert run(*COMMAND, "--out", "out").exit_code == 1 and tried == [8]
