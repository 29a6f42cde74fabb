"""The training loop of classifiers and denoisers: step, validate, save, stop and go on.

A run that was stopped, in any way, and started again is the run that never stopped; one that several processes share is,
up to rounding, that of one.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from noisy_clf import renamed
from noisy_clf.checkpoints.model_folder import DEFAULTS
from noisy_clf.checkpoints.run_folder import KEPT
from noisy_clf.datasets.images import Dataset
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.errors import UserError, disk_trouble, enough_memory
from noisy_clf.files import claim_folder, defaults_of, locked
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.metrics_log import MetricsLog
from noisy_clf.training.pace import outlook
from noisy_clf.training.run import Run
from noisy_clf.training.states import keep_model
from noisy_clf.training.stop import stop_signals, stopped_at
from noisy_clf.training.task import Task

METRICS, OPTIONS = "metrics.jsonl", "options.json"


def train(task: Task, data: Dataset, config: TrainingConfig, folder: Path, execution: Execution = Execution()) -> None:
    """Trains to the end, going on from where a run in `folder` stopped.

    Writes best/ and last/ (models), states/ (to go on from), kept/ (models of earlier steps), metrics.jsonl and options.json.
    Ctrl-C and SIGTERM end the run after the current step with its state saved; UserError if the folder holds a run with other
    options.
    """
    run = Run(task, config, data, folder, execution)  # which refuses what has no sense before there is a folder
    with ExitStack() as stack:
        execution.processes.first_does(lambda: stack.enter_context(alone_in(folder)))
        begin(run)
        go_on(run)


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Within, another command for the same folder waits."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(disk_trouble(error, folder)) from error
    return locked(folder / ".lock", f"trains in {folder}")


def begin(run: Run) -> None:
    """Claims the run's folder, and takes up the state that is in it. All processes must find the same."""
    config, data, folder, task, processes = run.config, run.data, run.folder, run.task, run.execution.processes
    if config.batch_size % task.multiple or config.batch_size < processes.count * task.multiple:
        raise UserError(f"batch-size {config.batch_size} cannot be shared by {processes.count} processes"
                        + (f" in groups of {task.multiple}." if task.multiple > 1 else "."))
    if run.execution.keep_every > config.iterations:
        raise UserError(f"keep-every {run.execution.keep_every} keeps nothing of a run of {config.iterations} iterations; give "
                        f"--keep-every {config.iterations} or less, or leave it out.")
    if config.batch_size > len(data.train):
        raise UserError(f"{data.name} has {len(data.train)} images to train on, fewer than the {config.batch_size} of a batch; "
                        f"give --batch-size {len(data.train) // task.multiple * task.multiple} or less.")
    processes.first_does(lambda: claim_folder(folder / OPTIONS, {
        "dataset": Path(data.name).name, "source": data.source, "model": task.model_config,
        "training": {**asdict(config), **task.options}}, defaults={
        "source": "", "model": DEFAULTS | task.defaults.get("model", {}),
        "training": defaults_of(TrainingConfig) | task.defaults.get("training", {})}, renamed=renamed.OPTIONS))
    if not processes.agree(f"{data.source} {len(data.train)} {len(data.validation)} {data.class_names}"):
        raise UserError(f"the processes do not see the same images of {data.name}; each must read the same files.")
    run.resume()
    if not processes.agree(f"step {run.step}"):
        raise UserError(f"the processes do not see the same states in {folder}; all must reach one folder.")


def go_on(run: Run) -> None:
    """To the last iteration, or until it is stopped."""
    config, folder, execution, processes = run.config, run.folder, run.execution, run.execution.processes
    log = processes.first_does(lambda: MetricsLog(folder / METRICS, run.validated if run.owes_validation else run.step,
                                                  execution.tensorboard))
    if run.finished:
        if processes.first:
            print(f"{folder} is finished: {run.step} iterations, best validation loss {run.best:.4f}.")
        return
    bar = tqdm(total=config.iterations, initial=run.step, unit="step", desc="training", dynamic_ncols=True,
               disable=not processes.first)
    clock = Clock(run.step)
    with bar, stop_signals() as stop:
        if run.step < config.iterations:
            with memory_for(run), stop.at_once(run):
                ahead = outlook(run)
            if processes.first:
                tqdm.write(ahead + kept_ahead(run), file=sys.stderr)
        batches = read_ahead(run.read, range(run.step, config.iterations), execution.threads)
        while not run.finished:
            if run.owes_validation:
                with memory_for(run), stop.at_once(run):  # everything is saved
                    validate(run, log, clock, bar)
                clock = Clock(run.step)
                continue
            with clock.waiting():
                images, y = next(batches)
            with memory_for(run):
                run.train_step(images, y)
            bar.update()
            stopped = processes.any(stop.asked)
            kept = execution.keep_every and run.step % execution.keep_every == 0
            saved = run.owes_validation or stopped or run.step % config.save_every == 0
            if kept or saved:
                run.mean_loss()
            if kept:  # first: a run that goes on from this step's state does not come by here again
                processes.first_does(lambda: keep_model(folder, run.step, run.average))
            if saved:
                run.save()
            if stopped:
                raise stopped_at(run)


def kept_ahead(run: Run) -> str:
    """How much of the disk the models that are kept will take, in words; "" where none are."""
    every = run.execution.keep_every
    if not every:
        return ""
    count = run.config.iterations // every - run.step // every
    size = sum(tensor.nbytes for tensor in run.average.state_dict().values()) / 1e6
    return f" {run.folder / KEPT} will hold {count} models more, {count * size:,.1f} MB."


def memory_for(run: Run) -> AbstractContextManager[None]:
    """Within, too little of it is told in a sentence."""
    size = len(run.execution.parts(run.share, run.task.multiple)[0])
    fewer = f"the same command goes on with fewer: --microbatch {max(size // 2, 1)}"
    if "negatives" in run.task.options and size == run.task.multiple:
        fewer = f"they are told from each other, and a new run can do with fewer: --negatives {max(size // 2, 2)}"
    return enough_memory(lambda: f"{run.execution.device} has too little memory for {size} images at a time; {fewer}.")


def validate(run: Run, log: MetricsLog | None, clock: Clock, bar: tqdm[Any]) -> None:
    """Validates, and tells what came out."""
    timings, loss = clock.read(run.step, run.config.batch_size), run.mean_loss()
    found = run.validate()
    if log:
        log.write({"step": run.step, "train_loss": loss, "lr": run.config.lr_at(run.step - 1), **timings,
                   **{f"validation_{name}": value for name, value in found.items()}})
    bar.set_postfix_str(f"{timings['images_per_second']:.0f} images/s, " + ", ".join(
        f"{name} {value:.3f}" for name, value in [("train loss", loss), *found.items()]))
    if run.step == run.config.iterations:
        run.save()


class Clock:
    """How fast steps go since `step`, and which part of the time they wait for images."""

    def __init__(self, step: int) -> None:
        self.step, self.start, self.waited = step, time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def read(self, step: int, batch_size: int) -> dict[str, float]:
        passed = time.perf_counter() - self.start
        return {"images_per_second": round((step - self.step) * batch_size / passed, 1),
                "waited_for_images": round(self.waited / passed, 4)}
