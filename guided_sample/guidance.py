"""Guidance: (x_t [B,C,H,W], t int64 [B]) -> the gradient to add to the score, float32 [B,C,H,W].

A guidance is any callable of this signature: ClassifierGuidance, or one of your own (a similarity to a picture, a sum).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from noisy_clf.classifier import NoisyClassifier, nameless
from noisy_clf.errors import UserError

Guidance = Callable[[Tensor, Tensor], Tensor]


class NonFiniteGradient(UserError):
    """A guidance gradient with NaN or infinity in it: at timestep `t`, for these samples of the batch."""

    def __init__(self, t: int, samples: list[int]) -> None:
        super().__init__(f"the guidance gradient is not finite at t = {t} for sample {', '.join(map(str, samples))}; "
                         f"try a smaller --scale, or --precision float32.")
        self.t, self.samples = t, samples


def gradient(log_prob: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
    """d/dx_t of log_prob(x_t, t) [B]: summed over the batch, so that each sample's gradient is its own."""
    with torch.enable_grad():
        x = x_t.detach().clone().requires_grad_()
        return torch.autograd.grad(log_prob(x, t).sum(), x)[0].float()


class ClassifierGuidance:
    """scale * grad log p(y | x_t), y int64 [B]. (ADM Algorithms 1 and 2)"""

    def __init__(self, classifier: NoisyClassifier, y: Tensor, scale: float) -> None:
        self.classifier, self.y, self.scale = classifier, y, scale

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        guide = self.scale * gradient(lambda x, t: self.classifier.log_prob(x, t, self.y), x_t, t)
        finite = guide.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            raise NonFiniteGradient(int(t[0]), (~finite).nonzero().flatten().tolist())
        return guide


def refuse_mismatch(denoiser: Denoiser, classifier: NoisyClassifier) -> None:
    """UserError where the two were not trained on the same noise, image size, channels or classes."""
    if not classifier.schedule.same_as(denoiser.schedule):
        raise UserError(f"the classifier learned on another noise schedule ({classifier.schedule}) than the denoiser's "
                        f"({denoiser.schedule}); train one on the denoiser's: train-noisy-clf --schedule-from DENOISER.")
    for what, theirs, ours in (("image size", classifier.image_size, denoiser.image_size),
                               ("number of channels", classifier.channels, denoiser.channels)):
        if theirs != ours:
            raise UserError(f"the classifier's {what} is {theirs} and the denoiser's {ours}; they must be the same.")
    of_classifier, of_denoiser = classifier.class_names, denoiser.class_names
    if of_denoiser and (len(of_denoiser) != len(of_classifier) or of_denoiser != of_classifier
                        and not nameless(of_denoiser) and not nameless(of_classifier)):
        raise UserError(f"the classifier's {len(of_classifier)} classes ({of_classifier[0]}, ...) are not the denoiser's "
                        f"{len(of_denoiser)} ({of_denoiser[0]}, ...).")
