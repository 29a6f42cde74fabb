"""A sampling run: batches, progress, resume."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from guided_sample.folder import RunFolder
from guided_sample.plan import Plan, from_pixels
from guided_sample.sanity import misconfigured
from noisy_clf.errors import UserError

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]"


def run(plan: Plan, out: Path, batch_size: int | None, tell: Callable[[str], object], check: bool = True) -> RunFolder:
    """Draws what the folder lacks of the plan's samples and then, where there is a second stage, of its samples; the folder
    of the last. `check` tries each denoiser on two pictures first, and `tell` tells of it."""
    folder = run_stage(plan, out, batch_size, tell, check)
    if plan.second is not None:
        plan.leave()
        return run_stage(plan.second, out / "upsampled", batch_size, tell, check, folder)
    return folder


def run_stage(plan: Plan, out: Path, batch_size: int | None, tell: Callable[[str], object], check: bool,
              small: RunFolder | None = None) -> RunFolder:
    folder = RunFolder(out, plan.denoiser.shape, plan.manifest, plan.identity, plan.defaults)
    assert plan.request.num_samples is not None
    if check and folder.missing(plan.request.num_samples):
        try_out(plan, tell)
    draw_missing(plan, folder, plan.request.num_samples, batch_size or default_batch(plan.denoiser.image_size),
                 None if small is None else lambda indices: from_pixels(small.images(indices)))
    return folder


def try_out(plan: Plan, tell: Callable[[str], object]) -> None:
    """Tells if the denoiser seems to be mis-configured."""
    name = plan.request.upsample or plan.request.model
    if plan.device.type == "cpu" and plan.denoiser.image_size >= 128:  # half a minute at 256 pixels
        tell(f"Trying {name} on two noised pictures (--no-check: without) ...")
    plan.denoiser.network.to(plan.device)
    if doubt := misconfigured(plan.denoiser, plan.device, plan.settings_given):
        tell(f"Warning: {name} {doubt}")


def draw_missing(plan: Plan, folder: RunFolder, num_samples: int, batch_size: int,
                 small: Callable[[list[int]], Tensor] | None) -> None:
    """Draws the samples that the folder lacks, stores each batch as it is ready, and finishes the folder.

    small  for a second stage: indices -> the images to enlarge [B,C,h,w] in [-1,1]

    Ctrl-C, a kill or an error loses at most the batch at work.
    """
    missing, steps = folder.missing(num_samples), len(plan.steps)
    started = time.perf_counter()
    bar = tqdm(total=len(missing) * steps, unit_scale=1 / steps, unit=" images", desc="sampling", bar_format=BAR,
               dynamic_ncols=True)  # counts steps, tells images
    try:
        with bar:
            for start in range(0, len(missing), batch_size):
                indices = missing[start:start + batch_size]
                batch = plan.draw_stage(indices, lambda: bar.update(len(indices)), small and small(indices))
                for line, pixels in zip(batch.lines, batch.images):
                    folder.add(pixels, line)
    except KeyboardInterrupt:
        finished = num_samples - len(folder.missing(num_samples))
        raise UserError(f"stopped with {finished} of {num_samples} images finished in {folder.path}; "
                        f"the same command makes the others.") from None
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"a batch of {batch_size} does not fit into the memory of {plan.device}; try a smaller "
                        f"--batch-size: the images stay the same, and the {len(folder.lines)} finished ones stay.") from None
    seconds = time.perf_counter() - started
    speed = {"images": len(missing), "seconds": round(seconds, 2), "images_per_second": round(len(missing) / seconds, 2)}
    report: dict[str, Any] = {"device": device_name(plan.device), "batch_size": batch_size, "last_run": speed}
    folder.finish(num_samples, columns_of(plan, num_samples), report if missing else {})


def columns_of(plan: Plan, num_samples: int) -> int:
    """Of the grid: one a class where there are a few."""
    classes = len(plan.labels.classes)
    return min(classes, num_samples) if 2 <= classes <= 16 else min(16, math.ceil(math.sqrt(num_samples)))


def default_batch(image_size: int) -> int:
    """As many pixels as 64 images of 64 pixels have."""
    return max(1, min(64, 64 * 64 ** 2 // image_size ** 2))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"
