"""A training step of the ADM 64 px classifier, ours beside openai/guided-diffusion's `classifier_train` in one process.

    git clone https://github.com/openai/guided-diffusion && python scripts/train_beside_adm.py --peer guided-diffusion

Both start from the same weights and take turns. Ours includes reading, cropping and flipping its images, theirs is given
one batch in memory. Prints images/s, their ratio, and each one's peak memory, measured in a process of its own.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from torch.nn import functional as F

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.execution import exact_float32
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.run import Run

Step = Callable[[], Any]
SIZE, CLASSES = 64, 1000
VARIANTS = ("theirs float32", "theirs half", "ours float32", "ours half", "ours half compiled")


def theirs(peer: Path, width: int, depth: int, batch: int, device: torch.device, half: bool) -> Iterator[None]:
    """Their loop's body, but for its logging. Half precision: their conversion, on a CPU to bfloat16."""
    sys.path.insert(0, str(peer))
    from guided_diffusion import fp16_util, nn, script_util, unet
    from guided_diffusion.resample import create_named_schedule_sampler

    assert nn and unet
    settings = script_util.classifier_and_diffusion_defaults() | {
        "image_size": SIZE, "classifier_width": width, "classifier_depth": depth, "noise_schedule": "cosine"}
    torch.manual_seed(0)
    network, diffusion = script_util.create_classifier_and_diffusion(**settings)
    network.to(device).train()
    trainer = fp16_util.MixedPrecisionTrainer(model=network, use_fp16=False)
    if half:
        to_half(network, torch.float16 if device.type == "cuda" else torch.bfloat16)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=3e-4, weight_decay=0.05)
    sampler = create_named_schedule_sampler("uniform", diffusion)
    x_0 = torch.rand(batch, 3, SIZE, SIZE, device=device) * 2 - 1
    y = torch.randint(CLASSES, (batch,), device=device)
    while True:
        t, _ = sampler.sample(batch, device)
        loss = F.cross_entropy(network(diffusion.q_sample(x_0, t), timesteps=t).float(), y)
        trainer.zero_grad()
        trainer.backward(loss)
        trainer.optimize(optimizer)
        yield


def to_half(network: torch.nn.Module, dtype: torch.dtype) -> None:
    network.dtype = dtype
    for path in ("input_blocks", "middle_block"):
        for module in getattr(network, path).modules():
            if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
                module.to(dtype)


def ours(width: int, depth: int, batch: int, device: torch.device, precision: str, compile: bool) -> Iterator[None]:
    config = EncoderUNetConfig(image_size=SIZE, in_channels=3, channels=width, channel_mult=(1, 2, 3, 4), res_blocks=depth,
                               attention_at=(32, 16, 8), head_channels=64, num_classes=CLASSES)
    names = tuple(map(str, range(CLASSES)))
    images = LabelledImages(ArrayImages(np.random.default_rng(0).integers(0, 256, (2048, 3, SIZE, SIZE), dtype=np.uint8)),
                            torch.randint(CLASSES, (2048,)))
    data = Dataset("random", images, images, names)
    torch.manual_seed(0)
    classifier = NoisyClassifier(EncoderUNet(config), NoiseSchedule.named("cosine"), names)
    training = TrainingConfig(iterations=10 ** 6, batch_size=batch, lr=3e-4, weight_decay=0.05, ema=0.0, precision=precision,
                              random_crop=True, random_flip=True)
    run = Run(classifier_task(classifier, data), training, data, Path(tempfile.mkdtemp()), Execution(device, compile=compile))
    for images_and_labels in read_ahead(run.read, range(10 ** 6), threads=2):
        run.train_step(*images_and_labels)
        yield


def stepper(variant: str, peer: Path, width: int, depth: int, batch: int, device: torch.device) -> Iterator[None]:
    whose, precision, *rest = variant.split()
    if whose == "theirs":
        return theirs(peer, width, depth, batch, device, precision == "half")
    return ours(width, depth, batch, device, "bf16" if precision == "half" else "float32", bool(rest))


def seconds(steps: Iterator[None], count: int, device: torch.device) -> float:
    """Of a step, over `count` of them."""
    started = time.perf_counter()
    for _ in range(count):
        next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def peak_memory(device: torch.device) -> float:
    """GB, at most: of the GPU, or of this process (on Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e6


@click.command()
@click.option("--peer", type=click.Path(exists=True, path_type=Path), required=True, help="A checkout of guided-diffusion.")
@click.option("--width", default=64, show_default=True)
@click.option("--depth", default=2, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--steps", default=2, show_default=True, help="A repeat, of each.")
@click.option("--variants", default=",".join(VARIANTS[:4]), show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--memory-of", hidden=True)
def main(peer: Path, width: int, depth: int, batch: int, repeats: int, steps: int, variants: str, device: str,
         memory_of: str | None) -> None:
    where = torch.device(device)
    exact_float32()
    if memory_of:
        seconds(stepper(memory_of, peer, width, depth, batch, where), 2, where)
        print(peak_memory(where))
        return
    runners = {name: stepper(name, peer, width, depth, batch, where) for name in variants.split(",")}
    for runner in runners.values():
        seconds(runner, 1, where)
    timings: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, runner in runners.items():
            timings[name].append(seconds(runner, steps, where))
    first = timings[next(iter(runners))]
    print(f"width {width}, depth {depth}, batch {batch}, {device}, torch {torch.__version__}")
    for name, found in timings.items():
        command = [sys.executable, *sys.argv, "--memory-of", name]
        memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        ratios = ", ".join(f"{base / own:.2f}" for base, own in zip(first, found))
        print(f"{name:20} {batch / median(found):8.1f} images/s   {ratios} times {next(iter(runners))}   {memory:5.2f} GB")


if __name__ == "__main__":
    main()
