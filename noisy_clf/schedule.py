"""The forward process q(x_t | x_0), told by its noise schedule.

x_0 [B,C,H,W] in [-1,1]; eps standard normal of the same shape; t int64 [B] in 0..T-1, where t=0 is one step of noise (samplers
may tell one between whole numbers).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from noisy_clf.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCHEDULES = ("linear", "cosine")
MOST_T = 1_000_000


def linear_betas(T: int) -> np.ndarray:
    """beta from 1e-4 to 0.02 at T = 1000, scaled to keep the same process at any T. (DDPM sec. 4; ADM's program)"""
    return np.linspace(1e-4, 0.02, T, dtype=np.float64) * (1000 / T)


def cosine_betas(T: int) -> np.ndarray:
    """beta_t = min(1 - f(t+1)/f(t), 0.999) with f(t) = cos^2(pi/2 (t/T + s)/(1 + s)), s = 0.008. (Improved DDPM eq. 17)"""
    f = np.array([math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)])
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much of x_0 is left at each timestep: alpha_bar, float64 [T], falling from nearly 1 towards 0.

    Made by `named`, `from_betas` or `from_alpha_bar`. Immutable; compared by its numbers (`same_as`), never by its name.
    """

    name: str
    alpha_bar: np.ndarray
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        alpha_bar = np.array(self.alpha_bar, dtype=np.float64)
        if alpha_bar.ndim != 1 or len(alpha_bar) == 0:
            raise UserError(f"a noise schedule is a list of alpha_bar, one a timestep, not an array shaped {alpha_bar.shape}.")
        if not (np.all(np.isfinite(alpha_bar)) and np.all(alpha_bar > 0) and np.all(alpha_bar < 1)
                and np.all(np.diff(alpha_bar) < 0)):
            raise UserError("a noise schedule's alpha_bar must fall strictly, and lie between 0 and 1.")
        alpha_bar.setflags(write=False)
        object.__setattr__(self, "alpha_bar", alpha_bar)

    @classmethod
    def named(cls, name: str, T: int = 1000) -> NoiseSchedule:
        """ADM's `linear` or `cosine` schedule of T steps."""
        if name not in SCHEDULES:
            raise UserError(f"unknown noise schedule {name!r}; there are: {', '.join(SCHEDULES)}.")
        smallest = 21 if name == "linear" else 1  # at T <= 20 the linear schedule's last beta reaches 1
        if T < smallest:
            raise UserError(f"the {name} schedule needs at least {smallest} timesteps, not {T}.")
        if T > MOST_T:
            raise UserError(f"a noise schedule has at most {MOST_T} timesteps, not {T}.")
        betas = linear_betas(T) if name == "linear" else cosine_betas(T)
        return cls(name, np.cumprod(1 - betas))

    @classmethod
    def from_betas(cls, betas: Any) -> NoiseSchedule:
        """The schedule whose step t adds variance betas[t]."""
        return cls("given", np.cumprod(1 - np.asarray(betas, dtype=np.float64)))

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Any) -> NoiseSchedule:
        """The schedule that keeps the fraction alpha_bar[t] of the signal's variance at timestep t."""
        return cls("given", np.asarray(alpha_bar, dtype=np.float64))

    @property
    def T(self) -> int:
        return len(self.alpha_bar)

    @property
    def betas(self) -> np.ndarray:
        """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, float64 [T]."""
        return 1 - self.alpha_bar / np.append(1.0, self.alpha_bar[:-1])

    def alpha_bar_at(self, t: Any) -> np.ndarray:
        """alpha_bar at whole t, or between them, where its logarithm is taken to be straight. (DPM-Solver's program)"""
        t = np.asarray(t)
        return self.alpha_bar[t] if t.dtype.kind == "i" else np.exp(np.interp(t, np.arange(self.T), np.log(self.alpha_bar)))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, noise) = (sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), each float32 [B,1,1,1] on t's device; t may lie between
        whole numbers."""
        table = self._tables.get(t.device)
        if table is None:
            import torch  # here: commands name schedules, and refuse them, before they load it

            table = torch.from_numpy(np.stack([self.alpha_bar, 1 - self.alpha_bar, np.log(self.alpha_bar)]))
            table[:2] = table[:2].sqrt()
            table = self._tables[t.device] = table.to(t.device, torch.float32)
        if t.is_floating_point():
            low = t.long()
            below, above = table[2, low], table[2, (low + 1).clamp(max=self.T - 1)]
            log = below.lerp(above, (t - low).to(below))[:, None, None, None]
            return (log / 2).exp(), (-log.expm1()).sqrt()
        signal, noise = table[:2, t, None, None, None]
        return signal, noise

    def add_noise(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. (DDPM eq. 4)"""
        signal, noise = self.at(t)
        return signal * x_0 + noise * eps

    def same_as(self, other: NoiseSchedule) -> bool:
        """Whether the two add the same noise at every timestep (to 1e-6 of alpha_bar and of 1 - alpha_bar)."""
        return self.T == other.T and np.allclose(self.alpha_bar, other.alpha_bar, rtol=1e-6, atol=1e-12) \
            and np.allclose(1 - self.alpha_bar, 1 - other.alpha_bar, rtol=1e-6, atol=1e-12)

    def __str__(self) -> str:
        return f"{self.name}, T = {self.T}, alpha_bar {self.alpha_bar[0]:.6g} ... {self.alpha_bar[-1]:.3g}"

    def to_config(self) -> dict[str, Any]:
        """What a model's config.json keeps: a name and T, or every alpha_bar."""
        if self.name in SCHEDULES:
            return {"name": self.name, "T": self.T}
        return {"name": self.name, "alpha_bar": self.alpha_bar.tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NoiseSchedule:
        if "alpha_bar" in config:
            return cls.from_alpha_bar(config["alpha_bar"])
        return cls.named(config["name"], config["T"])
