"""Denoiser: one signature for every network that learned to undo noise, whatever it predicts."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from guided_sample.unet import UNet
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule

VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")


class Prediction(NamedTuple):
    """x0_hat float32 [B,C,H,W], not clipped; `v`, the variance's output of the same shape, where it is learned."""

    x0_hat: Tensor
    v: Tensor | None


@dataclass(frozen=True)
class Denoiser:
    """(x_t [B,C,H,W], t int64 [B], y int64 [B] or None) -> Prediction. The network predicts eps."""

    network: UNet
    schedule: NoiseSchedule
    variance: str
    class_names: tuple[str, ...] | None = None  # of a class-conditional network

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise UserError(f"unknown variance {self.variance!r}; there are: {', '.join(VARIANCES)}.")
        wanted = self.channels * (2 if self.variance.startswith("learned") else 1)
        if self.network.config.out_channels != wanted:
            raise UserError(f"variance {self.variance} of images of {self.channels} channels needs {wanted} output "
                            f"channels, and the network has {self.network.config.out_channels}.")

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Prediction:
        output = self.network(x_t, t, y).float()
        eps, v = output.split(self.channels, dim=1) if self.variance.startswith("learned") else (output, None)
        return Prediction(x0_from_eps(self.schedule, x_t, t, eps), v)

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    @property
    def channels(self) -> int:
        return self.network.config.in_channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: C, H, W."""
        return self.channels, self.image_size, self.image_size

    def config(self) -> dict[str, Any]:
        """What config.json says of this denoiser."""
        return {"kind": "denoiser", "network": {"type": "UNet", **asdict(self.network.config)},
                "schedule": self.schedule.to_config(), "predicts": "eps", "variance": self.variance,
                "class_names": list(self.class_names) if self.class_names else None}


def x0_from_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t). (DDPM eq. 15)"""
    signal, noise = schedule.at(t)
    return (x_t - noise * eps) / signal
