"""--dry-run: what a plan would do, how long it would take here, and how much disk."""
from __future__ import annotations

import math
from pathlib import Path

from tqdm import tqdm

from guided_sample.evaluations import evaluations
from guided_sample.halving import at_once
from guided_sample.loading import OWN
from guided_sample.plan import Plan
from guided_sample.run import usual_batch
from guided_sample.step_time import step_seconds
from noisy_clf.execution import device_name

AROUND, GRID = 4096, 1 << 20  # bytes: around a picture and its line, on disks that give whole blocks; of the grid and the rest


def rehearsal(plan: Plan, out: Path, batch_size: int | None) -> str:
    """In words; takes the time of two steps of a batch."""
    assert plan.request.num_samples is not None
    lines = [(plan.second or plan).request.to_toml()]
    N, stages = plan.request.num_samples, [plan] + ([plan.second] if plan.second else [])
    seconds, disk = 0.0, 0
    for stage in stages:
        size = min(batch_size or usual_batch(stage), N)
        name = stage.request.upsample or stage.request.model
        lines.append(f"# {name}: {len(stage.steps)} steps of {N} samples in batches of {size}: {told(stage, N)}")
        some = at_once(stage, size)
        seconds += step_seconds(stage, some) * sum(map(stage.passes, stage.steps)) * math.ceil(N / some)
        disk += N * (2 * math.prod(stage.denoiser.shape) + AROUND) + GRID  # PNGs and npz
    lines.append(f"# about {tqdm.format_interval(seconds)} on {device_name(plan.device)}, and at most "
                 f"{tqdm.format_sizeof(disk, 'B')} in {out}")
    return "\n".join(lines)


def told(plan: Plan, N: int) -> str:
    """How often which network would be run."""
    words = {"denoiser": "evaluations of the denoiser", "weak model": "of the weak model", OWN: "of the classifier, with its "
             "gradient"}
    return ", ".join(f"{count.run * N} {words.get(name, f'of {name}')}" + f" ({count.saved * N} saved)" * (count.saved > 0)
                     for name, count in evaluations(plan).items())
