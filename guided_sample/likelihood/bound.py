"""The variational bound of -log p(x_0) under a denoiser, term by term, and its error at each noise level, on fixed noise."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_sample.denoiser import Denoiser
from guided_sample.posterior import learned_log_variance, posterior_mean
from guided_sample.steps import Step
from guided_sample.training.denoiser_task import gaussian_kl, pixel_log_prob
from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.errors import UserError
from noisy_clf.noise import SampleNoise

BITS, X0_ERROR = range(2)  # the columns of what is kept of an image at a step
THREADS = 4  # that draw noise ahead


@torch.inference_mode()
def measure(denoiser: Denoiser, chain: Sequence[Step], images: LabelledImages, chosen: Tensor, terms: np.ndarray,
            batch_size: int, seed: int = 0, stopped: Callable[[], bool] = lambda: False, progress: bool = False) -> None:
    """Fills in what is NaN of `terms`, float32 [N,S,2]: BITS and X0_ERROR of each chosen image at each step of the chain.

    images   labelled as the denoiser numbers the classes, where it knows any
    chosen   their indices [N], in the order in which they are measured
    stopped  whether to leave the rest for another time; asked before each step

    An image's noise at t comes from (seed, its index, t) alone.
    """
    device = next(denoiser.network.parameters(), torch.empty(0)).device
    left = np.isnan(terms[..., BITS])
    with tqdm(total=left.size, initial=int((~left).sum()), unit="step", unit_scale=True, dynamic_ncols=True, smoothing=0.05,
              desc="images x steps", disable=not progress) as bar:
        for places in in_batches(len(chosen), batch_size):
            rows, indices = places.numpy(), chosen[places]
            columns = [column for column in range(len(chain)) if left[rows, column].any()]
            if not columns:
                continue
            x_0, y = (tensor.to(device) for tensor in images.batch(indices))
            x_0 = to_x_0(x_0)

            def noise(column: int, indices: list[int] = indices.tolist()) -> Tensor:
                return SampleNoise(seed, indices, images.images.shape, torch.device("cpu"), [chain[column].t])()

            for column, eps in zip(columns, read_ahead(noise, columns, THREADS)):
                if stopped():
                    return
                found = terms_at(denoiser, chain[column], x_0, y if denoiser.class_names else None, eps.to(device)).cpu()
                if not found.isfinite().all():
                    raise UserError(f"the denoiser's bound is not a finite number at t = {chain[column].t}; its weights are "
                                    f"damaged, or its training diverged.")
                terms[rows, column] = found.numpy()
                bar.update(int(left[rows, column].sum()))


def terms_at(denoiser: Denoiser, step: Step, x_0: Tensor, y: Tensor | None, eps: Tensor) -> Tensor:
    """float32 [B,2]: the step's term of the bound in bits per dimension (DDPM eq. 5), and x0_hat's mean squared error.

    x0_hat is clipped to [-1,1], as in ADM's program.
    """
    t = torch.full((len(x_0),), step.t, device=x_0.device)
    x_t = denoiser.schedule.add_noise(x_0, t, eps)
    x0_hat, v = denoiser(x_t, t, y)
    x0_hat = x0_hat.clamp(-1, 1)
    mean, log_variance = posterior_mean(step, x_t, x0_hat), reverse_log_variance(step, denoiser.variance, v)
    if step.t_prev < 0:
        nats = -pixel_log_prob(x_0, mean, log_variance)
    else:
        true_log_variance = torch.tensor(math.log(step.beta_tilde_clipped))
        nats = gaussian_kl(posterior_mean(step, x_t, x_0), true_log_variance, mean, log_variance)
    means = [each.flatten(1).mean(dim=1) for each in (nats / math.log(2), (x_0 - x0_hat).square())]
    return torch.stack(means, dim=1)  # as BITS and X0_ERROR


def reverse_log_variance(step: Step, kind: str, v: Tensor | None) -> Tensor:
    """Of p(x_{t-1} | x_t): a number, or [B,C,H,W] where it is learned. At the last step fixed ones are beta_tilde, clipped."""
    if kind.startswith("learned"):
        return learned_log_variance(step, kind, v)
    large = kind == "fixed_large" and step.t_prev >= 0
    return torch.tensor(math.log(step.beta if large else step.beta_tilde_clipped))


def prior_bits(x_0: Tensor, alpha_bar: float) -> Tensor:
    """KL(q(x_T | x_0) || N(0, 1)) in bits per dimension, float64 [B]: what the chain's first noise still tells. (DDPM eq. 5)"""
    nats = 0.5 * (alpha_bar * (x_0.double().square().flatten(1).mean(dim=1) - 1) - math.log1p(-alpha_bar))
    return nats / math.log(2)


def eps_error(x0_error: np.ndarray, alpha_bar: np.ndarray) -> np.ndarray:
    """The mean squared error of eps that goes with one of x_0: theirs differ by sqrt(alpha_bar / (1 - alpha_bar))."""
    return x0_error * (alpha_bar / (1 - alpha_bar))


def pixelwise_error(variance: Tensor, alpha_bar: np.ndarray) -> np.ndarray:
    """The mean squared error of eps, float64 [S], of who knows each pixel's mean and variance [C,H,W], and guesses it from
    its own noised value: the mean over pixels of alpha_bar s^2 / (alpha_bar s^2 + 1 - alpha_bar). (Wiener)"""
    signal = alpha_bar[:, None] * variance.double().flatten().numpy()
    return (signal / (signal + 1 - alpha_bar[:, None])).mean(axis=1)


def one_variance_bits(step: Step, x0_error: float) -> float:
    """The least term of a step, bits per dimension, that one variance for all pixels gives to such an error of x0_hat: that
    variance is beta_tilde and the mean's error together. (Analytic-DPM theorem 1)"""
    return 0.5 * math.log2(1 + step.mean_x0 ** 2 * x0_error / step.beta_tilde)
