"""Which timesteps a sampler visits. Networks always see these original t, never an index among them."""
from __future__ import annotations

from noisy_clf.errors import UserError


def kept_timesteps(spec: str, T: int) -> list[int]:
    """The timesteps that `spec` keeps of 0..T-1, ascending. (Improved DDPM sec. 4; DDIM app. D.2; ADM's program)

    "250"             250 of them, evenly, the first and the last kept
    "90,60,60,20,20"  so many in each fifth of 0..T-1, the cleanest fifth first
    "ddim25"          25 of them, a whole number apart, from 0
    """
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
