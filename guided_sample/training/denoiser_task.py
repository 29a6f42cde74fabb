"""What a denoiser learns: the noise in x_t, and with a learned range, the variance of its reverse steps."""
from __future__ import annotations

import math
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from guided_sample.denoiser import Denoiser, unet_denoiser, x0_from_eps
from guided_sample.posterior import learned_log_variance, posterior_mean
from guided_sample.steps import Step, step_table
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


def new_denoiser(config: UNetConfig, schedule: NoiseSchedule, variance: str, data: Dataset, class_conditional: bool,
                 seed: int) -> Denoiser:
    """An untrained one for the data's channels and classes, whatever the config says of them."""
    torch.manual_seed(seed)
    network = UNet(replace(
        config, in_channels=data.channels, out_channels=data.channels * (2 if variance == "learned_range" else 1),
        num_classes=len(data.class_names) if class_conditional else None))
    return unet_denoiser(network, schedule, variance, class_names=data.class_names if class_conditional else None)


def denoiser_task(denoiser: Denoiser, data: Dataset) -> Task:
    """The simple loss, or with learned variance the hybrid one, at uniformly drawn t."""
    T, conditional = denoiser.schedule.T, denoiser.class_names is not None
    every_step = step_table(denoiser.schedule, range(T))

    def loss_at(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        x_t = denoiser.schedule.add_noise(x_0, t, eps)
        output = network(x_t, t, y if conditional else None).float()
        eps_hat, *v = output.split(denoiser.channels, dim=1)
        simple = (eps - eps_hat).square().flatten(1).mean(dim=1)  # DDPM eq. 14
        if not v:
            return simple
        # L_hybrid = L_simple + 0.001 L_vlb, L_vlb the sum of T terms; eps_hat does not learn from it. (Improved DDPM eq. 16)
        step, x0_hat = steps_from(t, every_step), x0_from_eps(denoiser.schedule, x_t, t, eps_hat.detach())
        log_variance = learned_log_variance(step, denoiser.variance, v[0])
        return simple + 0.001 * T * bound_term(step, x_0, x_t, x0_hat, log_variance)

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        return loss_at(network, x_0, y, t, draws.noise_like(x_0))

    @torch.no_grad()
    def validate(network: nn.Module, processes: Processes) -> dict[str, float]:
        device = next(network.parameters()).device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for indices in in_batches(len(data.validation), 256, processes.share(len(data.validation))):
            images, y = (tensor.to(device) for tensor in data.validation.batch(indices))
            x_0 = to_x_0(images)
            eps = fixed_noise(indices, x_0.shape[1:]).to(device)
            for level in LEVELS:
                t = torch.full_like(y, timestep_at(level, T))
                total += loss_at(network, x_0, y, t, eps).double().sum()
        processes.add([total])
        return {"loss": total.item() / (len(data.validation) * len(LEVELS))}

    return Task(denoiser.network, T, loss, validate, denoiser.config(),
                defaults={"model": {"network": defaults_of(UNetConfig)}})


def steps_from(t: Tensor, table: Step) -> Step:
    """The steps from t [B], of the table of every timestep: float32 [B,1,1,1] on t's device."""
    return Step(*(torch.from_numpy(getattr(table, field.name)).to(t.device, torch.float32)[t, None, None, None]
                  for field in fields(table)))


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
