"""log p(y | x_t) of a classifier: a noisy one at x_t (ADM sec. 4), or a clean one at x0_hat (EluCD; universal guidance)."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from guided_sample.guides import CAP, SEES
from guided_sample.model import Look
from guided_sample.steps import Step
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


def log_prob(classifier: Classifier, x_t: Tensor, t: Tensor, y: Tensor, adapt: float | None = None, joint: float = 1.0,
             margin: float = 1.0) -> Tensor:
    """log p(y | x_t) in nats, float32 [B].

    y       classes int64 [B]; or weights float32 [B,K], for the sum of w log p(k | x_t) over the classes where w is not 0
    adapt   None, or the cap of entropy_scale, by which it is multiplied
    joint, margin  exponents of p(k, x_t) and, on top, of those that p(x_t) is the sum of (EluCD); 1: log p(y | x_t) itself
    """
    logits, K = classifier(x_t, t), len(classifier.class_names)
    if not isinstance(logits, Tensor) or logits.shape != (len(x_t), K):
        told = f"logits shaped {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"the classifier gave {told} for {len(x_t)} samples of {K} classes; a tensor [{len(x_t)}, {K}] is "
                        f"wanted.")
    logits = logits.float()
    if joint == margin == 1:
        log_p = logits.log_softmax(dim=1)
    else:  # log [exp(l_y) / sum_k exp(margin l_k)] (EluCD)
        log_p = joint * logits - (joint * margin * logits).logsumexp(dim=1, keepdim=True)
    density = weighted(log_p, y) if y.is_floating_point() else -F.nll_loss(log_p, y, reduction="none")
    return density if adapt is None else entropy_scale(logits, adapt) * density


def weighted(log_p: Tensor, weights: Tensor) -> Tensor:
    if weights.shape != log_p.shape:
        raise UserError(f"the classes' weights are shaped {list(weights.shape)}; {len(log_p)} samples of {log_p.shape[1]} "
                        f"classes have weights [{len(log_p)}, {log_p.shape[1]}].")
    return (weights * log_p.where(weights != 0, 0)).sum(dim=1)  # 0 log 0 is 0


def log_prob_of(classifier: Classifier, y: Tensor, see: str = "x_t", adapt: float | None = None, joint: float = 1.0,
                margin: float | None = None, boost: Boost | None = None) -> Callable[[Look], Tensor]:
    """A Guide's log-density: that of the classes y int64 [B], or of weights of them [B,K].

    see     "x_t"; or x0_hat, where t is told to be 0 and clean classifiers are at home: "x0" takes it for a constant plus x_t's
            share, 1 unless there is a boost (EluCD), and "through" runs back through the denoiser (universal guidance, forward)
    adapt, joint, margin  as log_prob has them; a margin of None is EluCD's 0.5 for "x0", else 1
    """
    if see not in SEES:
        raise UserError(f"a classifier cannot see {see!r}; it can see: {', '.join(SEES)}.")
    if margin is None:
        margin = 0.5 if see == "x0" else 1.0

    def log_density(look: Look) -> Tensor:
        if see == "x_t":
            return log_prob(classifier, look.x_t, look.t, y, adapt, joint, margin)
        if see == "through":
            x_0 = look.x0_hat
        else:
            x_0 = look.estimate + (1.0 if boost is None else boost(look)) * (look.x_t - look.x_t.detach())
        return log_prob(classifier, x_0, torch.zeros_like(look.t), y, adapt, joint, margin)
    return log_density


def entropy_scale(logits: Tensor, cap: float = CAP) -> Tensor:
    """log K / H(p) of logits [B,K], from 1 for a classifier that knows nothing to `cap`, without a gradient, float32 [B].
    (ED-DPM, where it has no cap)"""
    entropy = torch.special.entr(logits.detach().float().softmax(dim=1)).sum(dim=1)
    return (math.log(logits.shape[1]) / entropy).clamp(max=cap)


class Boost:
    """x_t's share of x0_hat that makes DDPM's mean + variance * gradient EluCD's
    mean + (variance + gamma * sin(pi i / n) * the largest variance so far) * gradient: float32 [B,C,H,W].

    Of one chain at a time; another begins where t rises. In other samplers it is the same factor of the gradient.

    steps    in the sampler's order; the last one's i is 0
    summary  of a step's variance [B,C,H,W], to be compared: each sample's own mean
    """

    def __init__(self, steps: Sequence[Step], gamma: float = 0.3,
                 summary: Callable[[Tensor], Tensor] = lambda variance: variance.mean(dim=(1, 2, 3), keepdim=True)) -> None:
        self.added = {step.t: gamma * math.sin(math.pi * i / len(steps)) for i, step in enumerate(reversed(steps))}
        self.summary, self.t = summary, -1
        self.largest: Tensor

    def __call__(self, look: Look) -> Tensor | float:
        t, variance = look.step.t, (torch.zeros_like(look.x_t) + look.prediction.variance).detach()
        largest = self.summary(variance)
        if t <= self.t:
            largest = largest.maximum(self.largest)
        self.t, self.largest = t, largest
        added = self.added[t] * largest
        return 1 + added / variance if self.added[t] else 1.0  # of the last step the variance may be 0
