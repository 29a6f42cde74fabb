"""What a noisy classifier learns: to name the class of x_t at any timestep. (ADM sec. 4)"""
from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import Dataset
from noisy_clf.evaluation import LEVELS, evaluate
from noisy_clf.training import Task


def classifier_task(classifier: NoisyClassifier, data: Dataset) -> Task:
    """Cross-entropy at uniformly drawn t; validated by its mean over fixed noise levels."""
    schedule = classifier.schedule

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        t = torch.randint(schedule.T, y.shape, generator=generator, device=y.device)
        eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
        return F.cross_entropy(network(schedule.add_noise(x_0, t, eps), t).float(), y, reduction="none")

    def validate(network: Any) -> dict[str, float]:
        rows = evaluate(NoisyClassifier(network, schedule, classifier.class_names), data.validation, LEVELS)
        return {"loss": fmean(row.nll for row in rows),
                **{f"accuracy_at_{level}": row.accuracy for level, row in zip(LEVELS, rows)}}

    return Task(classifier.network, loss, validate, classifier.config())
