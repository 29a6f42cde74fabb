"""A step of ADM's, ours beside openai/guided-diffusion's, taking turns in one process, with the same random weights.

    git clone https://github.com/openai/guided-diffusion && python scripts/beside_adm.py guided --peer guided-diffusion

`guided`: a guided step of imagenet256-uncond, or with --size 64 of imagenet64, how far the two programs' results agree, and
what loading the former's files takes (12 GB of memory, 3 GB of disk, no download; --no-loading leaves it out). `classifier`,
`denoiser`: a training step at --size pixels, by the body of their classifier_train or image_train; ours reads, crops and flips
its images too, theirs is given one batch in memory.
Prints images/s, their ratios, and each one's peak memory, measured in a process of its own.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

import adm_steps
import peer_steps
from adm_steps import IMAGENET64, IMAGENET256_UNCOND, Shape, give_random, shape, some_noise
from guided_sample.loaders.guided_diffusion import denoiser_from_file
from guided_sample.unet import UNet
from noisy_clf.checkpoints.released import CLASSIFIERS, DENOISERS
from noisy_clf.execution import exact_float32
from noisy_clf.loaders.guided_diffusion import classifier_from_file
from noisy_clf.networks.encoder_unet import EncoderUNet

FILES = DENOISERS["imagenet256-uncond"].file, CLASSIFIERS["imagenet256"].file
VARIANTS = ("theirs float32", "theirs half", "ours float32", "ours half", "ours half compiled")
GUIDED = {"64": IMAGENET64, "256": IMAGENET256_UNCOND}
MULT = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4)}  # improved-diffusion's, for CIFAR-10, and ADM's


def stepper(kind: str, variant: str, shape: Shape, batch: int, device: torch.device) -> Callable[..., Any]:
    whose, precision, *compiled = variant.split()
    if whose == "theirs":
        steps = peer_steps.guided_steps(shape, precision == "half", device) if kind == "guided" else \
            peer_steps.training_steps(shape, kind, precision == "half", device)
        return steps(batch)
    name = "bf16" if precision == "half" else "float32"
    steps = adm_steps.guided_steps(shape, name, device) if kind == "guided" else \
        adm_steps.training_steps(shape, kind, name, device, compile=bool(compiled))
    return steps(batch).step


def seconds(step: Callable[[], Any], count: int, device: torch.device) -> float:
    """Of a step, over `count` of them."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def measure_loading() -> str:
    """Of imagenet256-uncond's two files: seconds, and growth of the resident memory's peak over their size."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, file) for file in FILES]
        for file, network in zip(files, (UNet(IMAGENET256_UNCOND.unet), EncoderUNet(IMAGENET256_UNCOND.encoder))):
            torch.save(give_random(network).state_dict(), file)
        return in_own_process("--only-load", name)


def load(folder: Path) -> str:
    before, started = peak_memory(), time.perf_counter()
    denoiser, classifier = denoiser_from_file(folder / FILES[0], None), classifier_from_file(folder / FILES[1], None)
    loaded, took = peak_memory(), time.perf_counter() - started
    for parameter in [*denoiser.network.parameters(), *classifier.parameters()]:
        parameter.sum()  # reads every page
    size = sum((folder / file).stat().st_size for file in FILES) / 1e9
    return (f"loading both, {size:.2f} GB: {took:.2f} s; growth of the memory's peak: {(loaded - before) / size:.2f} "
            f"times the weights, {(peak_memory() - before) / size:.2f} times once every weight was read")


def peak_memory() -> float:
    """GB, at most: of the GPU where it was used, or of this process. (Linux; getrusage's is inherited from the parent)"""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def in_own_process(*more: str) -> str:
    command = [sys.executable, *sys.argv, *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


@click.command()
@click.argument("kind", type=click.Choice(["guided", "classifier", "denoiser"]))
@click.option("--peer", type=click.Path(exists=True), required=True, help="A checkout of guided-diffusion.")
@click.option("--size", type=click.Choice(["32", "64", "256"]), help="Pixels.  [default: 256 guided, 64 training]")
@click.option("--width", default=64, show_default=True)
@click.option("--depth", default=2, show_default=True)
@click.option("--batch", type=int, help="[default: 1 guided, 32 training]")
@click.option("--repeats", default=3, show_default=True)
@click.option("--loading/--no-loading", default=True, help="Measure loading, too.")
@click.option("--variants", default=",".join(VARIANTS[:4]), show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--memory-of", hidden=True)
@click.option("--only-load", type=click.Path(path_type=Path), hidden=True)
def main(kind: str, peer: str, size: str | None, width: int, depth: int, batch: int | None, repeats: int, loading: bool,
         variants: str, device: str, memory_of: str | None, only_load: Path | None) -> None:
    sys.path.insert(0, peer)
    exact_float32()
    if only_load:
        print(load(only_load))
        return
    if size == ("32" if kind == "guided" else "256"):
        raise click.UsageError(f"of {kind}, nothing is measured at {size} px; give --size 64.")
    what = GUIDED[size or "256"] if kind == "guided" else \
        shape(int(size or "64"), width, width, MULT[int(size or "64")], "cosine").with_both(res_blocks=depth)
    batch, where = batch or (1 if kind == "guided" else 32), torch.device(device)
    if memory_of:
        seconds(stepper(kind, memory_of, what, batch, where), 2, where)
        print(peak_memory())
        return
    runners = {name: stepper(kind, name, what, batch, where) for name in variants.split(",")}
    for runner in runners.values():
        runner()
    timings: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, runner in runners.items():
            timings[name].append(seconds(runner, 1, where))
    first = next(iter(runners))
    print(f"{kind}, {what.unet.image_size} px, batch {batch}, {device}, torch {torch.__version__}")
    for name, found in timings.items():
        ratios = ", ".join(f"{base / own:.2f}" for base, own in zip(timings[first], found))
        print(f"{name:20} {batch / median(found):8.2f} images/s   {ratios} times {first}   "
              f"{float(in_own_process('--memory-of', name)):5.2f} GB")
    if kind == "guided":
        noise = some_noise(what, batch, where)()
        results = {name: runner(lambda: noise) for name, runner in runners.items()}
        for name, result in results.items():
            errors = ", ".join(f"{of} {relative_error(a, b):.1e}" for of, a, b in zip(("x", "x0_hat"), result, results[first]))
            print(f"{name} against {first}, largest relative error: {errors}")
        if loading:
            print(measure_loading())


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


if __name__ == "__main__":
    main()
