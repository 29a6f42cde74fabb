"""What share of the machine's rate of convolution ADM's U-Net reaches, and which operators take the rest.

    python scripts/unet_share.py --size 64 --batch 8

The rate is that of the network's own 3x3 convolutions, each shape by itself in the same memory layout and precision, taking
turns with the whole network's forward pass, so that a busy machine slows both. Random weights.
"""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from adm_steps import IMAGENET64, IMAGENET256_UNCOND, give_random
from guided_sample.unet import UNet
from noisy_clf.execution import dtype_of, quicken
from noisy_clf.heap import keep_what_is_freed

SHAPES = {"64": IMAGENET64, "256": IMAGENET256_UNCOND}

Network = tuple[UNet, Callable[[], Tensor]]
Shapes = Counter[tuple[tuple[int, ...], int]]  # how often, by the input's shape [B,C,H,W] and the output's channels


def forward_of(size: str, batch: int, width: int | None, precision: str, channels_last: bool) -> Network:
    """The network as sampling runs it, and a forward pass of it."""
    shape = SHAPES[size].with_both(**({"channels": width} if width else {}))
    unet = give_random(UNet(shape.unet)).eval().requires_grad_(False)
    quicken(unet, precision, channels_last)
    x_t, t = torch.randn(batch, 3, int(size), int(size)), torch.full((batch,), 500)
    y = torch.arange(batch) if shape.unet.num_classes else None

    @torch.no_grad()
    def forward() -> Tensor:
        with torch.autocast("cpu", dtype_of(precision), enabled=precision != "float32"):
            return unet(x_t, t, y)
    return unet, forward


def convolutions_of(unet: UNet, forward: Callable[[], Tensor]) -> Shapes:
    """By 3x3."""
    found: Shapes = Counter()

    def seen(module: nn.Module, given: tuple[Tensor]) -> None:
        found[tuple(given[0].shape), module.out_channels] += 1
    hooks = [module.register_forward_pre_hook(seen) for module in unet.modules()
             if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    forward()
    for hook in hooks:
        hook.remove()
    return found


def convolving(found: Shapes, dtype: torch.dtype, channels_last: bool) -> Callable[[], float]:
    """Takes the seconds of all of them, of which each shape is run once."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    given = [(count, *(torch.randn(size).to(dtype, memory_format=layout) for size in (shape, (K, shape[1], 3, 3))))
             for (shape, K), count in found.items()]

    @torch.no_grad()
    def seconds() -> float:
        return sum(count * seconds_of(lambda: F.conv2d(x, weight, padding=1)) for count, x, weight in given)
    return seconds


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def flops_of(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@click.command()
@click.option("--size", default="64", type=click.Choice(list(SHAPES)), show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--width", type=int, help="[default: the released model's]")
@click.option("--precision", default="float32", type=click.Choice(["float32", "bf16"]), show_default=True)
@click.option("--channels-last/--contiguous", default=True, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--operators", default=12, show_default=True, help="To show of the profile.")
def main(size: str, batch: int, width: int | None, precision: str, channels_last: bool, repeats: int, operators: int) -> None:
    keep_what_is_freed()
    unet, forward = forward_of(size, batch, width, precision, channels_last)
    found = convolutions_of(unet, forward)
    convolve = convolving(found, dtype_of(precision), channels_last)
    flops = flops_of(forward)
    of_convolutions = sum(count * 18 * B * C * H * W * K for ((B, C, H, W), K), count in found.items())
    convolve()
    timings = [(seconds_of(forward), convolve()) for _ in range(repeats)]
    shares = sorted(flops / whole / (of_convolutions / alone) for whole, alone in timings)
    whole, alone = (median(column) for column in zip(*timings))
    print(f"{size} px, batch {batch}, {precision}, {'channels-last' if channels_last else 'contiguous'}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
          f"forward {whole:.3f} s, {flops / whole / 1e12:.3f} TFLOP/s; 3x3 convolutions, {of_convolutions / flops:.0%} of it, "
          f"{of_convolutions / alone / 1e12:.3f} TFLOP/s; share {median(shares):.0%} ({shares[0]:.0%} to {shares[-1]:.0%})")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        forward()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:operators]:
        print(f"  {row.self_cpu_time_total / total:6.1%}  {row.count:5} x {row.key}")


if __name__ == "__main__":
    main()
