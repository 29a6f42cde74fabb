from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.testing import assert_close

from noisy_clf import files
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.metrics_log import step_of
from noisy_clf.training.loop import METRICS, train
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.task import Task
from noisy_clf.training.run import Run
from noisy_clf.training.states import states
from tests.commands import assert_refused, invoke
from tests.noisy_clf.conftest import TINY_FLAGS, TouchesAFile, first_of, snapshot, tiny_network

CPU = Execution()
TIMINGS = ("images_per_second", "waited_for_images")
CONFIG = TrainingConfig(  # the state is written with a validation, between two, and after one: each must go on the same
    iterations=10, batch_size=8, lr=1e-3, warmup=3, weight_decay=0.1, ema=0.9, grad_clip=1.0, seed=3,
    validate_every=4, save_every=2)


def start(data: Dataset, folder: Path, config: TrainingConfig = CONFIG) -> None:
    """Trains in `folder`, as a fresh process would: the network is made anew."""
    train(task(data, config), data, config, folder, CPU)


def task(data: Dataset, config: TrainingConfig = CONFIG, schedule: NoiseSchedule = NoiseSchedule.named("cosine", 50)) -> Task:
    torch.manual_seed(config.seed)
    network = tiny_network(dropout=0.3)
    return classifier_task(NoisyClassifier(network, schedule, data.class_names), data)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for how fast it was."""
    metrics = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {"metrics": [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in metrics],
            **{f"{name}/{file}": content for name in ("best", "last") for file, content in snapshot(folder / name).items()}}


def new_run(task: Task, config: TrainingConfig, data: Dataset, folder: Path) -> Run:
    return Run(task, config, data, folder, CPU)


def step_on(run: Run) -> None:
    run.train_step(*run.read(run.step))


def saved_step(folder: Path) -> int:
    """Of the newest training state."""
    return torch.load(states(folder)[0], weights_only=True)["step"]


def about(folder: Path) -> dict[str, float]:
    """What a saved model tells of itself."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["about"])


@pytest.fixture(scope="module")
def whole(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    start(few_digits, folder)
    return folder


class Killed(BaseException):
    """The process ends here."""


def test_lr_rises_over_the_warm_up_and_falls_linearly_to_0() -> None:
    config = TrainingConfig(iterations=10, batch_size=1, lr=0.5, warmup=4)
    assert [config.lr_at(step) for step in range(10)] == pytest.approx([
        0.5 * min((step + 1) / 4, 1) * (10 - step) / 10 for step in range(10)])
    assert replace(config, warmup=0).lr_at(0) == 0.5 and config.lr_at(10) == 0


def test_metrics_tell_steps_lr_and_validation(whole: Path) -> None:
    metrics = outcome(whole)["metrics"]
    assert [entry["step"] for entry in metrics] == [4, 8, 10]
    assert [entry["lr"] for entry in metrics] == [CONFIG.lr_at(3), CONFIG.lr_at(7), CONFIG.lr_at(9)]
    assert all({"train_loss", "validation_loss", "validation_accuracy_at_0.5"} <= set(entry) for entry in metrics)


def test_a_classifier_starts_near_log_k_and_learns_images_of_little_noise(few_digits: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=60, batch_size=30, lr=3e-3, validate_every=1, ema=0.0)
    clear = task(few_digits, config, NoiseSchedule.from_alpha_bar(np.linspace(0.999, 0.99, 5)))
    few = replace(few_digits, validation=first_of(few_digits.train, 1))
    train(clear, few, config, tmp_path, CPU)
    losses = [entry["train_loss"] for entry in outcome(tmp_path)["metrics"]]
    assert losses[0] == pytest.approx(math.log(10), abs=0.3) and losses[-1] < 0.5


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_average_is_the_weighted_sum_of_all_weights(few_digits: Dataset, tmp_path: Path, ema: float) -> None:
    run = new_run(task(few_digits), replace(CONFIG, ema=ema), few_digits, tmp_path)
    weights = [torch.nn.utils.parameters_to_vector(run.network.parameters()).detach().clone()]
    for _ in range(6):
        step_on(run)
        weights.append(torch.nn.utils.parameters_to_vector(run.network.parameters()).detach().clone())
    assert not torch.equal(weights[0], weights[1])
    expected = ema ** 6 * weights[0] + sum((1 - ema) * ema ** (6 - n) * weights[n] for n in range(1, 7))
    assert_close(torch.nn.utils.parameters_to_vector(run.average.parameters()), expected, rtol=1e-5, atol=1e-6)


def test_the_best_model_is_that_of_the_lowest_validation_loss(few_digits: Dataset, tmp_path: Path) -> None:
    losses = iter([0.5, 0.2, 0.4])
    start_task = replace(task(few_digits), validate=lambda network, processes: {"loss": next(losses)})
    train(start_task, few_digits, CONFIG, tmp_path, CPU)
    assert about(tmp_path / "best") == {"step": 8, "loss": 0.2}
    assert about(tmp_path / "last") == {"step": 10, "loss": 0.4}


def test_a_second_run_equals_the_first(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize(
    "changes", [{"seed": 4}, {"ema": 0.8}, {"weight_decay": 0.0}, {"grad_clip": 0.1}, {"warmup": 0}], ids=str)
def test_each_setting_matters(few_digits: Dataset, whole: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    start(few_digits, tmp_path, replace(CONFIG, **changes))
    assert outcome(tmp_path)["last/model.safetensors"] != outcome(whole)["last/model.safetensors"]


def test_saved_and_continued_equals_uninterrupted(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    run = new_run(task(few_digits), CONFIG, few_digits, tmp_path)
    run.network.train()
    for _ in range(5):
        step_on(run)
        if run.step == 4:  # as train() does
            run.validate()
            (tmp_path / METRICS).write_bytes((whole / METRICS).read_bytes().splitlines(keepends=True)[0])
            run.losses = []
    run.save()
    torch.rand(100)  # the global generator's state is not part of a run
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def replacements(data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> int:
    """Trains until `limit` files were put in place, dies in place of the next; how many there were."""
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
            start(data, folder)
        except Killed:
            pass
    return count


def test_resumed_after_a_death_at_any_write_equals_uninterrupted(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = replacements(few_digits, tmp_path / "all", monkeypatch, limit=10 ** 6)
    assert writes >= 13  # options, metrics, 5 states, 2 configurations, 3 last models, at least one best
    for limit in range(writes):
        assert replacements(few_digits, tmp_path / str(limit), monkeypatch, limit) == limit
        start(few_digits, tmp_path / str(limit))
        assert outcome(tmp_path / str(limit)) == outcome(whole)


def with_signals(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """From now on, a training is sent these signals in its 7th step, which writes no state of itself."""
    step = Run.train_step

    def interrupted(run: Run, images: torch.Tensor, y: torch.Tensor) -> None:
        if run.step == 6:
            for number in numbers:
                os.kill(os.getpid(), number)
        step(run, images, y)

    monkeypatch.setattr(Run, "train_step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_its_state_saved(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        with_signals(patch, number)
        with pytest.raises(UserError, match=f"stopped at step 7 of 10; everything is saved in {tmp_path}: the same command"):
            start(few_digits, tmp_path)
    assert signal.getsignal(number) == before
    assert saved_step(tmp_path) == 7
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_the_best_model_of_before_a_stop_is_beaten_by_a_better_one_only(
        few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.2, 0.4, 0.3])

    def go_on() -> None:
        told = replace(task(few_digits), validate=lambda network, processes: {"loss": next(losses)})
        train(told, few_digits, CONFIG, tmp_path, CPU)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped at step 7"):
        with_signals(patch, signal.SIGINT)
        go_on()
    go_on()
    assert about(tmp_path / "best") == {"step": 4, "loss": 0.2}
    assert about(tmp_path / "last") == {"step": 10, "loss": 0.3}


def test_a_second_sigterm_changes_nothing(
        few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped at step 7"):
        with_signals(patch, signal.SIGTERM, signal.SIGTERM)  # the cluster's, and torchrun's
        start(few_digits, tmp_path)
    assert saved_step(tmp_path) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_validation_at_once_and_the_run_goes_on_with_it(
        few_digits: Dataset, whole: Path, tmp_path: Path, number: int) -> None:
    made = task(few_digits)

    def interrupted(network: Any, processes: Processes) -> dict[str, float]:
        os.kill(os.getpid(), number)
        raise AssertionError("the validation went on")

    with pytest.raises(UserError, match="stopped at step 4 of 10; everything is saved"):
        train(replace(made, validate=interrupted), few_digits, CONFIG, tmp_path)
    assert saved_step(tmp_path) == 4 and not (tmp_path / "last").exists()
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_a_second_ctrl_c_ends_the_run_at_once_and_it_still_resumes(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with monkeypatch.context() as patch:
        with_signals(patch, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            start(few_digits, tmp_path)
    signal.signal(signal.SIGINT, before)
    assert saved_step(tmp_path) == 6
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_a_line_of_metrics_torn_by_a_kill_is_written_anew(few_digits: Dataset, whole: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    save = Run.save

    def save_but_the_last(run: Run) -> None:
        if run.step == 10:
            raise Killed
        save(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_but_the_last)
        with pytest.raises(Killed):
            start(few_digits, tmp_path)
    metrics = tmp_path / METRICS
    metrics.write_bytes(metrics.read_bytes()[:-20])
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize("line, step", [('{"step": 5}', 5), ('{"step": 5', math.inf), ('{"st', math.inf), ("", math.inf)])
def test_step_of_a_line(line: str, step: float) -> None:
    assert step_of(line) == step


FLAGS = [*TINY_FLAGS, "--T=50", "--iterations=30", "--dropout=0.3", "--seed=5", "--ema=0.9",
         "--validate-every=3", "--save-every=2"]


@pytest.fixture(scope="module")
def whole_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a command that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "command"
    assert invoke(train_noisy_clf, *FLAGS, f"--out={folder}").exit_code == 0
    return folder


def stopped_by(number: int, folder: Path, lines: int, delay: float = 0.0) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, sent the signal `delay` seconds after metrics.jsonl has `lines` lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from noisy_clf.cli.train import train_noisy_clf; train_noisy_clf()", *FLAGS, f"--out={folder}"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, text=True,  # as many as in this process
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics, patience = folder / METRICS, time.monotonic() + 120
    while process.poll() is None and time.monotonic() < patience:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
            time.sleep(delay)
            process.send_signal(number)
            break
        time.sleep(0.002)
    output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def test_stopped_by_ctrl_c_and_resumed_equals_uninterrupted(whole_command: Path, tmp_path: Path) -> None:
    stopped = stopped_by(signal.SIGINT, tmp_path, lines=1)
    assert stopped.returncode == 1 and "Traceback" not in stopped.stdout
    told = stopped.stdout.split("Error: ")[1]
    step = int(told.split()[3])
    assert told.strip() == (f"stopped at step {step} of 30; everything is saved in {tmp_path}: "
                            f"the same command goes on from here.")
    assert saved_step(tmp_path) == step
    assert invoke(train_noisy_clf, *FLAGS, f"--out={tmp_path}").exit_code == 0
    assert outcome(tmp_path) == outcome(whole_command)


def test_resumed_after_five_kills_equals_uninterrupted(whole_command: Path, tmp_path: Path) -> None:
    delays = np.random.default_rng().uniform(0, 0.1, size=5)  # any moment must do
    for lines, delay in zip((1, 3, 4, 6, 7), delays):
        assert stopped_by(signal.SIGKILL, tmp_path, lines, delay).returncode == -signal.SIGKILL
    assert invoke(train_noisy_clf, *FLAGS, f"--out={tmp_path}").exit_code == 0
    assert outcome(tmp_path) == outcome(whole_command), f"killed after {delays}"


def test_a_finished_run_says_so_and_changes_nothing(whole_command: Path) -> None:
    before = snapshot(whole_command)
    result = invoke(train_noisy_clf, *FLAGS, f"--out={whole_command}")
    assert result.exit_code == 0 and f"{whole_command} is finished: 30 iterations, best validation loss" in result.output
    assert snapshot(whole_command) == before


@pytest.mark.parametrize("flag, told", [
    ("--lr=0.5", "training.lr 0.0006 there, 0.5 now"), ("--iterations=21", "training.iterations 30 there, 21 now"),
    ("--T=60", "model.schedule.T 50 there, 60 now"), ("--pool=adaptive", "pool 'attention' there, 'adaptive' now")])
def test_other_options_in_a_runs_folder_are_refused_by_name(whole_command: Path, flag: str, told: str) -> None:
    before = snapshot(whole_command)
    assert_refused(invoke(train_noisy_clf, *FLAGS, f"--out={whole_command}", flag), told)
    assert snapshot(whole_command) == before


def assert_state_refused(data: Dataset, folder: Path) -> None:
    with pytest.raises(
            UserError, match="step-0000010.pt cannot be resumed from: damaged.*; remove .*states to start this run") as told:
        start(data, folder)
    for advice in ("weights_only", "trust", "\x1b"):  # torch's own: to load it all the same
        assert advice not in str(told.value)


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"garbage"),
    lambda path: path.write_bytes(path.read_bytes()[:5000]), lambda path: torch.save({"step": 3}, path),
    lambda path: torch.save([1, 2], path)], ids=["empty", "garbage", "truncated", "without weights", "a list"])
def test_a_damaged_state_is_refused_and_left(
        few_digits: Dataset, whole: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    (tmp_path / "states").mkdir()
    state = tmp_path / "states" / "step-0000010.pt"
    state.write_bytes(states(whole)[0].read_bytes())
    damage(state)
    before = state.read_bytes()
    assert_state_refused(few_digits, tmp_path)
    assert state.read_bytes() == before


def test_a_state_that_is_damaged_is_passed_over_for_the_one_before_it(
        few_digits: Dataset, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="stopped at step 7"):
        with_signals(patch, signal.SIGINT)
        start(few_digits, tmp_path)
    newest, before = states(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1000])
    start(few_digits, tmp_path)
    assert f"{newest} cannot be resumed from: damaged, or of another program; going on from step 6" in capsys.readouterr().err
    assert outcome(tmp_path) == outcome(whole)


def test_a_disk_that_fails_for_a_moment_is_not_taken_for_a_damaged_state(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped at step 7"):
        with_signals(patch, signal.SIGINT)
        start(few_digits, tmp_path)
    for error in (OSError(errno.EIO, "Input/output error"), torch.OutOfMemoryError("too little")):
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(torch, "load", lambda *given, error=error, **more: (_ for _ in ()).throw(error))
            start(few_digits, tmp_path)
    assert saved_step(tmp_path) == 7
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_a_damaged_state_does_not_push_out_the_newest_one_that_is_whole(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged, stale = (tmp_path / "states" / name for name in ("step-0000009.pt", ".step-0000005.pt.tmp"))
    run = new_run(task(few_digits), CONFIG, few_digits, tmp_path)
    run.save()
    for path in (damaged, stale):
        path.write_bytes(b"half")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped at step 7"):
        with_signals(patch, signal.SIGTERM)
        train(task(few_digits), few_digits, CONFIG, tmp_path, Execution(keep=1))
    assert [path.name for path in states(tmp_path)] == ["step-0000009.pt", "step-0000007.pt"] and not stale.exists()
    train(task(few_digits), few_digits, CONFIG, tmp_path, Execution(keep=1))
    assert [path.name for path in states(tmp_path)] == ["step-0000010.pt"]
    assert outcome(tmp_path) == outcome(whole)


def test_states_are_known_by_their_number_and_a_copy_by_another_name_is_left(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    for name in ("step-9999999.pt", "step-10000000.pt", "step-0000500.pt", "step-backup.pt", "step-0000500 (copy).pt"):
        (tmp_path / "states" / name).touch()
    assert [path.name for path in states(tmp_path)] == ["step-10000000.pt", "step-9999999.pt", "step-0000500.pt"]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_few_states_are_kept(few_digits: Dataset, tmp_path: Path, keep: int) -> None:
    train(task(few_digits), few_digits, CONFIG, tmp_path, Execution(keep=keep))
    assert [path.name for path in states(tmp_path)] == [f"step-{step:07d}.pt" for step in (10, 8, 6)[:keep]]


def test_code_in_a_state_does_not_run(few_digits: Dataset, tmp_path: Path) -> None:
    state = tmp_path / "states" / "step-0000010.pt"
    state.parent.mkdir()
    torch.save({"step": TouchesAFile(tmp_path / "touched")}, state)
    assert_state_refused(few_digits, tmp_path)
    assert not (tmp_path / "touched").exists()
    torch.load(state, weights_only=False)
    assert (tmp_path / "touched").exists()  # so the file was able to


def test_a_disk_that_fills_leaves_the_last_state_and_the_run_goes_on_once_there_is_space(
        few_digits: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_save = torch.save

    def full_at_step_6(state: dict[str, Any], file: Any) -> None:
        if state["step"] == 6:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole_save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_at_step_6)
        with pytest.raises(UserError, match="the disk is full: .*step-0000006.pt could not be written; free some space"):
            start(few_digits, tmp_path)
    assert saved_step(tmp_path) == 4
    assert not list(tmp_path.rglob("*.tmp"))
    start(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_a_really_full_disk_is_told_when_the_state_is_written(few_digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / ".step-0000002.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full: .*step-0000002.pt could not be written"):
        start(few_digits, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_with_the_models_saved_until_then(
        few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisy_clf.training.loop.outlook", lambda run: "")  # which takes losses, too
    broken = task(few_digits)
    right_loss, steps = broken.loss, iter(range(100))
    broken = replace(broken, loss=lambda *given: right_loss(*given) * (math.nan if next(steps) == 5 else 1))
    with pytest.raises(UserError, match="the loss became nan at step 5; the models saved until then stand"):
        train(broken, few_digits, CONFIG, tmp_path, CPU)
    for name in ("best", "last"):
        assert about(tmp_path / name)["step"] == 4
    assert saved_step(tmp_path) == 4


def test_a_validation_loss_that_is_no_number_ends_the_run_before_a_model_is_saved(few_digits: Dataset, tmp_path: Path) -> None:
    found = iter([0.5, math.nan])
    with pytest.raises(UserError, match="the validation loss became nan at step 8; the models saved until then stand"):
        told = replace(task(few_digits), validate=lambda network, processes: {"loss": next(found)})
        train(told, few_digits, CONFIG, tmp_path)
    assert about(tmp_path / "last")["step"] == 4 and [path.name for path in states(tmp_path)][1] == "step-0000006.pt"


def test_a_setting_without_sense_claims_no_folder(few_digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="t-sampling cannot be 'often'"):
        start(few_digits, tmp_path / "run", replace(CONFIG, t_sampling="often"))
    assert not (tmp_path / "run").exists()


def test_a_gpu_of_too_little_memory_is_told_with_a_microbatch_that_may_fit(few_digits: Dataset, tmp_path: Path) -> None:
    def too_large(*given: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="cpu has too little memory for 8 images at a time; .*fewer: --microbatch 4"):
        train(replace(task(few_digits), loss=too_large), few_digits, CONFIG, tmp_path)


def test_processes_that_find_different_states_are_refused(few_digits: Dataset, tmp_path: Path) -> None:
    class Elsewhere(Processes):
        def agree(self, text: str) -> bool:
            return not text.startswith("step")

    with pytest.raises(UserError, match=f"the processes do not see the same states in {tmp_path}"):
        train(task(few_digits), few_digits, CONFIG, tmp_path, Execution(processes=Elsewhere()))


@pytest.mark.parametrize("changes, sentence", [
    ({"iterations": 0}, "iterations must be at least 1, not 0"),
    ({"batch_size": -1}, "batch-size must be at least 1, not -1"),
    ({"validate_every": 0}, "validate-every must be at least 1"), ({"save_every": 0}, "save-every must be at least 1"),
    ({"ema": 1.0}, "ema must be at least 0 and below 1, not 1.0"), ({"ema": -0.1}, "ema must be at least 0 and below 1"),
    ({"ema": math.nan}, "ema must be"), ({"lr": 0.0}, "lr must be a positive number, not 0.0"),
    ({"lr": math.inf}, "lr must be"), ({"lr": math.nan}, "lr must be"), ({"warmup": -5}, "warmup must be .*not -5"),
    ({"weight_decay": -1.0}, "weight-decay must be .*not -1.0"), ({"weight_decay": math.nan}, "weight-decay must be .*not nan"),
    ({"grad_clip": -1.0}, "grad-clip must be .*not -1.0"), ({"grad_clip": math.nan}, "grad-clip must be .*not nan")], ids=str)
def test_training_settings_without_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(CONFIG, **changes)


def test_a_second_command_for_the_same_folder_waits_and_finds_it_finished(
        few_digits: Dataset, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step, second = Run.train_step, threading.Thread(target=lambda: start(few_digits, tmp_path))

    def with_another_beside(run: Run, images: torch.Tensor, y: torch.Tensor) -> None:
        if run.step == 3:
            second.start()
            time.sleep(0.3)
        step(run, images, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train_step", with_another_beside)
        start(few_digits, tmp_path)
    second.join()
    told = capfd.readouterr()
    assert f"waiting for another process that trains in {tmp_path}" in told.err and f"{tmp_path} is finished" in told.out
    assert outcome(tmp_path) == outcome(whole)


def test_a_run_goes_on_when_its_images_were_moved(tmp_path: Path) -> None:
    for i in range(40):
        path = Path(f"here/data/{'ab'[i % 2]}/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 6 * i, np.uint8)).save(path)
    flags = [*TINY_FLAGS, "--grey", "--T=50", "--no-random-crop", f"--out={tmp_path / 'run'}", "--iterations=2"]
    assert invoke(train_noisy_clf, *flags, "--dataset=here/data").exit_code == 0
    Path("here").rename("there")
    result = invoke(train_noisy_clf, *flags, "--dataset=there/data")
    assert result.exit_code == 0 and "is finished" in result.output
    Path("there/data/a/0.png").unlink()
    assert_refused(invoke(train_noisy_clf, *flags, "--dataset=there/data"), "source 'files ")
