"""Several processes do what one does, up to rounding."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.processes import Processes
from noisy_clf.training.loop import METRICS
from tests.commands import invoke
from tests.noisy_clf.conftest import TINY_FLAGS

FLAGS = [*TINY_FLAGS, "--channels=64", "--T=50", "--iterations=50", "--dropout=0.2", "--ema=0.9", "--random-crop",
         "--random-flip", "--t-sampling=importance", "--mixup=0.4", "--grad-clip=1", "--validate-every=25",
         "--save-every=25", "--threads=1"]


def torchrun(count: int, *flags: str, wait: bool = True) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "noisy_clf.cli",
         *FLAGS, *flags], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    if wait:
        assert process.wait(timeout=200) == 0, process.stdout and process.stdout.read()
    return process


def largest_difference(one: Path, other: Path) -> float:
    """Of any weight of the last models, but for the biases of keys: they change no softmax, so that AdamW, which divides each
    gradient by its own size, makes steps of their rounding."""
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (one, other))
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours if not re.search(r"qkv(_proj)?\.bias", name))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "alone"
    result = invoke(train_noisy_clf, *FLAGS, f"--out={folder}")
    assert result.exit_code == 0, result.output
    return folder


def test_two_processes_train_what_one_does(alone: Path, tmp_path: Path) -> None:
    torchrun(2, f"--out={tmp_path / 'two'}")
    other = tmp_path / "other seed"
    assert invoke(train_noisy_clf, *FLAGS, f"--out={other}", "--seed=1").exit_code == 0
    assert largest_difference(alone, tmp_path / "two") < 2e-5 < 1e-2 < largest_difference(alone, other)
    ours, theirs = ([json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
                    for folder in (alone, tmp_path / "two"))
    for mine, its in zip(ours, theirs, strict=True):
        assert its["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-4)
        assert its["validation_loss"] == pytest.approx(mine["validation_loss"], rel=1e-3)


def test_sigterm_to_torchrun_saves_and_one_process_may_go_on(alone: Path, tmp_path: Path) -> None:
    process = torchrun(2, f"--out={tmp_path}", "--validate-every=25", wait=False)
    patience = time.monotonic() + 120
    while not (tmp_path / METRICS).exists() and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "everything is saved in" in output, output
    result = invoke(train_noisy_clf, *FLAGS, f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    assert largest_difference(alone, tmp_path) < 2e-5


def test_a_mistake_is_told_by_the_first_process_alone_without_a_traceback(alone: Path) -> None:
    process = torchrun(2, f"--out={alone}", "--lr=0.1", wait=False)
    output, _ = process.communicate(timeout=100)
    told = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert process.returncode != 0 and len(told) == 1 and "training.lr 0.0006 there, 0.1 now" in told[0], output
    assert "]: Traceback" not in output


def test_a_mistake_of_one_process_alone_is_told_and_what_it_brings_about_is_not(tmp_path: Path) -> None:
    script = tmp_path / "one_fails.py"
    script.write_text("""
import os
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.errors import UserError
from noisy_clf.training.run import Run
step = Run.train_step
def fail(run, *batch):
    if run.step == 2 and os.environ["RANK"] == "1":
        raise UserError("the second process alone has failed.")
    return step(run, *batch)
Run.train_step = fail
train_noisy_clf()
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script),
                           *FLAGS, f"--out={tmp_path / 'run'}"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200)
    told = re.findall(r"(?<!\w)Error: .*", done.stdout)  # after the bar, where a machine is slow
    assert done.returncode != 0 and told == ["Error: the second process alone has failed."], done.stdout
    assert "]: Traceback" not in done.stdout


@pytest.mark.parametrize("total, count, multiple", [(10, 3, 1), (10, 3, 2), (7, 7, 1), (1024, 8, 2), (5, 1, 1), (11, 4, 2)])
def test_shares_are_all_of_it_in_order(total: int, count: int, multiple: int) -> None:
    shares = [Processes(rank, count).share(total, multiple) for rank in range(count)]
    assert [i for share in shares for i in share] == list(range(total))
    assert all(share.start % multiple == 0 for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * multiple


def test_alone_everything_is_the_identity() -> None:
    alone, tensor = Processes(), torch.arange(3.0)
    alone.add([tensor])
    assert alone.agree("anything")
    assert torch.equal(tensor, torch.arange(3.0)) and alone.gather(tensor, 3) is tensor
    assert alone.first_does(lambda: 5) == 5
    assert alone.first and alone.any(True) and not alone.any(False)
