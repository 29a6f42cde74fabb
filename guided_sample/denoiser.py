"""Denoiser: one signature for every network that learned to undo noise, whatever it predicts."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from guided_sample.unet import UNet
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space

VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")
PREDICTIONS = ("eps", "velocity", "x_0")


class Denoised(NamedTuple):
    """x0_hat float32 [B,C,H,W], not clipped; `v`, the variance's output of the same shape, where it is learned."""

    x0_hat: Tensor
    v: Tensor | None


@dataclass(frozen=True)
class Denoiser:
    """(x_t [B,C,H,W], t int64 [B], y int64 [B] or None) -> Denoised.

    network      (x_t, t, y) -> [B,C,H,W], or with a learned variance [B,2C,H,W]
    shape        of one image: C, H, W
    variance     of the reverse steps: one of VARIANCES
    predicts     one of PREDICTIONS
    class_names  of a class-conditional network, in the order of their numbers
    null_class   it knows "of no class" too, as class K: the last row of its table, and what it is told where y is None
    rescaled_t   the network is told 1000 t / T in t's place (a flag of improved-diffusion)
    small_size   of an upsampler: pixels a side of the images that it enlarges
    """

    network: nn.Module
    schedule: NoiseSchedule
    shape: tuple[int, int, int]
    variance: str
    predicts: str = "eps"
    class_names: tuple[str, ...] | None = None
    null_class: bool = False
    rescaled_t: bool = False
    small_size: int | None = None

    def __post_init__(self) -> None:
        for what, value, possible in (("variance", self.variance, VARIANCES), ("prediction", self.predicts, PREDICTIONS)):
            if value not in possible:
                raise UserError(f"unknown {what} {value!r}; there are: {', '.join(possible)}.")

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Denoised:
        predicted, v = self.predicted(x_t, t, y)
        return Denoised(self.x0_from(x_t, t, predicted), v)

    def predicted(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's own output, float32: (what it `predicts` [B,C,H,W], v or None)."""
        if y is None and self.null_class:
            y = torch.full_like(t, self.K)
        output = self.network(x_t, t * (1000 / self.schedule.T) if self.rescaled_t else t, y)
        output = output.to(torch.float32, copy=output.is_cuda)  # the next pass of a CUDA graph overwrites its output
        if not self.variance.startswith("learned"):
            return output, None
        output, v = output.split(self.channels, dim=1)
        return output, v

    def x0_from(self, x_t: Tensor, t: Tensor, predicted: Tensor) -> Tensor:
        """x0_hat from what the network predicts."""
        if self.predicts == "x_0":
            return predicted
        x0_from = x0_from_eps if self.predicts == "eps" else x0_from_velocity
        return x0_from(self.schedule, x_t, t, predicted)

    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What a perfect network would predict of x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
        if self.predicts == "velocity":
            return velocity_of(self.schedule, x_0, t, eps)
        return eps if self.predicts == "eps" else x_0

    @property
    def K(self) -> int:
        """Classes, without the null class."""
        return len(self.class_names or ())

    @property
    def space(self) -> Space:
        return Space(self.schedule, self.image_size, self.channels)

    @property
    def image_size(self) -> int:
        return self.shape[2]

    @property
    def channels(self) -> int:
        return self.shape[0]

    def config(self) -> dict[str, Any]:
        """What config.json says of this denoiser."""
        network = {"type": "UNet", **asdict(self.network.config)} if isinstance(self.network, UNet) else {}
        return {"kind": "denoiser", "network": network, "schedule": self.schedule.to_config(), "predicts": self.predicts,
                "variance": self.variance, "class_names": list(self.class_names) if self.class_names else None,
                **({"null_class": True} if self.null_class else {}), **({"rescaled_t": True} if self.rescaled_t else {})}


def unet_denoiser(network: UNet, schedule: NoiseSchedule, variance: str, small_size: int | None = None,
                  **more: Any) -> Denoiser:
    """A Denoiser of images of the UNet's own channels and size; `more` are fields of it. The number of the network's outputs
    must fit the variance."""
    C = network.config.in_channels // (2 if small_size else 1)  # an upsampler reads the small image too
    wanted = C * (2 if variance.startswith("learned") else 1)
    if network.config.out_channels != wanted:
        raise UserError(f"variance {variance} of images of {C} channels needs {wanted} output channels, and the network "
                        f"has {network.config.out_channels}.")
    size = network.config.image_size
    return Denoiser(network, schedule, (C, size, size), variance, small_size=small_size, **more)


def x0_from_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t). (DDPM eq. 15)"""
    signal, noise = schedule.at(t)
    return (x_t - noise * eps) / signal


def velocity_of(schedule: NoiseSchedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """velocity = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0. (Progressive Distillation app. D)"""
    signal, noise = schedule.at(t)
    return signal * eps - noise * x_0


def x0_from_velocity(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
    """x0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) velocity. (Progressive Distillation app. D)"""
    signal, noise = schedule.at(t)
    return signal * x_t - noise * velocity
