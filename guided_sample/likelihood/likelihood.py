"""What was found of a denoiser's likelihood and errors: where its bits go, and where it knows less than a pixel alone does."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from guided_sample.denoiser import Denoiser
from guided_sample.likelihood.bound import BITS, X0_ERROR, eps_error, one_variance_bits, pixelwise_error
from guided_sample.steps import Step

SIGNIFICANT = 3  # standard errors


@dataclass(frozen=True)
class Likelihood:
    """Of a denoiser on N images, by the steps of a chain, the smallest t first: float64 [S], means over images and pixels.

    chain           its steps
    images          N
    total, error    the bound on -log p(x_0), bits per dimension, and its standard error over the images
    prior           the part of it that the chain's first noise still tells
    bits            each step's term; the first is that of whole grey levels (DDPM's L_0)
    x0_error        mean squared error of x0_hat, clipped to [-1,1]
    eps_error       the same of eps
    eps_deviation   its standard error
    pixelwise       the least eps error of who sees each pixel alone (`pixelwise_error`)
    """

    name: str
    learned_variance: bool
    T: int
    chain: tuple[Step, ...]
    images: int
    total: float
    error: float
    prior: float
    bits: np.ndarray
    x0_error: np.ndarray
    eps_error: np.ndarray
    eps_deviation: np.ndarray
    pixelwise: np.ndarray

    @classmethod
    def of(cls, name: str, denoiser: Denoiser, chain: Sequence[Step], terms: np.ndarray, prior: Tensor,
           variance: Tensor) -> Likelihood:
        """From the `terms` that `measure` found at the chain's steps, in a sampler's order; each image's prior bits, float64
        [N]; and the data's variance of each pixel [C,H,W]."""
        terms, chain = terms[:, ::-1].astype(np.float64), tuple(chain[::-1])
        alpha_bar = np.array([step.alpha_bar for step in chain])
        totals = terms[..., BITS].sum(axis=1) + prior.numpy()
        x0_error = terms[..., X0_ERROR].mean(axis=0)
        return cls(name, denoiser.variance.startswith("learned"), denoiser.schedule.T, chain, len(terms),
                   totals.mean(), totals.std() / len(terms) ** 0.5, prior.mean().item(), terms[..., BITS].mean(axis=0),
                   x0_error, eps_error(x0_error, alpha_bar),
                   eps_error(terms[..., X0_ERROR].std(axis=0), alpha_bar) / len(terms) ** 0.5,
                   pixelwise_error(variance, alpha_bar))

    @property
    def t(self) -> np.ndarray:
        """int64 [S]."""
        return np.array([step.t for step in self.chain])

    @property
    def weak(self) -> np.ndarray:
        """Where its eps error is above what each pixel alone allows, by 3 standard errors: bool [S]."""
        return self.eps_error - SIGNIFICANT * self.eps_deviation > self.pixelwise

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first t, last t) of each run of steps at which it is weak; a gap of up to a fiftieth of all ends none."""
        found: list[tuple[int, int]] = []
        for i in np.flatnonzero(self.weak).tolist():
            near = bool(found) and i - found[-1][1] - 1 <= len(self.t) // 50
            found = [*found[:-1], (found[-1][0], i)] if near else [*found, (i, i)]
        return [(int(self.t[first]), int(self.t[last])) for first, last in found]

    def below(self, share: float) -> int:
        """The t up to which lies that share of the steps' bits."""
        return int(self.t[np.searchsorted(self.bits.cumsum(), share * self.bits.sum()).clip(max=len(self.t) - 1)])

    @property
    def one_variance(self) -> float:
        """What the terms but the last step's would be in sum with the best single variance at each."""
        return sum(one_variance_bits(step, error) for step, error in zip(self.chain[1:], self.x0_error[1:]))
