"""What a noisy classifier learns: to name the class of x_t at any timestep. (ADM sec. 4)"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import Dataset
from noisy_clf.training.draws import Draws
from noisy_clf.errors import UserError
from noisy_clf.evaluation.by_noise_level import LEVELS, evaluate
from noisy_clf.processes import Processes
from noisy_clf.training.task import Task


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy, and departures from it that ADM's program does not have.

    label_smoothing  the part of the target that is spread evenly over all classes
    mixup            a of Beta(a, a), by which two neighbours in a batch are mixed; 0: they are not (mixup sec. 2)
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label-smoothing must be at least 0 and below 1, not {self.label_smoothing}.")
        if not 0 <= self.mixup < float("inf"):
            raise UserError(f"mixup must be 0 or more, not {self.mixup}.")

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """logits [B,K], y [B] -> nats [B]."""
        return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=self.label_smoothing)


def classifier_task(classifier: NoisyClassifier, data: Dataset, cross_entropy: ClassifierLoss = ClassifierLoss(),
                    **more: Any) -> Task:
    """Cross-entropy on x_t; validated by its mean, without smoothing, over fixed noise levels.

    more  fields of the Task
    """
    schedule = classifier.schedule

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        eps = draws.noise_like(x_0)
        if not cross_entropy.mixup:
            return cross_entropy(network(schedule.add_noise(x_0, t, eps), t), y)
        kept = draws.beta_of_pairs(cross_entropy.mixup).to(x_0.device)
        other = neighbours(y)
        x_0 = kept.view(-1, 1, 1, 1) * x_0 + (1 - kept).view(-1, 1, 1, 1) * neighbours(x_0)
        logits = network(schedule.add_noise(x_0, t, eps), t)
        return kept * cross_entropy(logits, y) + (1 - kept) * cross_entropy(logits, other)

    def validate(network: Any, processes: Processes) -> dict[str, float]:
        rows = evaluate(NoisyClassifier(network, schedule, classifier.class_names), data.validation, LEVELS,
                        progress="validating", processes=processes)
        return {"loss": fmean(row.nll for row in rows),
                **{f"accuracy_at_{level}": row.accuracy for level, row in zip(LEVELS, rows)}}

    options = {**asdict(cross_entropy), **more.pop("options", {})}
    return Task(classifier.network, schedule.T, loss, validate, classifier.config(),
                multiple=2 if cross_entropy.mixup else 1, options=options, **more)


def neighbours(rows: Tensor) -> Tensor:
    """[B,...] with each two neighbours exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
