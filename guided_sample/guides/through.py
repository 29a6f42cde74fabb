"""Guidance that moves x0_hat, by gradients through the denoiser or at x0_hat itself: many methods are settings of two pieces.

    DPS        tfg(model, measurement, rho=pushed(0.4))
    FreeDoM    tfg(model, guide, rho=pushed(0.2)), in recurrent(ddpm, 10)
    MPGD       tfg(model, guide, mu=5.0)
    universal  ascended(thresholded(steered(model, guide), clip), guide, m=10), in recurrent(ddim, 10)
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guided_sample.model import Guide, Look, Model, Prediction, Scale, at, climbed, clip, for_each_sample, guided, is_everywhere
from guided_sample.steps import Step
from noisy_clf.errors import UserError
from noisy_clf.noise import Noise


def tfg(model: Model, guide: Guide, rho: Scale | float | Tensor = 0.0, mu: Scale | float | Tensor = 0.0, iterations: int = 1,
        smoothing: Callable[[Step], Tensor] | None = None) -> Model:
    """The model with x0_hat moved by rho times the guide's gradient at x_t and then, `iterations` times, by mu times that at
    x0_hat; log_density is from before. Where rho is 0, nothing runs back through the denoiser, and the guide must look at
    x0_hat. (TFG Algorithm 1; its outer loop is `recurrent`)

    rho, mu    numbers at a step, or one for each sample [B]
    smoothing  the draws of a step [n,B,C,H,W] over which the guide's density is averaged, at x0_hat + draw
    """
    def guiding(x_t: Tensor, step: Step) -> Prediction:
        through, beside = (0.0 if guide.asleep_at(step) else at(scale, step) for scale in (rho, mu))
        if is_everywhere(through, 0) and is_everywhere(beside, 0):
            return model(x_t, step)
        (look, inner), densities, delta_t = looking(model, x_t, step), [], torch.zeros_like(x_t)
        smooth = guide if smoothing is None else averaged(guide, smoothing(step))

        # Delta_t = rho grad log p(y | x0_hat), at x_t
        if not is_everywhere(through, 0):
            density, gradient = climbed([smooth], look, keep=inner)
            delta_t, densities = for_each_sample(through, gradient, "rho") * gradient, [density]

        # x0_hat + Delta_0: so many times + mu grad log p(y | x0_hat), at x0_hat
        x0_hat = look.estimate
        for _ in range(0 if is_everywhere(beside, 0) else iterations):
            density, gradient = climbed_at(x0_hat, smooth, look)
            x0_hat, densities = x0_hat + for_each_sample(beside, gradient, "mu") * gradient, [*densities, density]

        # x_{t-1} = S(x_t, x0_hat) + Delta_t / sqrt(alpha_t) + sqrt(alpha_bar_{t-1}) Delta_0: the eps of S stays
        _, eps = guided(look.prediction._replace(gradient=None), x_t, step)
        return moved(look.prediction._replace(eps=eps), x0_hat + delta_t / step.alpha_bar ** 0.5, densities[0], inner)
    return guiding


def pushed(zeta: Scale | float | Tensor) -> Scale:
    """The rho by which x_{t-1} moves by zeta times the gradient at x_t. (DPS Algorithm 1; FreeDoM Algorithm 1)"""
    return lambda step: at(zeta, step) * (1 - step.beta) ** 0.5


def draws(sigma: float, n: int, noise: Noise) -> Callable[[Step], Tensor]:
    """For smoothing: n draws from N(0, sigma^2 (1 - alpha_bar)) a step, by noise of the samples' own that no sampler draws."""
    return lambda step: sigma * (1 - step.alpha_bar) ** 0.5 * torch.stack([noise() for _ in range(n)])


def ascended(model: Model, guide: Guide, m: int, rate: float = 0.01, adam: bool = True,
             how: Callable[[Tensor], Tensor] = clip, enough: float = math.inf) -> Model:
    """The model with its x0_hat moved m steps up the guide's log-density, at x0_hat alone; log_density is from before. A
    gradient that it carries stays. (Universal guidance, backward)

    rate    of Adam, or where that is not wanted of the gradient itself
    how     as `thresholded` has it, before each step and after the last
    enough  the scaled log-density from which on a sample is left as it is; -1e-5 in universal guidance's program
    """
    def climbing(x_t: Tensor, step: Step) -> Prediction:
        if guide.asleep_at(step):
            return model(x_t, step)
        (look, inner), densities = looking(model, x_t, step), []
        x0_hat = look.estimate.clone()
        optimizer = (torch.optim.Adam if adam else torch.optim.SGD)([x0_hat], lr=rate, maximize=True)
        for _ in range(m):
            before = how(x0_hat)
            density, x0_hat.grad = climbed_at(before, guide, look)
            x0_hat.copy_(before)
            optimizer.step()
            x0_hat.copy_(before.where((density >= enough).view(-1, 1, 1, 1), x0_hat))
            densities.append(density)
        return moved(look.prediction, how(x0_hat), densities[0], inner)
    return climbing


def looking(model: Model, x_t: Tensor, step: Step) -> tuple[Look, bool]:
    """(a look, whether a guide around looks through it)."""
    inner = torch.is_grad_enabled() and x_t.requires_grad
    return Look(model, x_t if inner else x_t.detach().clone().requires_grad_(), step, outer=inner), inner


def look_at(x0_hat: Tensor, look: Look) -> Look:
    """The look, were this its x0_hat."""
    return Look(lambda *_: look.prediction._replace(x0_hat=x0_hat), look.x_t, look.step)


def averaged(guide: Guide, around: Tensor) -> Guide:
    """The guide whose density is the mean of this one's, scaled, at x0_hat + each of `around` [n,B,C,H,W]. (TFG sec. 3)"""
    def log_density(look: Look) -> Tensor:
        found = torch.stack([guide.scaled(look_at(look.x0_hat + draw, look)) for draw in around])
        return found.logsumexp(dim=0) - math.log(len(around))
    return Guide(log_density, name=guide.name)


def climbed_at(x0_hat: Tensor, guide: Guide, look: Look) -> tuple[Tensor, Tensor]:
    """(the guide's log-density [B], its gradient at x0_hat), were this the look's."""
    x0_hat = x0_hat.detach().clone().requires_grad_()
    with torch.enable_grad():
        density = guide.scaled(look_at(x0_hat, look))
        gradient, = torch.autograd.grad(density.sum(), x0_hat, allow_unused=True)
    if gradient is None:
        raise UserError(f"{guide.name} is to move x0_hat and does not depend on it; compute it from look.x0_hat.")
    return density.detach(), gradient.float()


def moved(prediction: Prediction, x0_hat: Tensor, density: Tensor, inner: bool) -> Prediction:
    """The prediction with another x0_hat and one more density, in which what is not finite stays to be seen. Guides around look
    through to the denoiser, as if what x0_hat is moved by were a constant."""
    density = density.where(x0_hat.isfinite().flatten(1).all(dim=1), math.nan)
    if prediction.log_density is not None:
        density = prediction.log_density + density
    if inner:
        x0_hat = prediction.x0_hat + (x0_hat - prediction.x0_hat).detach()
    parts: Any = [part.detach() if isinstance(part, Tensor) and not inner else part for part in prediction]
    return Prediction(*parts)._replace(x0_hat=x0_hat, log_density=density)
