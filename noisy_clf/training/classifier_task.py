"""What a noisy classifier learns: to name the class of x_t at any timestep. (ADM sec. 4)"""
from __future__ import annotations

import math
from dataclasses import asdict
from statistics import fmean
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import Dataset
from noisy_clf.evaluation.by_noise_level import LEVELS, evaluate
from noisy_clf.files import defaults_of
from noisy_clf.processes import Processes
from noisy_clf.training.config import ClassifierLoss, FineTuning
from noisy_clf.training.draws import Draws
from noisy_clf.training.task import Task


def classifier_task(classifier: NoisyClassifier, data: Dataset, settings: ClassifierLoss = ClassifierLoss(),
                    **more: Any) -> Task:
    """Cross-entropy on x_t; validated by its mean, without smoothing and what is added, over fixed noise levels.

    more  fields of the Task
    """
    schedule = classifier.schedule

    def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
        """logits [B,K], y [B] -> nats [B]."""
        nats = F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=settings.label_smoothing)
        return nats + settings.entropy_weight * lost_entropy(logits.float()) if settings.entropy_weight else nats

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        eps = draws.noise_like(x_0)
        if not settings.mixup:
            return cross_entropy(network(schedule.add_noise(x_0, t, eps), t), y)
        kept = draws.beta_of_pairs(settings.mixup).to(x_0.device)
        other = neighbours(y)
        x_0 = kept.view(-1, 1, 1, 1) * x_0 + (1 - kept).view(-1, 1, 1, 1) * neighbours(x_0)
        logits = network(schedule.add_noise(x_0, t, eps), t)
        return kept * cross_entropy(logits, y) + (1 - kept) * cross_entropy(logits, other)

    def validate(network: Any, processes: Processes) -> dict[str, float]:
        rows = evaluate(NoisyClassifier(network, schedule, classifier.class_names), data.validation, LEVELS,
                        progress="validating", processes=processes)
        return {"loss": fmean(row.nll for row in rows),
                **{f"accuracy_at_{level}": row.accuracy for level, row in zip(LEVELS, rows)}}

    options = {**asdict(settings), **more.pop("options", {})}
    defaults = {"model": {"network": defaults_of(type(classifier.network.config))},
                "training": defaults_of(ClassifierLoss) | defaults_of(FineTuning)}
    return Task(classifier.network, schedule.T, loss, validate, classifier.config(),
                multiple=2 if settings.mixup else 1, options=options, defaults=defaults, **more)


def lost_entropy(logits: Tensor) -> Tensor:
    """log K - H(p): how much surer than not at all, in nats [B], of logits [B,K]. (ED-DPM)"""
    log_p = logits.log_softmax(dim=1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(dim=1)


def neighbours(rows: Tensor) -> Tensor:
    """[B,...] with each two neighbours exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
