"""log p(y | x_t) of a noisy classifier. (ADM sec. 4)"""
from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from guided_sample.model import Look
from noisy_clf.errors import UserError
from noisy_clf.space import Space


class Classifier(Protocol):
    """What can guide as a classifier: a NoisyClassifier is one, and any module of your own that offers these three.

    space        the images it looks at: schedule, image size, channels
    class_names  of its K classes, in the order of their numbers
    (x_t, t)     x_t [B,C,H,W] in [-1,1] and noised, t int64 [B] -> logits [B,K]; each sample's its own
    """

    @property
    def space(self) -> Space: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...


def log_prob(classifier: Classifier, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """log p(y | x_t) in nats, float32 [B]."""
    logits, K = classifier(x_t, t), len(classifier.class_names)
    if not isinstance(logits, Tensor) or logits.shape != (len(x_t), K):
        told = f"logits shaped {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"the classifier gave {told} for {len(x_t)} samples of {K} classes; a tensor [{len(x_t)}, {K}] is "
                        f"wanted.")
    return -F.cross_entropy(logits.float(), y, reduction="none")


def log_prob_of(classifier: Classifier, y: Tensor) -> Callable[[Look], Tensor]:
    """A Guide's log-density: that of the classes y int64 [B]."""
    return lambda look: log_prob(classifier, look.x_t, look.t, y)
