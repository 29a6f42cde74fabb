"""scripts/gpu_report.py, where there is no GPU."""
import json
import re
from dataclasses import asdict
from pathlib import Path

import gpu_report
import pytest
import torch
from gpu_report import SMALL, Measuring, Row, cells, gpu_tests, main, measured, sharded, work
from tests.commands import assert_refused, invoke

CPU = torch.device("cpu")
LONG = 1e12


def table(report):
    """Its rows' cells, without the head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")][2:]


def test_small_writes_a_dated_table_in_which_what_fails_is_a_row(tmp_path):
    peer = tmp_path / "no-checkout"
    peer.mkdir()
    result = invoke(main, "--small", "--no-tests", "--only", "guided 16", "--peer", peer, "--out", "report.md")
    assert result.exit_code == 0, result.output
    report = Path("report.md").read_text()
    assert re.match(r"# \d+ \w+ 20\d\d, tiny networks\n\nCPU, \d+ threads; torch \S+", report) and report in result.output
    rows = table(report)
    assert [row[:4] for row in rows] == [
        *(["guided step, 16 px", precision, whose, batch]
          for whose in ("ours", "guided-diffusion") for precision in ("float32", "bf16")
          for batch in ("1", "2" if whose == "ours" else "largest")),
        ["guided step, 16 px", "bf16", "ours, compiled", "2"],
        *(["guided step, 16 px", precision, "diffusers", batch] for precision in ("float32", "bf16") for batch in ("1", "2")),
        *(["guided samples, 16 px", precision, "ours, 250 steps", "2"] for precision in ("float32", "bf16"))]
    for row in (*rows[:4], rows[8]):
        assert float(row[4]) > 0 and re.fullmatch(r"\d+%", row[5]) and re.fullmatch(r"\d+%", row[7])
    assert all(row[4:] == ["", "", "", "", "failed: No module named 'guided_diffusion'"] for row in rows[4:8])
    assert all(float(row[4]) > 0 for row in rows[8:])
    assert re.search(r"16 px, at best \S+ images/s of a step \(\S+, ours(, compiled)?\): \d+% of the matrix rate \(goal 45%\)",
                     report)


def test_samples_are_drawn_whole_and_jpegs_are_read():
    rows = list(work(cells("samples", 16, CPU, None), SMALL[16], Measuring(CPU, LONG, most=2, repeats=1)))
    assert [(row.precision, row.whose, row.batch, row.note) for row in rows] == [
        (precision, f"ours, {steps} steps", "2", "") for precision in ("bf16", "float32") for steps in (15, 25)]
    assert all(row.seconds > 0 for row in rows)
    jpegs = [cell for cell in cells("denoiser", 16, CPU, None) if cell.whose == "ours, from JPEGs"]
    rows = list(work(jpegs, SMALL[16], Measuring(CPU, LONG, most=1, repeats=1)))
    assert rows and all(row.seconds > 0 and not row.note.startswith("failed") for row in rows)


def test_the_images_of_all_gpus_are_counted_in_the_slowest_ones_time(monkeypatch):
    class Process:
        def __init__(self, command, env, **_):
            self.number = int(env["CUDA_VISIBLE_DEVICES"])
            assert command[-4:-1] == ["--only", "first", "--work"]

        def communicate(self):
            row = Row("samples", 64, "fp16", "ours, 15 steps", "64", images=64, seconds=2.0 + self.number)
            return json.dumps(asdict(row)) + "\n", None

    monkeypatch.setattr(gpu_report.subprocess, "Popen", Process)
    row, = sharded(64, LONG, [], 8)
    assert (row.images, row.seconds, row.note) == (512, 9.0, "8 GPUs at once")


@pytest.mark.parametrize("kind", ["classifier", "denoiser"])
def test_training_steps_are_measured_too(kind):
    rows = list(work(cells(kind, 16, CPU, None), SMALL[16], Measuring(CPU, LONG, most=2, repeats=1)))
    assert [(row.precision, row.whose, row.batch) for row in rows] == [
        (precision, whose, batch) for precision, whose in (("float32", "ours"), ("bf16", "ours"), ("bf16", "ours, from JPEGs"))
        for batch in ("1", "2")]
    assert all(row.seconds > 0 and row.networks > 0 for row in rows)
    assert rows[1].flops == rows[3].flops == 2 * rows[0].flops > 1e6


def test_flops_are_those_of_the_networks():
    """A guided step: the denoiser's forward pass, and the classifier's forward and backward, of which the weights have none."""
    guided, denoiser, classifier = (
        next(work(cells(kind, 16, CPU, None)[:1], SMALL[16], Measuring(CPU, LONG, most=1, repeats=1))).flops
        for kind in ("guided", "denoiser", "classifier"))
    assert guided == pytest.approx(denoiser / 3 + classifier * 2 / 3, rel=0.05)


CELL = Row("guided", 64, "bf16", "ours", "")


def failing_at(batch, error):
    def steps(size):
        def step():
            if size >= batch:
                raise error
        return step
    return lambda: steps


@pytest.mark.parametrize("error, told", [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "8 does not fit"),
    (RuntimeError("no kernel for this\nTraceback"), "8 failed: no kernel for this")])
def test_the_largest_batch_is_found_by_doubling(error, told):
    first, largest = Measuring(CPU, LONG, most=64, repeats=1).rows(CELL, failing_at(8, error), LONG)
    assert (first.batch, first.note, largest.batch, largest.note) == ("1", "", "4", told)


def test_a_larger_batch_that_time_does_not_allow_is_told():
    _, largest = Measuring(CPU, LONG, most=64, repeats=1).rows(CELL, failing_at(8, RuntimeError), until=0)
    assert (largest.batch, largest.note) == ("1", "2 not run: time")


def test_a_step_that_fails_at_once_is_two_rows():
    rows = list(Measuring(CPU, LONG, most=64, repeats=1).rows(CELL, failing_at(1, ValueError("bad. Very bad.")), LONG))
    assert [(row.batch, row.note) for row in rows] == [("1", "failed: bad"), ("largest", "failed: bad")]


def test_what_time_does_not_allow_is_told():
    result = invoke(main, "--small", "--no-tests", "--minutes", 0)
    rows = table(result.output)
    assert len(rows) == 2 * (9 + 4 + 6 + 6) and all(row[4:] == ["", "", "", "", "not run: time"] for row in rows), result.output


def test_a_process_that_dies_is_rows(monkeypatch):
    todo = cells("guided", 64, CPU, None)[:2]
    said = json.dumps(asdict(todo[0]) | {"batch": "1", "seconds": 2.0})
    monkeypatch.setattr(gpu_report, "finished", lambda *_: (f"{said}\nAborted (core)\n", False))
    rows = measured(todo, LONG, [])
    assert [(row.precision, row.batch, row.note) for row in rows] == [
        ("float32", "1", ""), ("float32", "largest", "failed: Aborted (core)"),
        ("bf16", "1", "failed: Aborted (core)"), ("bf16", "largest", "failed: Aborted (core)")]


def test_the_gpu_tests_are_run():
    assert gpu_tests(CPU, 200, "second_stage") == ["1 of 1 `gpu` tests passed on cpu."]


@pytest.mark.parametrize("late, rest", [(False, "."), (True, "; the others, after 9 s, not run: time.")])
def test_tests_that_fail_are_told_one_by_one(monkeypatch, late, rest):
    said = """
tests/gpu/test_sampling.py::test_a[x y] PASSED                        [ 33%]
tests/gpu/test_sampling.py::test_b FAILED                             [ 66%]
FAILED tests/gpu/test_sampling.py::test_b - AssertionError: 3 is not 4
"""
    monkeypatch.setattr(gpu_report, "finished", lambda *_, **__: (said, late))
    assert gpu_tests(torch.device("cuda"), 9) == [
        f"1 of 2 `gpu` tests passed on cuda{rest}",
        "- failed: `tests/gpu/test_sampling.py::test_b`: AssertionError: 3 is not 4"]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(invoke(main), "torch sees no GPU here;", "--small")
