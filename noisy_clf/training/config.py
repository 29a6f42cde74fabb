"""What makes a training run what it is, as plain data: checked before there is a folder, and without torch."""
from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noisy_clf.errors import UserError
from noisy_clf.execution import PRECISIONS

if TYPE_CHECKING:
    from noisy_clf.datasets.images import Augmentation

T_SAMPLINGS = "uniform, importance, beta:A,B (of t/T), levels:LOW,HIGH (uniform between these t/T)"


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
    t_sampling      at which timesteps: "uniform", "importance", "beta:A,B", "levels:LOW,HIGH" (t_sampling.py)
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
        read_t_sampling(self.t_sampling)

    def lr_at(self, step: int) -> float:
        """Linear warm-up, times the anneal to 0 of ADM's program."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * (1 - step / self.iterations)

    @property
    def augmentation(self) -> Augmentation:
        from noisy_clf.datasets.images import Augmentation

        return Augmentation(self.random_crop, self.random_flip)


@dataclass(frozen=True)
class FineTuning:
    """How the training of a backbone of timm's begins from its clean weights, and what of it learns.

    pretrained     "timm", a file of weights, or None: drawn at random
    freeze_stages  stages, from the image on, that do not learn
    layer_decay    factor of the learning rate from each layer to the one below it
    """

    pretrained: str | None = None
    freeze_stages: int = 0
    layer_decay: float = 1.0


def read_t_sampling(text: str) -> tuple[str, list[float]]:
    """(the kind of p(t), its numbers), from how it is written on the command line."""
    kind, _, numbers = text.partition(":")
    try:
        given = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError:
        given = [math.nan]
    if kind in ("uniform", "importance") and not numbers \
            or kind == "beta" and len(given) == 2 and all(0 < number < math.inf for number in given) \
            or kind == "levels" and len(given) == 2 and 0 <= given[0] <= given[1] <= 1:
        return kind, given
    raise UserError(f"t-sampling cannot be {text!r}; it is one of: {T_SAMPLINGS}, such as beta:1,2 or levels:0,0.6.")


def saw_no_noise(training: Any) -> bool | None:
    """Of a model whose config.json has this record of its training; None: nothing tells."""
    if not isinstance(training, dict):
        return None
    with suppress(UserError):  # a newer program's way is no reason not to load it
        kind, numbers = read_t_sampling(training.get("t_sampling", TrainingConfig.t_sampling))  # older runs know that alone
        return kind == "levels" and numbers[1] == 0
    return None


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy, and departures from it that ADM's program does not have.

    label_smoothing  the part of the target that is spread evenly over all classes
    mixup            a of Beta(a, a), by which two neighbours in a batch are mixed; 0: they are not (mixup sec. 2)
    entropy_weight   of log K - H(p), by which predictions are surer than none, and so have less gradient to guide by (ED-DPM)
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label-smoothing must be at least 0 and below 1, not {self.label_smoothing}.")
        for name in ("mixup", "entropy_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}.")
