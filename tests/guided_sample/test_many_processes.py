"""Several processes draw into one folder what one would, whatever is killed; and nobody else does meanwhile."""
from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from guided_sample.cli.sample import guided_sample
from guided_sample.plan import Plan
from tests.commands import assert_refused, run

SEVEN = ["--num-samples", 7, "--batch-size", 2, "--precision", "bf16", "--class", "all", "--no-check"]
WAYS = {"--shard": lambda rank, count: {}, "torchrun": lambda rank, count: {"RANK": rank, "WORLD_SIZE": count},
        "srun": lambda rank, count: {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": count},
        "--shard slurm": lambda rank, count: {"SLURM_ARRAY_TASK_ID": rank + 5, "SLURM_ARRAY_TASK_MIN": 5,
                                              "SLURM_ARRAY_TASK_COUNT": count}}


def files(folder: str | Path) -> dict[str, bytes]:
    """The bytes of a run, but for the manifest, which tells of a clock."""
    return {path.name: path.read_bytes() for path in Path(folder).glob("[!.]*") if path.suffix in (".png", ".jsonl", ".npz")}


def share(way: str, number: int, count: int, *arguments: object) -> Result:
    asked = {"--shard": ["--shard", f"{number}/{count}"], "--shard slurm": ["--shard", "slurm"]}.get(way, [])
    environ = {name: str(value) for name, value in WAYS[way](number - 1, count).items()}
    return CliRunner(env=environ).invoke(guided_sample, [*map(str, arguments), *asked])


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "guided_sample.cli", "guided-sample", *map(str, arguments)],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def whole(denoiser_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run("--model", denoiser_folder, *SEVEN, "--out", out).exit_code == 0
    assert len(files(out)) == 7 + 3
    return files(out)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 3])
def test_shares_are_the_whole_to_the_bit(denoiser_folder: Path, whole: dict[str, bytes], way: str, count: int) -> None:
    for number in range(count, 0, -1):
        result = share(way, number, count, "--model", denoiser_folder, *SEVEN, "--out", "out")
        own = sum(len(range(first, min(first + 2, 7))) for first in range(2 * number - 2, 7, 2 * count))
        assert result.exit_code == 0 and f"process {number} of {count} ({way}): {own} of 7 samples are its own" in result.output
        last = number == 1
        assert ("7 images in out: look at out/grid.png" in result.output) == last == Path("out/grid.png").exists()
        talks = way.startswith("--shard") or last
        assert (f"{own}/{own}" in result.output) == talks, result.output  # the bars of processes on one terminal
    assert files("out") == whole
    assert json.loads(Path("out/manifest.json").read_text())["last_run"]["share"] == f"1 of {count}"


def test_what_a_kill_left_of_a_batch_is_drawn_as_if_it_had_been_whole(denoiser_folder: Path, whole: dict[str, bytes]) -> None:
    for number in (1, 2):
        assert share("--shard", number, 3, "--model", denoiser_folder, *SEVEN, "--out", "out").exit_code == 0
    for index in (1, 6):  # 6 was not drawn
        Path(f"out/{index:06d}.png").unlink(missing_ok=True)
    part = Path("out/samples.2-of-3.jsonl")
    part.write_text(part.read_text()[:-30])  # torn: that of 3
    result = run("--model", denoiser_folder, *SEVEN, "--out", "out")
    assert result.exit_code == 0 and "5/5" in result.output, result.output  # 1, 3, 4, 5, 6; 6 is of the first share
    assert files("out") == whole


def test_in_bf16_too_an_image_made_again_is_the_same_to_the_bit() -> None:
    arguments = ["--model", "digits", "--class", "all", "--steps", 10, "--precision", "bf16", "--num-samples", 16, "--no-check",
                 "--out"]
    for out, batch_size in (("out", 4), ("other", 1)):
        assert run(*arguments, out, "--batch-size", batch_size).exit_code == 0
    before, other = files("out"), files("other")
    assert sum(before[name] != other[name] for name in before if name.endswith(".png")) > 3  # what a batch's size does
    for index in (0, 5, 10, 15):  # one of each batch
        Path(f"out/{index:06d}.png").unlink()
    assert "4/4" in run(*arguments, "out", "--batch-size", 4).output and files("out") == before


def test_a_killed_processs_share_is_made_by_any_number_of_others(denoiser_folder: Path) -> None:
    arguments = ["--model", denoiser_folder, "--num-samples", 24, "--batch-size", 2, "--steps", 20, "--no-check"]
    assert run(*arguments, "--out", "whole").exit_code == 0
    processes = [started(*arguments, "--out", "out", "--shard", f"{i}/3") for i in (1, 2, 3)]
    while len(list(Path("out").glob("0*.png"))) < 4 and processes[1].poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    processes[1].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=100)
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0] and not Path("out/samples.npz").exists()
    for number in (1, 2):
        assert share("--shard", number, 2, *arguments, "--out", "out").exit_code == 0
    assert files("out") == files("whole")


def test_of_two_requests_at_once_one_is_refused_and_nothing_is_mixed(denoiser_folder: Path) -> None:
    arguments = ["--model", denoiser_folder, "--num-samples", 6, "--batch-size", 2, "--no-check", "--out"]
    for seed in (0, 1):
        assert run(*arguments, f"seed{seed}", "--seed", seed).exit_code == 0
    processes = [started(*arguments, "out", "--seed", seed) for seed in (0, 1)]
    told = [process.communicate(timeout=100)[0] for process in processes]
    winner = [process.returncode for process in processes].index(0)
    assert processes[1 - winner].returncode == 1 and told[1 - winner].count("Error: ") == 1, told
    assert f"out holds another run's results (seed {winner} there, {1 - winner} now)" in told[1 - winner]
    assert files("out") == files(f"seed{winner}")


@contextmanager
def locked(path: str) -> Iterator[int]:
    """As another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    yield file
    os.close(file)


@pytest.fixture
def begun(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A run of seed 0 in out/ in which no image is finished."""
    arguments = ["--model", denoiser_folder, "--num-samples", 4, "--batch-size", 2, "--no-check", "--out", "out"]

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "draw_stage", stop)
        assert_refused(run(*arguments, "--shard", "2/3"),
                       "stopped with 0 of 4 images finished in out; the same command makes the others of share 2 of 3.")
    return arguments


def test_within_the_first_batch_of_a_run_another_request_is_refused(begun: list[Any]) -> None:
    with locked("out/.share-2-of-3-by-2.lock"):
        for more in ([], ["--shard", "1/3"], ["--shard", "2/3"]):
            assert_refused(run(*begun, "--seed", 1, *more), "out holds another run's results (seed 0 there, 1 now)")
    assert run(*begun, "--seed", 1).exit_code == 0  # it was killed, with nothing to keep apart
    assert_refused(run(*begun), "out holds another run's results (seed 1 there, 0 now)")


def test_shares_of_another_number_or_batch_are_refused_while_one_is_at_work(begun: list[Any]) -> None:
    with locked("out/.share-2-of-3-by-2.lock"):
        told = "out is being drawn in 3 shares of batches of 2, and this is one of "
        assert_refused(run(*begun), told + "1 of batches of 2; wait until they have ended, or share as they do")
        assert_refused(run(*begun, "--shard", "1/2"), told + "2 of batches of 2")
        assert_refused(run(*begun, "--batch-size", 3, "--shard", "1/3"), told + "3 of batches of 3")
        assert run(*begun, "--shard", "1/3").exit_code == 0
    result = run(*begun)
    assert result.exit_code == 0 and "2/2" in result.output and not list(Path("out").glob(".share*")), result.output


def test_the_same_share_waits_for_the_one_at_work_and_tells_it(begun: list[Any]) -> None:
    with locked("out/.share-1-of-1-by-2.lock") as file:
        threading.Timer(1, fcntl.flock, [file, fcntl.LOCK_UN]).start()
        before = time.monotonic()
        result = run(*begun)
    assert result.exit_code == 0 and time.monotonic() - before > 0.8, result.output
    assert result.output.count("waiting for another process that draws all of out\n") == 1


def test_a_process_with_nothing_to_do_is_told_what_gives_it_some(denoiser_folder: Path) -> None:
    result = run("--model", denoiser_folder, "--num-samples", 6, "--no-check", "--out", "out", "--shard", "3/3")
    assert result.exit_code == 0 and (
        "process 3 of 3 (--shard): 0 of 6 samples are its own: 64 are drawn at a time; --batch-size 2 gives every process some"
        ) in result.output
    assert "0 of 6 images are in out; the others are other processes' to make" in result.output


def test_a_file_system_without_locks_is_refused(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", no_flock)
    assert_refused(run("--model", denoiser_folder, "--no-check", "--out", "out"),
                   "the file system of out has no locks, so that two runs might mix there; choose an --out on another one")


def test_under_torchrun_a_mistake_is_one_sentence(denoiser_folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
                           "guided_sample.cli", "guided-sample", "--model", str(denoiser_folder), "--class", "submarine"],
                          capture_output=True, text=True, timeout=100)
    sentences = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error: ")]
    assert done.returncode != 0 and sentences == [
        "Error: there is no class 'submarine'; the classes are apple, pear, plum, or 0 to 2."], done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_with_closed_streams_all_is_drawn(denoiser_folder: Path, whole: dict[str, bytes], closed: str) -> None:
    command = [sys.executable, "-m", "guided_sample.cli", "guided-sample", "--model", denoiser_folder, *SEVEN, "--out", "out"]
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0 and files("out") == whole, done.stderr
    assert done.stdout == ("7 images in out: look at out/grid.png\n" if closed == "2>&-" else "")
