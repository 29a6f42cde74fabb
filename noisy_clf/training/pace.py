"""How long a run will take here, told before its first step."""
from __future__ import annotations

import time

import torch

from noisy_clf.execution import device_name
from noisy_clf.training.run import Run

LONG, NIGHT = 24 * 3600.0, 8 * 3600.0  # seconds


def outlook(run: Run) -> str:
    """In words; takes as long as the first parts of three steps. What the run is does not change by it."""
    config, device, others = run.config, run.execution.device, run.execution.processes.count - 1
    seconds = step_seconds(run)
    left = (config.iterations - run.step) * seconds
    told = (f"{config.iterations - run.step} steps of {config.batch_size} images: about {duration(left)} on "
            f"{device_name(device)}{f' and {others} processes more' if others else ''}, at {config.batch_size / seconds:.3g} "
            f"images/s, and the validations' time")
    if left < LONG or run.step or device.type != "cpu":  # a run that goes on keeps its options
        return f"{told}."
    return (f"{told}. A GPU takes a small part of that; here, --iterations {max(1, int(NIGHT / seconds))} take "
            f"{duration(NIGHT)}, and a smaller network, --batch-size or --image-size makes steps shorter.")


def step_seconds(run: Run) -> float:
    """Of a step: the better of two of its first part, of black images, after one that warms up."""
    parts = run.execution.parts(run.share, run.task.multiple)
    device, count = run.execution.device, len(parts[0])
    black = torch.zeros(count, *run.data.train.images.shape, dtype=torch.uint8, device=device)
    zero = torch.zeros(count, dtype=torch.int64, device=device)  # t, and y
    found = []
    for _ in range(3):
        started = time.perf_counter()
        run.losses_of(black, zero, zero, parts[0]).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
        run.optimizer.zero_grad(set_to_none=True)
    return min(found[1:]) * len(run.share) / count


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{int(seconds < 10 * length)}f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else "a few seconds"
