"""What a step of each kind of guidance costs beside plain classifier guidance, on the digits. A minute of one core.

    python scripts/guidance_costs.py
    python scripts/guidance_costs.py --batch 64 --repeats 15
"""
from __future__ import annotations

import time
from statistics import median
from typing import Any

import click

from guided_sample.loading import Shelf
from guided_sample.plan import Plan
from guided_sample.request import Request

GUIDED: dict[str, Any] = {"model": "digits", "scale": 2.0}
KINDS: dict[str, dict[str, Any]] = {
    "unguided": {"model": "digits", "classes": ("none",)},
    "classifier": GUIDED,
    "classifier, a scale for each sample": GUIDED | {"scale": None},
    "classifier, entropy-adapted": GUIDED | {"adapt": "entropy"},
    "classifier, in an interval of half of the steps": GUIDED | {"scale_interval": "0:1"},
    "classifier, every other step": GUIDED | {"scale_every": "2"},
    "classifier, every other step, held": GUIDED | {"scale_every": "2:held"},
    "classifier at x0_hat": GUIDED | {"see": "x0"},
    "classifier through the denoiser": GUIDED | {"see": "through"},
    "the same, two steps backward": GUIDED | {"see": "through", "backward": 2},
    "two classifiers": GUIDED | {"guide": ("classifier:digits,scale=1",)},
    "like a picture": {"model": "digits", "like": ("digits:three",)},
    "like a picture, at x0_hat": {"model": "digits", "like": ("digits:three",), "see": "x0"},
    "in a picture's style": {"model": "digits", "style": ("digits:three",), "style_scale": 1e5},
    "as words say": {"model": "digits", "text": ("an eight",)},
    "digits-cond, unguided": {"model": "digits-cond", "scale": 0.0},
    "CFG": {"model": "digits-cond", "cfg": 2.0},
    "CFG, in an interval of half of the steps": {"model": "digits-cond", "cfg": 2.0, "contrast": "interval=0:1"},
    "CFG and APG": {"model": "digits-cond", "cfg": 2.0, "contrast": "apg=0,momentum=-0.5"},
    "four particles": GUIDED | {"particles": 4}}


@click.command()
@click.option("--batch", default=16, show_default=True)
@click.option("--repeats", default=7, show_default=True)
def main(batch: int, repeats: int) -> None:
    """CPU time of whole runs of ten steps, in turn; medians as multiples of the classifier's, and what of it is guidance."""
    shelf, times = Shelf(), {kind: [] for kind in KINDS}  # type: dict[str, list[float]]
    plans = {}
    for kind, fields in KINDS.items():
        scale = {"scale": tuple(1.0 + i % 3 for i in range(batch))} if "each sample" in kind else {}
        plans[kind] = Plan.of(Request(**{"num_samples": batch, "steps": "10", **fields, **scale}), "cpu", shelf=shelf)
    for plan in plans.values():
        plan.draw(range(batch))
    for _ in range(repeats):
        for kind, plan in plans.items():
            started = time.process_time()
            plan.draw(range(batch))
            times[kind].append(time.process_time() - started)
    plain, guided = median(times["unguided"]), median(times["classifier"])
    for kind, seconds in times.items():
        told = f"{median(seconds) / guided:.2f} ({min(seconds) / guided:.2f}-{max(seconds) / guided:.2f})"
        share = (median(seconds) - plain) / (guided - plain)
        click.echo(f"{kind:48} {told:20} guidance {share:5.2f} times the classifier's")


if __name__ == "__main__":
    main()
