"""A training run's state, and the step that moves it on."""
from __future__ import annotations

import copy
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from noisy_clf.checkpoints.model_folder import save_model
from noisy_clf.datasets.images import Dataset, to_x_0
from noisy_clf.datasets.order import training_order
from noisy_clf.errors import UserError
from noisy_clf.execution import dtype_of
from noisy_clf.files import atomic_write, versions
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.draws import Draws, augmentation_generators, uniform
from noisy_clf.training.execution import Execution
from noisy_clf.training.states import take_newest, write_state
from noisy_clf.training.t_sampling import timestep_sampler
from noisy_clf.training.task import Task


class Run:
    """A training run's state: weights, their average, optimizer, loss scale, step, best validation.

    What step n does follows from (seed, n) and this state alone: its images, timesteps, noise and dropout.
    """

    def __init__(self, task: Task, config: TrainingConfig, data: Dataset, folder: Path, execution: Execution) -> None:
        self.task, self.config, self.data, self.folder, self.execution = task, config, data, folder, execution
        device = execution.device
        self.model_config = {**task.model_config, "versions": versions(), "training": {
            "dataset": data.name, "images": len(data.train), **asdict(config), **task.options, **task.record}}
        self.network = task.network.to(device).train()
        if task.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.computed: Any = torch.compile(self.network) if execution.compile else self.network
        self.average = copy.deepcopy(task.network).eval().requires_grad_(False)
        self.timesteps = timestep_sampler(config.t_sampling, task.T)  # on the CPU: not every GPU has float64
        groups = task.parameter_groups or [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.step, self.validated, self.best = 0, 0, float("inf")
        self.losses: list[Tensor] = []  # of each step since the last validation

    @property
    def owes_validation(self) -> bool:
        """The state is saved before a validation, which may take long, so that a stop need not wait for it."""
        due = self.step % self.config.validate_every == 0 or self.step == self.config.iterations
        return due and self.validated < self.step

    @property
    def finished(self) -> bool:
        return self.validated == self.step == self.config.iterations

    def positions(self, step: int, part: range) -> range:
        """The positions in training of a part of that step's batch."""
        first = step * self.config.batch_size
        return range(first + part.start, first + part.stop)

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of a step's batch: (images uint8 [B,C,H,W], y [B]), where the device takes them quickest."""
        config, positions = self.config, self.positions(step, self.share)
        indices = training_order(len(self.data.train), config.seed, positions)
        if config.random_crop or config.random_flip:
            batch = self.data.train.augmented(indices, config.augmentation, augmentation_generators(config.seed, positions))
        else:
            batch = self.data.train.batch(indices)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self.execution.device.type == "cuda" else batch

    @property
    def share(self) -> range:
        return self.execution.processes.share(self.config.batch_size, self.task.multiple)

    def train_step(self, images: Tensor, y: Tensor) -> None:
        """One step of AdamW on the whole batch, of which `images` and `y` are this process's share."""
        config, execution, share = self.config, self.execution, self.share
        B, device = config.batch_size, execution.device
        images, y = images.to(device, non_blocking=True), y.to(device, non_blocking=True)
        t, weight = (drawn.to(device) for drawn in self.timesteps(uniform(config.seed, self.positions(self.step, range(B)))))
        losses = torch.zeros(B, device=device)
        for part in execution.parts(share, self.task.multiple):
            here = slice(part.start - share.start, part.stop - share.start)
            there = slice(part.start, part.stop)
            loss = self.losses_of(images[here], y[here], t[there], part)
            self.scaler.scale((loss * weight[there]).sum() / B).backward()
            losses[there] = loss.detach()
        execution.processes.add([p.grad for p in self.network.parameters() if p.grad is not None] + [losses])
        self.update()
        self.timesteps.learn(t, losses)
        self.losses.append((losses * weight).mean())
        self.step += 1

    def losses_of(self, images: Tensor, y: Tensor, t: Tensor, part: range) -> Tensor:
        """The losses, with their graph, of a part of the step's batch [B]."""
        device, precision = self.execution.device, self.config.precision
        draws = Draws(self.config.seed, self.positions(self.step, part), device)
        with torch.autocast(device.type, dtype_of(precision), enabled=precision != "float32"), \
                draws.decide_dropout(self.network):
            return self.task.loss(self.computed, to_x_0(images), y, t, draws)

    def update(self) -> None:
        """The optimizer's step and the moving average's, from the gradients that were gathered."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step) * group.get("lr_scale", 1.0)
        if config.grad_clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip)
        self.scaler.step(self.optimizer)
        scale = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() < scale and self.execution.processes.first:
            tqdm.write(f"step {self.step}: the gradients are not finite in fp16; skipped, the loss scale is now "
                       f"{self.scaler.get_scale():g}")
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list[Tensor](self.network.parameters()), 1 - config.ema)

    def mean_loss(self) -> float:
        """Since the last validation; one that is no number ends the run before anything is saved."""
        if not self.losses:
            return 0.0
        losses = torch.stack([loss.cpu() for loss in self.losses])
        bad = (~losses.isfinite()).nonzero().flatten()
        if len(bad) and (self.config.precision != "fp16" or len(bad) == len(losses)):
            first = int(bad[0])
            raise diverged("loss", losses[first].item(), self.step - len(losses) + first)
        return losses[losses.isfinite()].mean().item()

    def validate(self) -> dict[str, float]:
        """Validates the average, writes it as the last model, and as the best if it is, and a preview."""
        metrics = self.task.validate(self.average, self.execution.processes)
        if not math.isfinite(metrics["loss"]):
            raise diverged("validation loss", metrics["loss"], self.step)
        about = {"step": self.step, **metrics}
        better = metrics["loss"] < self.best
        self.best = min(self.best, metrics["loss"])
        for name in ["last"] + ["best"] * better:
            self.execution.processes.first_does(
                lambda: save_model(self.folder / name, self.model_config, self.average, about))
        self.execution.processes.first_does(self.write_preview)
        self.validated, self.losses = self.step, []
        return metrics

    def write_preview(self) -> None:
        if self.task.preview:
            picture = Image.fromarray(self.task.preview(self.average))
            with atomic_write(self.folder / "previews" / f"step-{self.step:07d}.png") as temporary:
                picture.save(temporary, format="PNG")

    def save(self) -> None:
        """Writes the state. Only the first process does."""
        self.execution.processes.first_does(lambda: write_state(self.folder, self.state(), self.execution.keep))

    def resume(self) -> None:
        """Goes on from the newest state that is whole, if there is any."""
        take_newest(self.folder, self.take, talk=self.execution.processes.first)

    def state(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        return {"step": self.step, "validated": self.validated, "best": self.best, "losses": self.losses,
                "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "timesteps": self.timesteps.state_dict()}

    def take(self, state: dict[str, Any]) -> None:
        step, validated = int(state["step"]), int(state["validated"])
        best, losses = float(state["best"]), list(state["losses"])
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # the fused step reads all of a parameter's in one order
            moments.update({name: torch.empty_like(parameter).copy_(moment) for name, moment in moments.items()
                            if moment.shape == parameter.shape})
        self.scaler.load_state_dict(state["scaler"])
        self.timesteps.load_state_dict(state["timesteps"])
        self.step, self.validated, self.best, self.losses = step, validated, best, losses


def diverged(what: str, loss: float, step: int) -> UserError:
    return UserError(f"the {what} became {loss} at step {step}; the models saved until then stand, but a lower --lr or a "
                     f"--grad-clip is needed, in another --out.")
