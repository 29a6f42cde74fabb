"""How to train: what makes a run what it is, and apart from that, how it is computed."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from noisy_clf.datasets.images import Augmentation
from noisy_clf.errors import UserError
from noisy_clf.execution import PRECISIONS
from noisy_clf.processes import Processes


@dataclass(frozen=True)
class TrainingConfig:
    """What makes a run what it is; a run that goes on must be given the same.

    iterations      optimizer steps
    batch_size      images a step, over all processes
    lr              AdamW's learning rate at the start; it falls linearly to 0 at the last iteration
    warmup          iterations over which the learning rate first rises from 0
    weight_decay    AdamW's
    ema             decay of the weights' moving average, which is what is validated and saved; 0: the weights themselves
    grad_clip       largest norm of the gradient; 0: any
    precision       "float32", or what convolutions and products are computed in: "bf16", "fp16" (with loss scaling)
    t_sampling      at which timesteps: "uniform", "importance", "beta:A,B", "levels:LOW,HIGH" (timestep_sampling.py)
    random_crop     each image cropped anew each time, as ADM's program does it
    random_flip     a mirror image half of the time
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
    precision: str = "float32"
    t_sampling: str = "uniform"
    random_crop: bool = False
    random_flip: bool = False
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
        if self.precision not in PRECISIONS:
            raise UserError(f"unknown precision {self.precision!r}; there are: {', '.join(PRECISIONS)}.")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, times the anneal to 0 of ADM's program."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * (1 - step / self.iterations)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.random_crop, self.random_flip)


@dataclass(frozen=True)
class Execution:
    """How a run is computed, which changes it by rounding at most: it may go on with another.

    device       of this process
    processes    that share each batch
    microbatch   images of a batch that a process computes at a time; 0: all of its share
    compile      through torch.compile
    threads      that read images ahead of the steps; 0: none, each step reads its own
    keep         training states that stay on disk, the newest ones
    tensorboard  metrics for it, too
    """

    device: torch.device = torch.device("cpu")
    processes: Processes = Processes()
    microbatch: int = 0
    compile: bool = False
    threads: int = 2
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in (("microbatch", 0), ("threads", 0), ("keep", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}.")

    def parts(self, share: range, multiple: int = 1) -> list[range]:
        """A process's share of a batch, in microbatches."""
        size = max(self.microbatch // multiple * multiple, multiple) if self.microbatch else max(len(share), 1)
        return [share[start:start + size] for start in range(0, len(share), size)]
