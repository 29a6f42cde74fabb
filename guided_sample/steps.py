"""Which timesteps a sampler visits, and the reverse steps between them. Networks always see these original t, whole numbers
unless fractional t are asked for.

A step goes from t to t_prev, the next lower kept timestep (-1, where alpha_bar is 1, at the end).
"""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from noisy_clf.errors import UserError

if TYPE_CHECKING:
    from noisy_clf.schedule import NoiseSchedule

Spec = str | Sequence[int]
GRIDS = ("logsnr", "uniform", "quadratic")
MOST = 1_000_000  # on a grid at fractional t
NOISIEST = -5.1  # half log SNR from which on grids begin: below, x_t tells nothing of x_0 (DPM-Solver's program)
NEAR, FAINT = 0.9, 0.07  # t / T from which on x_t is near pure noise; sqrt(alpha_bar) below which it is noise enough


@dataclass(frozen=True)
class Step:
    """One reverse step in plain numbers; or many at once, as arrays or tensors.

    alpha_bar, alpha_bar_prev  the signal's variance at t and t_prev
    beta                       1 - alpha_bar / alpha_bar_prev
    mean_x0, mean_xt           the posterior mean's weights of x_0 and of x_t   (DDPM eq. 7)
    beta_tilde                 the posterior variance, 0 at the last step       (DDPM eq. 7)
    beta_tilde_clipped         at the last step that of the step before it      (ADM's program)
    """

    t: Any
    t_prev: Any
    alpha_bar: Any
    alpha_bar_prev: Any
    beta: Any
    mean_x0: Any
    mean_xt: Any
    beta_tilde: Any
    beta_tilde_clipped: Any

    @property
    def sigma(self) -> Any:
        """Noise in units of the signal, sqrt(1 / alpha_bar - 1): what intervals of guidance are told in. (EDM)"""
        return (1 / self.alpha_bar - 1) ** 0.5

    @property
    def h(self) -> float:
        """How far the step goes in half log SNR, infinitely far where it ends clean. (DPM-Solver sec. 3.1)"""
        return half_log_snr(self.alpha_bar_prev) - half_log_snr(self.alpha_bar)


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)); infinite where it is 1."""
    return math.inf if alpha_bar == 1 else math.log(alpha_bar / (1 - alpha_bar)) / 2


def step_table(schedule: NoiseSchedule, timesteps: Sequence[float]) -> Step:
    """The steps of the chain that keeps `timesteps` (ascending), as float64 [S]."""
    t = np.array(timesteps)
    t_prev = np.append(-1, t[:-1])
    alpha_bar = schedule.alpha_bar_at(t)
    alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / alpha_bar_prev
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    return Step(t, t_prev, alpha_bar, alpha_bar_prev, beta,
                mean_x0=np.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar),
                mean_xt=np.sqrt(1 - beta) * (1 - alpha_bar_prev) / (1 - alpha_bar),
                beta_tilde=beta_tilde,
                beta_tilde_clipped=np.append(beta_tilde[1:2] if len(t) > 1 else beta, beta_tilde[1:]))


def steps(spec: Spec, schedule: NoiseSchedule, fractional: bool = False) -> list[Step]:
    """The steps of the chain that `spec` keeps, in a sampler's order: the largest t first."""
    timesteps = kept_timesteps(spec, schedule, fractional)
    table = step_table(schedule, timesteps)
    return [Step(*(getattr(table, field.name)[i].item() for field in fields(table)))
            for i in reversed(range(len(timesteps)))]


def kept_timesteps(spec: Spec, schedule: NoiseSchedule, fractional: bool = False) -> list[Any]:
    """The timesteps that `spec` keeps of 0..T-1, ascending. (Improved DDPM sec. 4; DDIM app. D.2; ADM's program)

    "250"             250 of them, evenly, the first and the last kept
    "90,60,60,20,20"  so many in each fifth of 0..T-1, the cleanest fifth first
    "ddim25"          25 of them, a whole number apart, from 0
    "logsnr15"        15 on a grid: at the nearest whole t, or where `fractional`, exactly
    [0, 4, ..., 996]  these
    """
    T = schedule.T
    if isinstance(spec, str) and (grid := re.fullmatch(rf"({'|'.join(GRIDS)})([0-9]{{1,9}})", spec.strip().lower())):
        return on_grid(grid[1], int(grid[2]), schedule, fractional)
    if fractional:
        raise UserError(f"fractional t are for grids, and steps {spec!r} are none; write logsnr15, uniform15 or quadratic15, "
                        f"or leave out --fractional-t.")
    if not isinstance(spec, str):
        return listed(spec, T)
    counts = spec.strip().lower().removeprefix("ddim").split(",")
    if not all(count.strip().isdecimal() for count in counts):
        raise UserError(f"steps {spec!r} cannot be read; write a number (250), one for each section (90,60,60,20,20), "
                        f"ddim and a number (ddim25), or a grid's name and a number (logsnr15, uniform15, quadratic15).")
    numbers = [int(count) for count in counts]
    if spec.strip().lower().startswith("ddim"):
        return whole_stride(numbers, spec, T)
    kept, start = [], 0
    for i, count in enumerate(numbers):
        size = T // len(numbers) + (i < T % len(numbers))
        if count > size or (count < 1 and len(numbers) == 1):
            section = f"section {i + 1} has {size} timesteps" if len(numbers) > 1 else f"there are {size} timesteps"
            raise UserError(f"steps {spec!r} cannot be made: {section}, so 1 to {size} can be kept.")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):  # added up, not multiplied: halves round as they do in ADM's program
            kept.append(start + round(position))
            position += stride
        start += size
    if not kept:
        raise UserError(f"steps {spec!r} keep no timestep at all.")
    return kept


def on_grid(kind: str, count: int, schedule: NoiseSchedule, fractional: bool) -> list[Any]:
    """So many timesteps from t = 0 to the noisiest of use, even in log SNR ("logsnr"), in t ("uniform") or in the root of
    t + 1 ("quadratic"). At whole t, two that are nearest to the same go to the next ones. (DPM-Solver's program)"""
    half, last = [half_log_snr(alpha_bar) for alpha_bar in schedule.alpha_bar.tolist()], most_on_grid(schedule) - 1
    most = MOST if fractional and last else last + 1
    if not 1 <= count <= most:
        raise UserError(f"steps '{kind}{count}' cannot be made: of {schedule.T} timesteps {last + 1} are not all but "
                        f"noise, so 1 to {most} can be kept.")
    if kind == "logsnr":
        wanted = -np.logaddexp(0, -2 * np.linspace(half[last], half[0], count)[::-1])  # log alpha_bar
        t = np.interp(-wanted, -np.log(schedule.alpha_bar), np.arange(schedule.T))
    elif kind == "uniform":
        t = np.linspace(last, 0, count)[::-1]
    else:
        t = np.linspace(math.sqrt(last + 1), 1, count)[::-1] ** 2 - 1
    t[0], t[-1] = 0, last
    if fractional:
        return t.tolist()
    i = np.arange(count)
    whole = np.maximum.accumulate(np.rint(t).astype(int) - i) + i
    return np.minimum(whole, last - i[::-1]).tolist()


def most_on_grid(schedule: NoiseSchedule) -> int:
    """How many timesteps are of use: the noisiest are not."""
    return max(sum(half_log_snr(alpha_bar) >= NOISIEST for alpha_bar in schedule.alpha_bar.tolist()), 1)


def unreached_noise(spec: Spec, schedule: NoiseSchedule, fractional: bool = False) -> str | None:
    """Why sampling, which starts from pure noise, goes wrong by a chain that starts late; None where it starts near t = T - 1,
    as DDIM's usual ones do, or where x_t is all but noise."""
    t = kept_timesteps(spec, schedule, fractional)[-1]
    signal = schedule.alpha_bar_at(t) ** 0.5
    if t >= NEAR * (schedule.T - 1) or signal < FAINT:
        return None
    return f"keeps no t above {t} of 0 to {schedule.T - 1}: x_t is {signal:.0%} image there, and sampling, which starts from " \
           f"pure noise, would take noise for it"


def useless_noise(spec: Spec, schedule: NoiseSchedule, fractional: bool = False) -> str | None:
    """Why a deterministic sampler goes wrong by a chain that starts where x_t tells nothing, noisier than any grid; None where
    it starts later."""
    t = kept_timesteps(spec, schedule, fractional)[-1]
    if half_log_snr(float(schedule.alpha_bar_at(t))) >= NOISIEST:
        return None
    return f"begins at t = {t:g}, where x_t tells nothing of the image, and without fresh noise what is made up there stays"


def listed(timesteps: Sequence[int], T: int) -> list[int]:
    kept = list(timesteps)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= T:
        raise UserError(f"steps given one by one must be whole numbers from 0 to {T - 1}, ascending, not {kept[:6]}"
                        f"{' ...' * (len(kept) > 6)}.")
    return kept


def whole_stride(numbers: list[int], spec: str, T: int) -> list[int]:
    possible = whole_strides(T)
    if len(numbers) != 1 or numbers[0] not in possible:
        near = sorted(sorted(possible, key=lambda count: abs(count - numbers[0]))[:4])
        raise UserError(f"steps {spec!r} cannot be made from {T} timesteps at a whole stride; "
                        f"the nearest that can: {', '.join(f'ddim{count}' for count in near)}.")
    return list(range(0, T, possible[numbers[0]]))


def whole_strides(T: int) -> dict[int, int]:
    """For each number of steps that a whole stride through 0..T-1 makes, the smallest such stride."""
    return {len(range(0, T, stride)): stride for stride in range(T, 0, -1)}


def nearest_steps(spec: str, schedule: NoiseSchedule) -> str:
    """The spec, one number with or without "ddim" or a grid's name, or the nearest that the schedule allows."""
    name, count = spec.rstrip("0123456789"), int(spec.lstrip("abcdefghijklmnopqrstuvwxyz"))
    if name == "ddim":
        return f"ddim{min(whole_strides(schedule.T), key=lambda possible: abs(possible - count))}"
    return f"{name}{min(count, most_on_grid(schedule) if name else schedule.T)}"
