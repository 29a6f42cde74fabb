"""Contrasts of two models: classifier-free guidance, autoguidance, and what has been made of them.

They go inside of thresholds and guides: steered(thresholded(classifier_free(denoiser, y, w), clip), guide).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from guided_sample.denoiser import Denoiser
from guided_sample.model import Model, Prediction, Scale, at, for_each_sample, guided, is_everywhere, labelled
from guided_sample.steps import Step
from noisy_clf.errors import UserError

SAMPLE = (1, 2, 3)  # the axes of one


@dataclass(frozen=True)
class Projection:
    """What becomes of a contrast's difference in adaptive projected guidance. (APG: Sadat et al. 2024)

    momentum  of the difference's running sum along the chain, between -1 and 1; below 0 it takes back what the steps before
              have pushed (the paper's is -0.5)
    norm      of a sample's difference, above 0: longer ones are shortened to it; None: none are
    eta       how much is kept of the part along the strong model's x0_hat, which saturates; 1: all
    """

    momentum: float = 0.0
    norm: float | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not -1 < self.momentum < 1 or (self.norm is not None and not self.norm > 0):
            raise UserError(f"a projection was given momentum {self.momentum} and norm {self.norm}; give a momentum between -1 "
                            f"and 1, and a norm above 0 or None.")


def contrast(strong: Model, weak: Model, scale: Scale | float | Tensor, *, plus_plus: bool = False,
             projected: Projection | None = None, rescale: float = 0.0,
             both: Callable[[Tensor, Step], tuple[Prediction, Prediction]] | None = None) -> Model:
    """weak + scale (strong - weak) in x0_hat, with the strong one's variance: classifier-free guidance (where Ho & Salimans'
    w is scale - 1) and autoguidance. Guides go around it: what is steered is refused, as the contrast of two gradients is
    that of no density.

    scale      where it is 1 throughout, the weak one is not run (`beyond_one` makes such scales of guides')
    plus_plus  CFG++: the weak one's noise is put back, so that it is always run; scales are from 0 to 1. (Chung et al. 2024)
    projected  APG: strong + (scale - 1) times the projected difference. With a momentum the model is one chain's at a time:
               a step at the same t again takes the place of the former, and one at a higher t begins a new chain
    rescale    from 0 to 1, how far x0_hat goes back to the standard deviation of the strong one's. (Lin et al. 2023 sec. 3.4)
    both       the strong and the weak prediction in one call, where that is cheaper
    """
    if not 0 <= rescale <= 1:
        raise UserError(f"a contrast was given rescale {rescale}; give a number from 0, none, to 1, all.")
    project = projecting(projected) if projected else None

    def model(x_t: Tensor, step: Step) -> Prediction:
        w = at(scale, step)
        if plus_plus and not isinstance(w, Tensor) and not 0 <= w <= 1:
            raise UserError(f"CFG++ was given scale {w} at t = {int(step.t)}; give one from 0 to 1, or leave out CFG++.")
        if is_everywhere(w, 1) and not plus_plus:
            return unsteered(strong(x_t, step))
        good, bad = map(unsteered, both(x_t, step) if both else (strong(x_t, step), weak(x_t, step)))
        difference = good.x0_hat - bad.x0_hat
        w = for_each_sample(w, difference, "the contrast")
        if project:
            x0_hat = good.x0_hat + (w - 1) * project(difference, good.x0_hat, w, step)
        else:
            x0_hat = bad.x0_hat + w * difference
        if rescale:
            ratio = good.x0_hat.std(dim=SAMPLE, keepdim=True) / x0_hat.std(dim=SAMPLE, keepdim=True)
            x0_hat = x0_hat * (1 - rescale + rescale * ratio)
        return good._replace(x0_hat=x0_hat, eps=guided(bad, x_t, step)[1] if plus_plus else good.eps)
    return model


def classifier_free(denoiser: Denoiser, y: Tensor, scale: Scale | float | Tensor, **how: Any) -> Model:
    """The contrast of the classes y int64 [B] with the null class, in one batch of 2B; `how` as in `contrast`. Samples whose
    y is the null class, K, are not guided. (Ho & Salimans 2021; the variance of the classes' half: GLIDE)"""
    if not denoiser.null_class:
        known = f"its {denoiser.K} classes and not the null class" if denoiser.K else "no classes"
        raise UserError(f"classifier-free guidance was asked of a denoiser that knows {known}; train one by train-ddpm "
                        f"--drop-labels 0.1, or guide this one by a classifier.")
    null = torch.full_like(y, denoiser.K)
    twice = labelled(denoiser, torch.cat([y, null]))

    def both(x_t: Tensor, step: Step) -> tuple[Prediction, Prediction]:
        x0_hat, variance, *_ = twice(torch.cat([x_t, x_t]), step)
        strong, weak = x0_hat.chunk(2)
        own, other = variance.chunk(2) if isinstance(variance, Tensor) else (variance, variance)
        return Prediction(strong, own), Prediction(weak, other)
    return contrast(labelled(denoiser, y), labelled(denoiser, null), scale, both=both, **how)


def beyond_one(excess: Scale | float | Tensor) -> Scale:
    """1 + excess. Contrasts sleep at 1 where guides do at 0: beyond_one(within(interval, w - 1)) is w in the interval alone."""
    return lambda step: 1 + at(excess, step)


def unsteered(prediction: Prediction) -> Prediction:
    if prediction.log_density is not None:  # folded into x0_hat or not
        raise UserError("contrast was given a model that is steered; steer the contrast instead: "
                        "steered(contrast(...), guide).")
    return prediction


def projecting(how: Projection) -> Callable[[Tensor, Tensor, float | Tensor, Step], Tensor]:
    """(difference, strong, w, step) -> what APG makes of the difference, which it adds to those of the steps before."""
    t: float = -1
    before: float | Tensor = 0.0
    now: float | Tensor = 0.0

    def project(difference: Tensor, strong: Tensor, w: float | Tensor, step: Step) -> Tensor:
        nonlocal t, before, now
        if how.momentum:
            if step.t != t:
                t, before = step.t, now if step.t < t else 0.0
            difference = difference + how.momentum * before
            moved = torch.as_tensor(w != 1, device=difference.device)  # others keep their sum, as if they were drawn alone
            now = difference.detach().where(moved, before)
        if how.norm is not None:
            length = torch.linalg.vector_norm(difference, dim=SAMPLE, keepdim=True)
            difference = difference * (how.norm / length.clamp(min=how.norm))
        along = normalize(strong.double().flatten(1), dim=1).view_as(strong)
        parallel = (difference.double() * along).sum(dim=SAMPLE, keepdim=True) * along
        return (difference.double() - (1 - how.eta) * parallel).to(difference.dtype)
    return project
