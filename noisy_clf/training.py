"""The training loop of classifiers and denoisers: step, EMA, annealed learning rate, validation, stop and resume.

What step n does follows from (seed, n) and the weights alone: its images, timesteps, noise and dropout. So a run that was
stopped, in any way, and started again is the run that never stopped.
"""
from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from noisy_clf.checkpoint import save_model
from noisy_clf.datasets.images import Dataset, to_x_0
from noisy_clf.datasets.order import training_order
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write, claim_folder, versions

STATE, METRICS, OPTIONS = "training_state.pt", "metrics.jsonl", "options.json"


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    iterations      optimizer steps
    batch_size      images a step
    lr              AdamW's learning rate at the start; it falls linearly to 0 at the last iteration
    warmup          iterations over which the learning rate first rises from 0
    weight_decay    AdamW's
    ema             decay of the weights' moving average, which is what is validated and saved; 0: the weights themselves
    grad_clip       largest norm of the gradient; 0: any
    seed            of weights, images, timesteps, noise and dropout
    validate_every  iterations between validations (and between writes of the last model)
    save_every      iterations between writes of the training state
    """

    iterations: int
    batch_size: int
    lr: float
    warmup: int = 0
    weight_decay: float = 0.0
    ema: float = 0.999
    grad_clip: float = 0.0
    seed: int = 0
    validate_every: int = 500
    save_every: int = 500

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}.")
        for name in ("warmup", "weight_decay", "grad_clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}.")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must be at least 0 and below 1, not {self.ema}.")
        if not 0 < self.lr < float("inf"):
            raise UserError(f"lr must be a positive number, not {self.lr}.")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, times the anneal to 0 of ADM's program."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * (1 - step / self.iterations)


@dataclass(frozen=True)
class Task:
    """What is trained, and so all that differs between a classifier and a denoiser.

    network       whose parameters learn
    loss          (network, x_0 [B,C,H,W], y [B], generator) -> loss [B]; draws t and eps from the generator
    validate      network -> metrics; the lowest "loss" is the best model
    model_config  the config.json of the models it writes
    """

    network: nn.Module
    loss: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    model_config: dict[str, Any]


class Run:
    """A training run's state: weights, their average, optimizer, step, best validation. Kept in one file."""

    def __init__(self, task: Task, config: TrainingConfig, data: Dataset, folder: Path) -> None:
        self.task, self.config, self.data, self.folder = task, config, data, folder
        self.model_config = {**task.model_config, "versions": versions(),
                             "training": {"dataset": data.name, "images": len(data.train), **asdict(config)}}
        self.network = task.network
        self.average = copy.deepcopy(task.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step, self.best = 0, float("inf")
        self.losses: list[Tensor] = []  # of each step since the last validation

    def train_step(self, device: torch.device) -> None:
        config = self.config
        train = self.data.train
        positions = range(self.step * config.batch_size, (self.step + 1) * config.batch_size)
        images, y = train.batch(training_order(len(train), config.seed, positions))
        x_0 = to_x_0(images)
        seed = 2 * ((config.seed << 31) + self.step)
        generator = torch.Generator(device).manual_seed(seed)  # t and eps
        torch.manual_seed(seed + 1)  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step)
        loss = self.task.loss(self.network, x_0.to(device), y.to(device), generator).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list[Tensor](self.network.parameters()), 1 - config.ema)
        self.losses.append(loss.detach())
        self.step += 1

    def mean_loss(self) -> float:
        """Since the last validation; one that is no number ends the run before anything is saved."""
        loss = torch.stack([loss.cpu() for loss in self.losses]).mean().item() if self.losses else 0.0
        if not loss < float("inf"):
            raise UserError(f"the loss became {loss} before step {self.step}; the models saved until then stand, but a lower "
                            f"--lr or a --grad-clip is needed, in another --out.")
        return loss

    def validate(self) -> dict[str, float]:
        """Validates the average, writes it as the last model, and as the best if it is."""
        metrics = self.task.validate(self.average)
        about = {"step": self.step, **metrics}
        save_model(self.folder / "last", self.model_config, self.average, about)
        if metrics["loss"] < self.best:
            self.best = metrics["loss"]
            save_model(self.folder / "best", self.model_config, self.average, about)
        return metrics

    def save(self) -> None:
        with atomic_write(self.folder / STATE) as temporary, open(temporary, "wb") as file:
            torch.save({"step": self.step, "best": self.best, "losses": self.losses, "network": self.network.state_dict(),
                        "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}, file)

    def resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best, self.losses = state["step"], state["best"], state["losses"]
        except Exception as error:  # whatever a damaged or foreign file makes torch raise
            raise UserError(f"{path} cannot be resumed from: it is damaged, or of another program; "
                            f"remove it to start this run from the beginning.") from error


def train(task: Task, data: Dataset, config: TrainingConfig, folder: Path, device: torch.device) -> None:
    """Trains to the end, going on from where a run in `folder` stopped.

    Writes best/ and last/ (models), training_state.pt, metrics.jsonl and options.json. Ctrl-C and SIGTERM end the run
    after the current step with its state saved; UserError if the folder holds a run with other options.
    """
    options = {"dataset": data.name, "model": task.model_config, "training": asdict(config)}
    claim_folder(folder / OPTIONS, options)
    task.network.to(device).train()
    run = Run(task, config, data, folder)
    run.resume()
    metrics = MetricsLog(folder / METRICS, run.step)
    if run.step >= config.iterations:
        print(f"{folder} is finished: {run.step} iterations, best validation loss {run.best:.4f}.")
        return
    bar = tqdm(total=config.iterations, initial=run.step, unit="step", desc="training", dynamic_ncols=True)
    since, first = time.perf_counter(), run.step
    with stop_signals() as stopped, bar:
        while run.step < config.iterations:
            run.train_step(device)
            bar.update()
            last = run.step == config.iterations
            validate = run.step % config.validate_every == 0 or last
            save = run.step % config.save_every == 0 or last or stopped()
            if validate or save:
                loss = run.mean_loss()
            if validate:
                speed = (run.step - first) * config.batch_size / (time.perf_counter() - since)
                found = run.validate()
                metrics.write({"step": run.step, "train_loss": loss, "lr": config.lr_at(run.step - 1),
                               "images_per_second": round(speed, 1),
                               **{f"validation_{name}": value for name, value in found.items()}})
                bar.set_postfix_str(f"{speed:.0f} images/s, " + ", ".join(
                    f"{name} {value:.3f}" for name, value in [("train loss", loss), *found.items()]))
                since, first, run.losses = time.perf_counter(), run.step, []
            if save:
                run.save()
            if save and not last and stopped():
                bar.close()
                raise UserError(f"stopped at step {run.step} of {config.iterations}; everything is saved in {folder}: "
                                f"the same command goes on from here.")


class MetricsLog:
    """metrics.jsonl: one JSON object a validation. What a resumed run will write again is dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in (path.read_text().splitlines() if path.exists() else []) if step_of(line) <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, entry: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")


def step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line torn by a kill
        return float("inf")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM only makes the yielded function answer True; the second acts as ever."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
