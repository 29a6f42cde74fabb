"""Several chains a sample, weighed and resampled, so that at any scale guidance draws what it asks for: p(x) p(y|x)^scale.

Twisted diffusion sampling (Wu et al. 2023, Algorithm 1): x_t is twisted by exp(log_density) and proposed by the guided step.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from guided_sample.model import Model, Prediction
from guided_sample.posterior import posterior_mean
from guided_sample.samplers.ddpm import ddpm
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step
from noisy_clf.errors import UserError
from noisy_clf.noise import Noise


class Twisted:
    """A sampler of N chains a sample: DDPM's, guided, of which one is given out. As N grows, x_t at the last kept timestep is
    drawn from p(x_t) exp(log_density(x_t)), p being the unguided chain's. With N = 1 it is ddpm.

    uniform  draws from [0,1), float64 [B]: each step takes one for each sample

    Of the samples last drawn, float64 [B]:
    ess           the smallest effective number of chains, 1 to N: near 1 where one chain outweighs all
    log_evidence  log of an unbiased estimate of E[exp(log_density)] under that p
    """

    ess: Tensor
    log_evidence: Tensor

    def __init__(self, N: int, uniform: Callable[[], Tensor]) -> None:
        self.N, self.uniform = N, uniform

    @torch.no_grad()
    def __call__(self, model: Model, x_T: Tensor, steps: Sequence[Step], noise: Noise) -> Iterator[Moment]:
        """From x_T [B*N,C,H,W], a sample's chains one after the other, by steps that end at -1 to x_0 [B,C,H,W].

        The step to x_0 is ddpm's, without noise to weigh, and guided: the mean of x_0 given y as well as x_t lies there.
        UserError where the model's steps have no density to weigh by.
        """
        N, x_t = self.N, x_T
        first = torch.arange(0, len(x_t), N, device=x_t.device)[:, None]  # the row of each sample's first chain
        log_w = x_t.new_zeros(len(first), N, dtype=torch.float64)
        twist, self.ess = torch.zeros_like(log_w), torch.full_like(log_w[:, 0], N)
        for step in steps:
            # w *= twist(x_t) / twist(x_{t+1}); where all guides are asleep, the twist stays what it was
            prediction = weighable(model(x_t, step))
            if prediction.log_density is not None:
                seen = prediction.log_density.double().view_as(log_w)
                log_w, twist = log_w + seen - twist, seen

            # the chains that go on: where few count, drawn by their weights, which are even then; at the end one
            ess, mean_w = effective_size(log_w), log_w.logsumexp(dim=1) - math.log(N)
            self.ess, self.log_evidence = self.ess.minimum(ess), mean_w
            if step.t_prev < 0:
                chosen = systematic(log_w, self.uniform(), 1)
            else:
                few = (ess < N / 2)[:, None]
                chosen = torch.where(few, systematic(log_w, self.uniform(), N), torch.arange(N, device=x_t.device))
                log_w, twist = torch.where(few, mean_w[:, None], log_w), twist.gather(1, chosen)
            rows = (first + chosen).flatten()
            x_t, prediction = x_t[rows], of_rows(prediction, rows)

            # w *= p(x_{t-1} | x_t) / p(x_{t-1} | x_t, guided)
            moment = next(ddpm(lambda *_: prediction, x_t, [step], noise))
            if step.t_prev >= 0:
                log_w = log_w + log_ratio(prediction, x_t, step, moment.x_t).view_as(log_w)
            x_t = moment.x_t
            yield moment


def log_ratio(prediction: Prediction, x_t: Tensor, step: Step, x_prev: Tensor) -> Tensor:
    """log p(x_{t-1} | x_t) less that of the guided step, N(mean, variance) to N(mean + variance * gradient, variance), at
    x_prev: float64 [B]."""
    x0_hat, variance, gradient, *_ = prediction
    if gradient is None:
        return x_t.new_zeros(len(x_t), dtype=torch.float64)
    moved = x_prev.double() - posterior_mean(step, x_t, x0_hat).double()
    return (gradient.double() * (variance * gradient / 2 - moved)).flatten(1).sum(dim=1)


def systematic(log_w: Tensor, uniform: Tensor, count: int) -> Tensor:
    """`count` of the chains with log-weights [B,N], int64 [B,count], ascending: chain i is there count * w_i times, rounded up
    or down by one uniform number [B] for all. (Carpenter et al. 1999)"""
    ends = log_w.softmax(dim=1).cumsum(dim=1)
    places = (uniform[:, None] + torch.arange(count, device=log_w.device)) / count
    return torch.searchsorted(ends, places, right=True).clamp(max=log_w.shape[1] - 1)  # where rounding leaves the end below 1


def effective_size(log_w: Tensor) -> Tensor:
    """1 / sum of squares of the normalised weights, [B]: 1 where one chain has all the weight, N where all have the same."""
    return 1 / log_w.softmax(dim=1).square().sum(dim=1)


def of_rows(prediction: Prediction, rows: Tensor) -> Prediction:
    parts: Any = [part[rows] if isinstance(part, Tensor) else part for part in prediction]
    return Prediction(*parts)


def weighable(prediction: Prediction) -> Prediction:
    folded = prediction.log_density is not None and prediction.gradient is None
    if prediction.eps is not None or folded:
        raise UserError("particles were given guidance that is folded into x0_hat or into the noise put back (CFG++, TFG, a "
                        "threshold around the guides), whose steps have no density to weigh by; put steered(...) outermost.")
    return prediction


def collapse(ess: Sequence[float], N: int) -> str | None:
    """Samples whose chains were in vain, in a sentence: of those beside the first, less than a tenth counted at some step."""
    least = 1 + (N - 1) / 10
    collapsed = sum(size < least for size in ess)
    if N == 1 or not collapsed:
        return None
    return (f"in {collapsed} of {len(ess)} samples fewer than {least:.3g} of {N} particles count (at worst {min(ess):.2f}), so "
            f"that these are nearer to plain guidance than to what the scale asks for; take more particles, more steps or a "
            f"smaller scale.")
