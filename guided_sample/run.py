"""A sampling run: this process's share of the batches, progress, resume."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor
from tqdm import tqdm

from guided_sample.behind import behind
from guided_sample.evaluations import evaluations
from guided_sample.folder import Columns, RunFolder
from guided_sample.halving import Halving, at_once
from guided_sample.labels import Wish
from guided_sample.particles import collapse
from guided_sample.plan import Plan, from_pixels
from guided_sample.sanity import misconfigured
from guided_sample.shares import Share
from guided_sample.step_time import compiled
from noisy_clf.errors import UserError, enough_memory
from noisy_clf.execution import device_name

LETTER = 6  # pixels, of a heading: as wide as they are on average
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}]"


def run(plan: Plan, out: Path, batch_size: int | None, tell: Callable[[str], object], check: bool = True,
        share: Share = Share()) -> RunFolder:
    """Draws what the folder lacks of the plan's samples and then, where there is a second stage, of its samples; the folder
    of the last. `check` tries each denoiser on two pictures first, and `tell` tells of it. Of several processes each draws its
    `share`, and the one that finds nothing missing gathers the samples of all."""
    assert plan.request.num_samples is not None
    block = batch_size or usual_batch(plan)  # of both stages: a share enlarges what it drew
    if share.count > 1:
        tell(told_of(share, plan.request.num_samples, block))
    folder = run_stage(plan, out, share, block, block, tell, check)
    if plan.second is not None:
        plan.leave()
        size = batch_size or usual_batch(plan.second)
        return run_stage(plan.second, out / "upsampled", share, block, size, tell, check, folder)
    return folder


def told_of(share: Share, num_samples: int, block: int) -> str:
    own = sum(map(len, share.batches(num_samples, block, block)))
    told = f"process {share} ({share.by}): {own} of {num_samples} samples are its own"
    if own or num_samples < share.count:
        return told
    return f"{told}: {block} are drawn at a time; --batch-size {num_samples // share.count} gives every process some"


def run_stage(plan: Plan, out: Path, share: Share, block: int, size: int, tell: Callable[[str], object], check: bool,
              small: RunFolder | None = None) -> RunFolder:
    """One stage: in batches of `size`, of which each lies in a block of the samples, which is one share's."""
    folder = RunFolder(out, plan.denoiser.shape, plan.manifest, plan.identity, plan.defaults, plan.labels_of)
    assert plan.request.num_samples is not None
    with folder.claimed(share, block, {"device": device_name(plan.device), "batch_size": size}):
        batches = share.batches(max(plan.request.num_samples, folder.gathered), block, size)
        missing = {index: None for index in folder.missing(plan.request.num_samples)}
        lacking = {batch: found for batch in batches if (found := [index for index in batch if index in missing])}
        if check and lacking and share.talks:
            try_out(plan, tell)
        if plan.compile and lacking:
            told = compiled(plan, at_once(plan, len(next(iter(lacking)))))
            if share.talks:
                tell(f"{plan.request.upsample or plan.request.model}: {told}")
        draw_lacking(plan, folder, share, lacking, size,
                     None if small is None else lambda batch: from_pixels(small.images(batch)), tell)
    return folder


def try_out(plan: Plan, tell: Callable[[str], object]) -> None:
    """Tells if the denoiser seems to be mis-configured."""
    name = plan.request.upsample or plan.request.model
    if plan.device.type == "cpu" and plan.denoiser.image_size >= 128:  # half a minute at 256 pixels
        tell(f"Trying {name} on two noised pictures ...")
    plan.denoiser.network.to(plan.device)
    if doubt := misconfigured(plan.denoiser, plan.device, plan.settings_given):
        tell(f"Warning: {name} {doubt}")


def draw_lacking(plan: Plan, folder: RunFolder, share: Share, lacking: dict[range, list[int]], size: int,
                 small: Callable[[Sequence[int]], Tensor] | None, tell: Callable[[str], object]) -> None:
    """Draws batches of which the folder lacks some samples, stores those as each batch is ready, and finishes the folder.

    lacking  the batches, and what is lacking of each. All of a batch is drawn: what is drawn beside a sample changes it, by
             rounding, and shall not depend on what was lost
    small    for a second stage: indices -> the images to enlarge [B,C,h,w] in [-1,1]

    Ctrl-C, a kill or an error loses at most the batch at work, and a kill what waits to be written, behind.WAITING images. A
    batch that does not fit is drawn in halves, and so are those after it.
    """
    num_samples, steps, own = plan.request.num_samples, len(plan.steps), sum(map(len, lacking.values()))
    assert num_samples is not None
    started, halving = time.perf_counter(), Halving(plan, small, tell)
    bar = tqdm(total=own * steps, unit_scale=1 / steps, unit=" images", desc="sampling", bar_format=BAR, dynamic_ncols=True,
               disable=not share.talks)  # counts steps, tells images
    try:
        with bar, enough_memory(lambda: f"not even one sample fits into the memory of {plan.device}; choose a smaller model, "
                                        f"or end other programs: the {len(folder.lines)} finished images stay."), \
                behind(folder.add) as store:
            for batch, wanted in lacking.items():
                for drawn in halving.drawn(batch, wanted, bar):
                    for line, pixels in zip(drawn.lines, drawn.images):
                        if line["index"] in wanted:
                            store(pixels, line)
    except KeyboardInterrupt:
        folder.look()
        raise UserError(f"stopped with {num_samples - len(folder.missing(num_samples))} of {num_samples} images finished in "
                        f"{folder.path}; the same command makes the others"
                        + (f" of share {share}." if share.count > 1 else ".")) from None
    seconds = time.perf_counter() - started
    speed = {"images": own, "seconds": round(seconds, 2), "images_per_second": round(own / seconds, 2)}
    report = {"device": device_name(plan.device), "batch_size": size, "evaluations": told_evaluations(plan),
              "last_run": speed | ({"share": str(share)} if share.count > 1 else {})
              | ({"compiled": True} if plan.compile else {}) | ({"halved_to": halving.most} if halving.most < math.inf else {})}
    folder.finish(num_samples, lambda total: columns_of(plan, total), report if own else {})
    sizes = [line["ess"] for line in folder.lines.values() if "ess" in line]
    if sizes and share.talks and (doubt := collapse(sizes, plan.chains)):
        tell(f"Warning: {doubt}")


def told_evaluations(plan: Plan) -> dict[str, Any]:
    """A sample's, by network, and of these what intervals and steps between have saved, as the manifest has it."""
    found = evaluations(plan)
    saved = {name: count.saved for name, count in found.items() if count.saved}
    return {name: count.run for name, count in found.items()} | ({"saved": saved} if saved else {})


def columns_of(plan: Plan, num_samples: int) -> Columns:
    """Of the grid: one a class, or a wish, where there are a few, by names (or numbers, where a name has other letters than
    the font, or a wish is longer than a picture is wide); or one for each picture or text that samples have in turn."""
    wishes, names = plan.labels.wishes if plan.labels.classes else (), plan.labels.names
    if not 2 <= len(wishes) <= 16:
        in_turn = max((len(spec.wanted) for spec in plan.request.similar), default=0)  # pictures, or words
        return Columns(in_turn if 2 <= in_turn <= 16 else min(16, math.ceil(math.sqrt(num_samples))))
    letters = [name if name.isascii() else str(k) for k, name in enumerate(names)]

    def heading(wish: Wish) -> str:
        text = wish.text(letters)
        fits = len(text) * LETTER <= max(64, plan.denoiser.image_size)
        return text if wish.plain or fits else wish.text(range(len(names)))

    shown = wishes[:num_samples]
    return Columns(len(shown), tuple(map(heading, shown)))


def closing(folder: RunFolder, num_samples: int) -> str:
    """What there is now, in a line."""
    if missing := len(folder.missing(num_samples)):
        return (f"{num_samples - missing} of {num_samples} images are in {folder.path}; the others are other processes' to "
                f"make, and the same command, on any number of processes, makes what they leave.")
    more = f", of which {num_samples} were asked for" if folder.gathered > num_samples else ""
    return (f"{max(num_samples, folder.gathered)} images in {folder.path}{more}: look at {folder.path / 'grid.png'}"
            + similarities_told(list(folder.lines.values())))


def similarities_told(lines: list[dict[str, Any]]) -> str:
    """What samples reached of their pictures and words, on average; nothing where there are none."""
    reached: dict[str, list[float]] = {}
    for line in lines:
        for title, value in line.get("similarities", {}).items():
            reached.setdefault(title, []).append(value)
    told = ", ".join(f"{title} {fmean(values):.3g}" for title, values in reached.items())
    return f"\nSimilarity reached, on average: {told}" if told else ""


def usual_batch(plan: Plan) -> int:
    """Samples at a time, where nobody says how many."""
    return max(1, default_batch(plan.denoiser.image_size) // plan.chains)


def default_batch(image_size: int) -> int:
    """As many pixels as 64 images of 64 pixels have."""
    return max(1, min(64, 64 * 64 ** 2 // image_size ** 2))
