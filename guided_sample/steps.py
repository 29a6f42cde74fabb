"""Which timesteps a sampler visits, and the reverse steps between them. Networks always see these original t.

A step goes from t to t_prev, the next lower kept timestep (-1, where alpha_bar is 1, at the end).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from noisy_clf.errors import UserError

if TYPE_CHECKING:
    from noisy_clf.schedule import NoiseSchedule

Spec = str | Sequence[int]
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


def step_table(schedule: NoiseSchedule, timesteps: Sequence[int]) -> Step:
    """The steps of the chain that keeps `timesteps` (ascending), as float64 [S]."""
    t = np.array(timesteps)
    t_prev = np.append(-1, t[:-1])
    alpha_bar = schedule.alpha_bar[t]
    alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / alpha_bar_prev
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    return Step(t, t_prev, alpha_bar, alpha_bar_prev, beta,
                mean_x0=np.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar),
                mean_xt=np.sqrt(1 - beta) * (1 - alpha_bar_prev) / (1 - alpha_bar),
                beta_tilde=beta_tilde,
                beta_tilde_clipped=np.append(beta_tilde[1:2] if len(t) > 1 else beta, beta_tilde[1:]))


def steps(spec: Spec, schedule: NoiseSchedule) -> list[Step]:
    """The steps of the chain that `spec` keeps, in a sampler's order: the largest t first."""
    timesteps = kept_timesteps(spec, schedule.T)
    table = step_table(schedule, timesteps)
    return [Step(*(getattr(table, field.name)[i].item() for field in fields(table)))
            for i in reversed(range(len(timesteps)))]


def kept_timesteps(spec: Spec, T: int) -> list[int]:
    """The timesteps that `spec` keeps of 0..T-1, ascending. (Improved DDPM sec. 4; DDIM app. D.2; ADM's program)

    "250"             250 of them, evenly, the first and the last kept
    "90,60,60,20,20"  so many in each fifth of 0..T-1, the cleanest fifth first
    "ddim25"          25 of them, a whole number apart, from 0
    [0, 4, ..., 996]  these
    """
    if not isinstance(spec, str):
        return listed(spec, T)
    counts = spec.strip().lower().removeprefix("ddim").split(",")
    if not all(count.strip().isdecimal() for count in counts):
        raise UserError(f"steps {spec!r} cannot be read; write a number (250), one for each section (90,60,60,20,20), "
                        f"or ddim and a number (ddim25).")
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


def unreached_noise(spec: Spec, schedule: NoiseSchedule) -> str | None:
    """Why sampling, which starts from pure noise, goes wrong by a chain that starts late; None where it starts near t = T - 1,
    as DDIM's usual ones do, or where x_t is all but noise."""
    t = kept_timesteps(spec, schedule.T)[-1]
    signal = schedule.alpha_bar[t] ** 0.5
    if t >= NEAR * (schedule.T - 1) or signal < FAINT:
        return None
    return f"keeps no t above {t} of 0 to {schedule.T - 1}: x_t is {signal:.0%} image there, and sampling, which starts from " \
           f"pure noise, would take noise for it"


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


def nearest_steps(spec: str, T: int) -> str:
    """The spec, one number with or without "ddim", or the nearest that T timesteps allow."""
    if spec.startswith("ddim"):
        return f"ddim{min(whole_strides(T), key=lambda count: abs(count - int(spec[4:])))}"
    return str(min(int(spec), T))
