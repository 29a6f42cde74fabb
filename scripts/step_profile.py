"""What a guided step costs beside its networks: the step as sampling takes it, and its networks alone, in turn, in one process.

    OMP_NUM_THREADS=1 python scripts/step_profile.py [--profile]

The bundled digits, batch 16 and 64, and ADM's ImageNet 64 with random weights, batch 8. Times are the process's CPU time, and
what is told of them is the median over rounds: other programs at work hardly matter.
"""
from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import click
import torch

from adm_steps import IMAGENET64, Stepper, guided_steps
from guided_sample.finite import Watch
from guided_sample.plan import Plan
from guided_sample.request import Request

CPU = torch.device("cpu")


def digits_steps(sampler: str, batch: int) -> Stepper:
    """The step of the README's first command, of a chain that begins anew at its end."""
    plan = Plan.of(Request(model="digits", classes=("all",), sampler=sampler, num_samples=batch), CPU)
    indices = range(batch)
    model, sampling = Watch(list(indices), "the classifier").over(plan.model(indices)), plan.sampler(indices)
    unet, encoder = plan.denoiser.network, plan.classifier.network
    noise = plan.noise(indices, plan.stream)
    moments = (moment for _ in cycle([0]) for moment in sampling(model, noise(), plan.steps, noise))
    x_t = noise()
    t = torch.full((batch,), plan.steps[len(plan.steps) // 2].t)

    def networks() -> None:
        with torch.no_grad():
            unet(x_t, t, None)
        x = x_t.clone().requires_grad_()
        torch.autograd.grad(encoder(x, t).sum(), x)
    return Stepper(lambda: next(moments), networks)


def seconds(what: Callable[[], object], times: int) -> float:
    """Of the process's CPU time."""
    started = time.process_time()
    for _ in range(times):
        what()
    return (time.process_time() - started) / times


def overhead(stepper: Stepper, rounds: int, times: int) -> tuple[float, float]:
    """(seconds of the networks, share of a step that is not networks): medians."""
    stepper.step(), stepper.networks()
    pairs = []
    for i in range(rounds):
        both = [stepper.step, stepper.networks][::1 - i % 2 * 2]  # each first in turn
        took = {what: seconds(what, times) for what in both}
        pairs.append((took[stepper.networks], 1 - took[stepper.networks] / took[stepper.step]))
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


@click.command()
@click.option("--profile", is_flag=True, help="Of 100 steps of the digits, too: which functions of Python.")
@click.option("--large/--no-large", default=True, help="Whether ADM's ImageNet 64 too.")
@click.option("--rounds", type=click.IntRange(min=1), default=41, show_default=True)
def main(profile: bool, large: bool, rounds: int) -> None:
    torch.set_num_threads(1)
    for batch in (16, 64):
        for sampler in ("ddpm", "ddim"):
            took, share = overhead(digits_steps(sampler, batch), rounds, 5)
            click.echo(f"digits, {sampler}, batch {batch}: networks {took * 1000:.1f} ms, not networks {share:.1%} of a step")
    if large:
        took, share = overhead(guided_steps(IMAGENET64, "float32", CPU)(8), max(3, rounds // 8), 1)
        click.echo(f"ImageNet 64, ddpm, batch 8: networks {took:.2f} s, not networks {share:.1%} of a step")
    if profile:
        stepper = digits_steps("ddpm", 16)
        with cProfile.Profile() as profiler:
            for _ in range(100):
                stepper.step()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
