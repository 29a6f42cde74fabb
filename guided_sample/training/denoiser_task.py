"""What a denoiser learns: what it predicts of x_t, and with a learned variance, that of its reverse steps."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache

import torch
from torch import Tensor, nn

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.posterior import learned_log_variance, posterior_mean
from guided_sample.steps import Step, step_table
from guided_sample.training.previews import previewed
from guided_sample.unet import UNet
from guided_sample.unet_config import UNetConfig
from noisy_clf.datasets.images import Dataset, to_x_0
from noisy_clf.datasets.order import in_batches
from noisy_clf.evaluation.by_noise_level import timestep_at
from noisy_clf.files import defaults_of
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.draws import Draws
from noisy_clf.training.task import Task

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_VALIDATED = 1024  # images, of each level


def new_denoiser(config: UNetConfig, schedule: NoiseSchedule, variance: str, data: Dataset, class_conditional: bool,
                 seed: int, predicts: str = "eps", null_class: bool = False) -> Denoiser:
    """An untrained one for the data's channels and classes, whatever the config says of them."""
    torch.manual_seed(seed)
    names = data.class_names if class_conditional else None
    network = UNet(replace(
        config, in_channels=data.channels, out_channels=data.channels * (2 if variance.startswith("learned") else 1),
        num_classes=len(names) + null_class if names else None))
    return unet_denoiser(network, schedule, variance, predicts=predicts, class_names=names, null_class=null_class)


def denoiser_task(denoiser: Denoiser, data: Dataset, drop_labels: float = 0.0) -> Task:
    """The simple loss, or with learned variance the hybrid one.

    drop_labels  part of the samples that are shown as of the null class (classifier-free guidance sec. 3)
    """
    T, conditional, every_step = denoiser.schedule.T, denoiser.class_names is not None, steps_of(denoiser.schedule)

    def loss_at(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        x_t = denoiser.schedule.add_noise(x_0, t, eps)
        predicted, v = replace(denoiser, network=network).predicted(x_t, t, y if conditional else None)
        simple = (denoiser.target(x_0, t, eps) - predicted).square().flatten(1).mean(dim=1)  # DDPM eq. 14
        if v is None:
            return simple
        # L_hybrid = L_simple + 0.001 L_vlb, L_vlb the sum of T terms; x0_hat does not learn from it. (Improved DDPM eq. 16)
        step, x0_hat = every_step(t), denoiser.x0_from(x_t, t, predicted.detach())
        log_variance = learned_log_variance(step, denoiser.variance, v)
        return simple + 0.001 * T * bound_term(step, x_0, x_t, x0_hat, log_variance)

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        if drop_labels:
            y = y.masked_fill(draws.chosen(drop_labels, y.device), denoiser.K)
        return loss_at(network, x_0, y, t, draws.noise_like(x_0))

    @torch.no_grad()
    def validate(network: nn.Module, processes: Processes) -> dict[str, float]:
        device = next(network.parameters()).device
        total = torch.zeros((), dtype=torch.float64, device=device)
        count = min(len(data.validation), MOST_VALIDATED)
        chosen = torch.arange(count) * len(data.validation) // count
        for rows in in_batches(count, max(1, min(256, 256 * 32 ** 2 // data.image_size ** 2)), processes.share(count)):
            indices = chosen[rows]
            images, y = (tensor.to(device) for tensor in data.validation.batch(indices))
            x_0 = to_x_0(images)
            eps = fixed_noise(indices, x_0.shape[1:]).to(device)
            for level in LEVELS:
                t = torch.full_like(y, timestep_at(level, T))
                total += loss_at(network, x_0, y, t, eps).double().sum()
        processes.add([total])
        return {"loss": total.item() / (count * len(LEVELS))}

    return Task(denoiser.network, T, loss, validate, denoiser.config(), previewed(denoiser),
                channels_last=denoiser.image_size >= 64,  # below that, normalising costs more than convolutions gain
                options={"drop_labels": drop_labels},
                defaults={"model": {"network": defaults_of(UNetConfig)}, "training": {"drop_labels": 0.0}})


def steps_of(schedule: NoiseSchedule) -> Callable[[Tensor], Step]:
    """t [B] -> the steps from t, of the chain of every timestep: float32 [B,1,1,1] on t's device."""
    table = step_table(schedule, range(schedule.T))

    @cache
    def on(device: torch.device) -> Tensor:
        return torch.stack([torch.from_numpy(getattr(table, field.name)).float() for field in fields(table)]).to(device)

    return lambda t: Step(*on(t.device)[:, t, None, None, None])


def bound_term(step: Step, x_0: Tensor, x_t: Tensor, x0_hat: Tensor, log_variance: Tensor) -> Tensor:
    """One term of the variational bound, bits per dimension [B]: a KL, or at t = 0 the decoder's likelihood. (DDPM eq. 5)"""
    mean = posterior_mean(step, x_t, x0_hat)
    kl = gaussian_kl(posterior_mean(step, x_t, x_0), step.beta_tilde_clipped.log(), mean, log_variance)
    nats = torch.where(step.t == 0, -pixel_log_prob(x_0, mean, log_variance), kl)
    return nats.flatten(1).mean(dim=1) / math.log(2)


def gaussian_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q || p) of one-dimensional Gaussians, in nats, for each element."""
    log_ratio = log_variance_q - log_variance_p
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (mean_q - mean_p).square() * torch.exp(-log_variance_p))


def pixel_log_prob(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p of each 8-bit pixel: the mass within half a grey level, the outer levels taking the tails. (DDPM eq. 13)"""
    inverse_std = torch.exp(-0.5 * log_variance)
    below = normal_cdf((x_0 - mean - 1 / 255) * inverse_std).where(x_0 > -0.999, 0)
    above = normal_cdf((x_0 - mean + 1 / 255) * inverse_std).where(x_0 < 0.999, 1)
    return (above - below).clamp(min=1e-12).log()


def normal_cdf(x: Tensor) -> Tensor:
    """The standard normal's, to 3e-4, by a tanh. (GELU sec. 2; ADM's program)"""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
