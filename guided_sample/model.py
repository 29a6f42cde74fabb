"""What samplers see: a Model says, for x_t and a step, what x_0 is thought to be and where to steer.

Models are made of models; the order of the wrappers is the order of the algorithm. ADM's own (Algorithms 1 and 2) is

    steered(thresholded(labelled(denoiser, y), clip), Guide(log_prob_of(classifier, y), scale))
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.posterior import posterior_mean, reverse_variance
from guided_sample.steps import Step
from noisy_clf.errors import UserError, one_line, out_of_memory


class Prediction(NamedTuple):
    """What a model says of one reverse step.

    x0_hat       float32 [B,C,H,W], clipped or thresholded as it shall be
    variance     of the step: a number, or [B,C,H,W] where it is learned
    gradient     of log_density with respect to x_t [B,C,H,W]: to be added to the score
    log_density  of all guides, scaled, in nats [B]
    eps          the noise to put back, where it is not that of x0_hat itself (CFG++)
    """

    x0_hat: Tensor
    variance: Tensor | float
    gradient: Tensor | None = None
    log_density: Tensor | None = None
    eps: Tensor | None = None


Model = Callable[[Tensor, Step], Prediction]
Scale = Callable[[Step], float | Tensor]  # at a step: one number, or one for each sample [B]


class Look:
    """What a guide may look at: x_t [B,C,H,W] at t int64 [B] (float32 where steps are at fractional t), its signal's variance
    alpha_bar, numbers of the step, and x0_hat as the model has it.

    The denoiser runs when x0_hat is first asked for, once a step, for the guides and the sampler together. Gradients run back
    through x0_hat to x_t, whatever the mode in which it is asked for; `estimate` is the same number without them, for which the
    denoiser runs without a graph (and again, if x0_hat is asked for afterwards). Guides must not change what they look at.

    t      where x_t is not at the step's own t, but at its t_prev
    outer  a guide around this one's model looks through it: the graph is kept
    """

    def __init__(self, model: Model, x_t: Tensor, step: Step, t: float | None = None, outer: bool = False) -> None:
        self.x_t, self.step, self._outer = x_t, step, outer
        self.t = torch.full((len(x_t),), step.t if t is None else t, device=x_t.device)
        self.alpha_bar = step.alpha_bar if t is None else step.alpha_bar_prev
        self._model, self._versions, self._graph = model, [(x_t, x_t._version)], outer

    @cached_property
    def prediction(self) -> Prediction:
        with torch.set_grad_enabled(self._graph):
            x_t = self.x_t if self._graph else self.x_t.detach()  # as where no guide looks: networks are compiled once for both
            found = self._model(x_t, self.step)
        self._versions.append((found.x0_hat, found.x0_hat._version))
        return found

    @property
    def x0_hat(self) -> Tensor:
        if not self._graph:
            self._graph = True
            self.__dict__.pop("prediction", None)
        return self.prediction.x0_hat

    @property
    def estimate(self) -> Tensor:
        return self.prediction.x0_hat.detach()

    @property
    def changed(self) -> bool:
        """Whether a guide has worked in place."""
        return any(tensor._version != version for tensor, version in self._versions)


@dataclass(frozen=True)
class Guide:
    """A log-density to climb.

    log_density  (look) -> nats [B]: log p(y | x_t), a similarity, any differentiable loss negated
    scale        how strongly, by the step; or the same number for all steps, or one for each sample [B]. Where it is 0
                 throughout, log_density is not called (a GPU's tensor is not asked, as that would make the GPU wait)
    name         what messages call it
    """

    log_density: Callable[[Look], Tensor]
    scale: Scale | float | Tensor = 1.0
    name: str = "the guide"

    def asleep_at(self, step: Step) -> bool:
        return is_everywhere(at(self.scale, step), 0)

    def scaled(self, look: Look) -> Tensor:
        """scale * log_density, float32 [B]: scaled before the gradient is taken, a sample's scale is that of all its pixels."""
        found = self.log_density(look)
        B, t = len(look.x_t), int(look.step.t)
        if not isinstance(found, Tensor) or found.shape != (B,) or not found.is_floating_point():
            told = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else repr(found)[:60]
            raise UserError(f"{self.name} gave {told} at t = {t} for samples 0 to {B - 1} of the batch; a log-density is "
                            f"a floating-point tensor [{B}], one number for each sample.")
        if not found.requires_grad:
            raise UserError(f"{self.name} gave a log-density without a gradient at t = {t} for samples 0 to {B - 1} of the "
                            f"batch; compute it from look.x_t or look.x0_hat, by differentiable functions.")
        found = found.to(look.x_t.device, torch.float32)
        return found * for_each_sample(at(self.scale, look.step), found, self.name)


def at(scale: Scale | float | Tensor, step: Step) -> float | Tensor:
    return scale(step) if callable(scale) else scale


def is_everywhere(scale: float | Tensor, number: float) -> bool:
    if isinstance(scale, Tensor):
        return scale.device.type == "cpu" and bool((scale == number).all())
    return scale == number


def for_each_sample(scale: float | Tensor, values: Tensor, name: str) -> float | Tensor:
    """The scale as a factor of values [B,...]: a number, or a sample's own for all that is the sample's."""
    if not isinstance(scale, Tensor):
        return scale
    if scale.shape not in ((), values.shape[:1]):
        raise UserError(f"the scale of {name} is shaped {list(scale.shape)}; it is one number, or one for each of the "
                        f"{len(values)} samples.")
    return scale.to(values.device, torch.float32).reshape(-1, *[1] * (values.ndim - 1))


def labelled(denoiser: Denoiser, y: Tensor | None) -> Model:
    """The denoiser told the classes y int64 [B]; None for an unconditional one, or for the null class."""
    def model(x_t: Tensor, step: Step) -> Prediction:
        t = torch.full((len(x_t),), step.t, device=x_t.device)
        x0_hat, v = denoiser(x_t, t, y)
        return Prediction(x0_hat, reverse_variance(step, denoiser.variance, v))
    return model


def thresholded(model: Model, how: Callable[[Tensor], Tensor]) -> Model:
    """The model with `how` applied to its x0_hat. A gradient that it carries goes into x0_hat first, and so acts in every
    sampler as it does in DDIM: outside of `steered`, x0_hat is guided and then thresholded, as fast solvers want it. Guides
    around that cannot look at x0_hat: no derivative of the guidance within is taken. What is not finite in the gradient
    stays to be seen in log_density."""
    def thresholding(x_t: Tensor, step: Step) -> Prediction:
        prediction = model(x_t, step)
        if prediction.gradient is not None:
            if torch.is_grad_enabled() and x_t.requires_grad:
                raise UserError("a guide looks at an x0_hat that has another's guidance in it; leave out one, or give "
                                "--threshold none (in Python: give both to one steered(...)).")
            x0_hat, eps = guided(prediction, x_t, step)
            density = prediction.log_density
            if density is not None:
                density = density.where(prediction.gradient.isfinite().flatten(1).all(dim=1), math.nan)
            prediction = prediction._replace(x0_hat=x0_hat, gradient=None, log_density=density,
                                             eps=None if prediction.eps is None else eps)
        return prediction._replace(x0_hat=how(prediction.x0_hat))
    return thresholding


def clip(x0_hat: Tensor) -> Tensor:
    """To the range of images, [-1,1]."""
    return x0_hat.clamp(-1, 1)


def dynamic(quantile: float = 0.995) -> Callable[[Tensor], Tensor]:
    """Each sample's x0_hat clipped to [-q,q] and divided by q, q being that quantile of its |x0_hat|, but at least 1.
    (Imagen sec. 2.3)"""
    def how(x0_hat: Tensor) -> Tensor:
        size = x0_hat.abs().flatten(1)
        below, between = divmod(quantile * (size.shape[1] - 1), 1)
        largest = size.topk(size.shape[1] - int(below), dim=1).values  # a sort of all is slower, and torch.quantile has a limit
        q = largest[:, -1].lerp(largest[:, -2 if between else -1], between)
        q = q.clamp(min=1).view(-1, 1, 1, 1)
        return x0_hat.clamp(-q, q) / q
    return how


def steered(model: Model, *guides: Guide) -> Model:
    """The model with the gradient of all guides' log-densities at x_t, taken in one pass and added to what it carries."""
    def steering(x_t: Tensor, step: Step) -> Prediction:
        awake = [guide for guide in guides if not guide.asleep_at(step)]
        if not awake:
            return model(x_t, step)
        inner = torch.is_grad_enabled() and x_t.requires_grad  # a guide around this model looks through it
        look = Look(model, x_t if inner else x_t.detach().clone().requires_grad_(), step, outer=inner)
        density, gradient = climbed(awake, look, keep=inner)
        prediction = look.prediction
        if not inner:
            parts: Any = [part.detach() if isinstance(part, Tensor) else part for part in prediction]
            prediction = Prediction(*parts)
        return with_gradient(prediction, density, gradient)
    return steering


def steered_at_mean(model: Model, *guides: Guide) -> Model:
    """As `steered`, but the gradient is taken at the mean of the step with t_prev (ADM Algorithm 1 as its paper writes it),
    where guides can look at x_t alone."""
    def no_estimate(x_t: Tensor, step: Step) -> Prediction:
        raise UserError("at the mean of a step there is no x0_hat to look at; take the gradient at x_t.")

    def steering(x_t: Tensor, step: Step) -> Prediction:
        prediction = model(x_t, step)
        awake = [guide for guide in guides if not guide.asleep_at(step)]
        if not awake:
            return prediction
        mean = posterior_mean(step, x_t, prediction.x0_hat)
        look = Look(no_estimate, mean.detach().requires_grad_(), step, max(step.t_prev, type(step.t)(0)))
        return with_gradient(prediction, *climbed(awake, look, keep=False))
    return steering


def climbed(guides: list[Guide], look: Look, keep: bool) -> tuple[Tensor, Tensor]:
    """(the guides' log-density [B], its gradient at look.x_t): summed over the batch, each sample's gradient is its own."""
    names, t = " and ".join(guide.name for guide in guides), int(look.step.t)
    with torch.enable_grad():
        density = sum((guide.scaled(look) for guide in guides[1:]), start=guides[0].scaled(look))
        if look.changed:
            raise UserError(f"{names} changed look.x_t or look.x0_hat in place at t = {t}, and the sampler goes on with these; "
                            f"work on a copy: look.x0_hat.clone().")
        try:
            gradient, = torch.autograd.grad(density.sum(), look.x_t, retain_graph=keep, allow_unused=True)
        except Exception as error:  # a tensor changed in place, a graph that is used up, a derivative that fails
            if out_of_memory(error):
                raise
            raise UserError(f"the gradient of {names} cannot be taken at t = {t} ({one_line(error)}).") from error
    if gradient is None:
        raise UserError(f"{names}: the log-density does not depend on what is looked at; compute it from look.x_t or "
                        f"look.x0_hat.")
    return density.detach(), gradient.float()


def with_gradient(prediction: Prediction, density: Tensor, gradient: Tensor) -> Prediction:
    """The prediction with one more density, beside those that it carries."""
    if prediction.gradient is not None:
        gradient = prediction.gradient + gradient
    if prediction.log_density is not None:
        density = prediction.log_density + density
    return prediction._replace(gradient=gradient, log_density=density)


def guided(prediction: Prediction, x_t: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps) with the gradient in them: eps - sqrt(1 - alpha_bar) * gradient, and its x0_hat. (ADM Algorithm 2)"""
    signal, noise = step.alpha_bar ** 0.5, (1 - step.alpha_bar) ** 0.5
    x0_hat, gradient = prediction.x0_hat, prediction.gradient
    eps = (x_t - signal * x0_hat) / noise
    if gradient is not None:
        eps = eps - noise * gradient
        x0_hat = (x_t - noise * eps) / signal
    if prediction.eps is not None:
        eps = prediction.eps if gradient is None else prediction.eps - noise * gradient
    return x0_hat, eps
