"""How long a step takes on this machine, compiled or not."""
from __future__ import annotations

import math
import time

import torch

from guided_sample.plan import Plan
from noisy_clf.errors import UserError, one_line, out_of_memory
from noisy_clf.noise import SampleNoise

REPEATS = 5  # a CUDA graph is recorded at the second pass


def step_seconds(plan: Plan, B: int, repeats: int = 2) -> float:
    """Of one step of a batch: the fastest of several after the first."""
    indices = [i for i in range(B) for _ in range(plan.chains)]
    small = None
    if plan.denoiser.small_size is not None:
        small = torch.zeros(len(indices), plan.denoiser.channels, plan.denoiser.small_size, plan.denoiser.small_size)
    x_t = SampleNoise(0, indices, plan.denoiser.shape, plan.device)()
    model = plan.model(indices, small)
    seconds = []
    with plan.precision(), torch.no_grad():
        for _ in range(repeats):
            started = time.perf_counter()
            model(x_t, plan.steps[len(plan.steps) // 2])
            if plan.device.type == "cuda":
                torch.cuda.synchronize(plan.device)
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def compiled(plan: Plan, B: int) -> str:
    """Compiles the networks for batches of B, or of what of it fits; how long that took, and when it pays."""
    from torch._dynamo.exc import TorchDynamoException  # here: it brings all of the compiler

    try:
        return compared(plan, B)
    except Exception as error:
        if isinstance(error, TorchDynamoException) and not out_of_memory(error):
            raise UserError(f"torch cannot compile the networks here ({one_line(error)}); leave out --compile.") from error
        if not out_of_memory(error) or B == 1:
            raise
    return compiled(plan, math.ceil(B / 2))


def compared(plan: Plan, B: int) -> str:
    with torch.compiler.set_stance("force_eager"):
        eager = step_seconds(plan, B, REPEATS)
    started = time.perf_counter()
    step = step_seconds(plan, B, REPEATS)
    took = time.perf_counter() - started - (REPEATS - 1) * step
    told = f"Compiled in {took:.0f} s: a step of {B} images takes {step * 1000:.3g} ms, where it took {eager * 1000:.3g}"
    if step >= eager:
        return f"{told}, which does not pay; leave out --compile."
    images = math.ceil(took / (eager - step) * B / sum(map(plan.passes, plan.steps)))
    return f"{told}, which pays from {images} images on."
