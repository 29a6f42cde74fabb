"""What is measured: a guided step and a training step in the shapes of ADM's released models, by this toolkit.

Weights are random, each tensor drawn from its name alone, so that another program's networks can have the same ones.
"""
from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from guided_sample.denoiser import unet_denoiser
from guided_sample.finite import Watch
from guided_sample.labels import Labels
from guided_sample.loaders.classifier import in_memory
from guided_sample.loading import classifying
from guided_sample.plan import Plan
from guided_sample.request import Request
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from guided_sample.training.denoiser_task import denoiser_task, new_denoiser
from guided_sample.unet import UNet
from guided_sample.unet_config import UNetConfig
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.image_files import ImageFiles
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.execution import dtype_of
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.noise import Noise, SampleNoise
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.run import Run

STEP, SCALE = 124, 10.0  # the step of 250, at t = 497; the guidance scale
LR, WEIGHT_DECAY, EMA = 3e-4, 0.05, 0.9999


@dataclass(frozen=True)
class Shape:
    """A denoiser and the classifier that guides it."""

    unet: UNetConfig
    encoder: EncoderUNetConfig
    schedule: str

    def with_both(self, **changes: Any) -> Shape:
        return replace(self, unet=replace(self.unet, **changes), encoder=replace(self.encoder, **changes))

    @property
    def labels(self) -> Labels:
        return Labels(tuple(range(self.encoder.num_classes)), names=tuple(map(str, range(self.encoder.num_classes))))


def shape(size: int, channels: int, width: int, mult: tuple[int, ...], schedule: str, **of_unet: Any) -> Shape:
    shared: dict[str, Any] = {"image_size": size, "in_channels": 3, "channel_mult": mult, "attention_at": (32, 16, 8),
                              "head_channels": 64}
    return Shape(UNetConfig(**shared | {"channels": channels, "out_channels": 6} | of_unet),
                 EncoderUNetConfig(**shared, channels=width, num_classes=1000), schedule)


IMAGENET64 = shape(64, 192, 128, (1, 2, 3, 4), "cosine", res_blocks=3, num_classes=1000, attention_order="new", dropout=0.1)
IMAGENET256_UNCOND = shape(256, 256, 128, (1, 1, 2, 2, 4, 4), "linear")


class Stepper(NamedTuple):
    """step(): one step, as it is taken; networks(): what of it is networks, with the same inputs and no more: forward, and
    backward where there is one."""

    step: Callable[..., Any]
    networks: Callable[[], Any]


def give_random(network: nn.Module) -> Any:
    """The network with random weights, the same by whatever program."""
    for name, tensor in network.state_dict().items():
        generator = torch.Generator(tensor.device).manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(tensor.shape, generator=generator, device=tensor.device)
        if tensor.ndim > 1:
            drawn /= math.sqrt(math.prod(tensor.shape[1:]))
        else:
            drawn = 1 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn
        tensor.copy_(drawn)
    return network


def jpegs(folder: Path, size: int) -> list[str]:
    """256 pictures, smooth as photographs are, half as large again as what is cropped from them; their paths."""
    blurred = torch.rand(256, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(blurred, (size * 3 // 2,) * 2, mode="bicubic").mul(255).clamp(0, 255).byte().permute(0, 2, 3, 1)
    paths = [str(folder / f"{i}.jpg") for i in range(256)]
    for path, picture in zip(paths, pictures.numpy()):
        Image.fromarray(picture).save(path, quality=90)
    return paths


def some_noise(shape: Shape, batch: int, device: torch.device) -> SampleNoise:
    size = shape.unet.image_size
    return SampleNoise(0, range(batch), (3, size, size), device)


def guided_plan(shape: Shape, precision: str, device: torch.device, compile: bool = False, **asked: Any) -> Plan:
    """A denoiser and a classifier with random weights; `asked` as a request's fields."""
    schedule, labels = NoiseSchedule.named(shape.schedule), shape.labels
    with device:
        unet, encoder = (give_random(network).eval().requires_grad_(False)
                         for network in (UNet(shape.unet), EncoderUNet(shape.encoder)))
    denoiser = unet_denoiser(unet, schedule, "learned_range", class_names=labels.names if shape.unet.num_classes else None)
    classifier = NoisyClassifier(encoder, schedule, labels.names)
    request = Request(**{"model": "random", "scale": SCALE, "precision": precision, "steps": "250"} | asked)
    guide, _ = classifying(request.own_guide, in_memory(classifier), denoiser)
    return Plan(request, labels, denoiser, None, (guide,), steps(request.steps or "", schedule), device, digests={}, configs={},
                compile=compile)


def guided_samples(shape: Shape, precision: str, device: torch.device, sampler: str, spec: str,
                   ) -> Callable[[int], Callable[[], Any]]:
    """By the batch, whole images: all steps, noise and pixels as sampling has them."""
    plan = guided_plan(shape, precision, device, sampler=sampler, steps=spec)
    return lambda batch: lambda: plan.draw_stage(range(batch))


def guided_steps(shape: Shape, precision: str, device: torch.device, compile: bool = False) -> Callable[[int], Stepper]:
    """By the batch, steps of DDPM: the denoiser, and the classifier's gradient. step(noise) -> its next x and its x0_hat;
    without noise it draws some, as sampling does."""
    plan = guided_plan(shape, precision, device, compile)
    one, denoiser = plan.steps[249 - STEP:][:1], plan.denoiser
    unet, encoder = denoiser.network, plan.classifier.network  # type: ignore[union-attr]

    def of(batch: int) -> Stepper:
        noise = some_noise(shape, batch, device)
        x_t, model = noise(), Watch(list(range(batch)), "the classifier").over(plan.model(range(batch)))
        y = torch.tensor(plan.labels_of(range(batch)), device=device)
        t = torch.full_like(y, one[0].t)

        def step(noise: Noise = noise) -> tuple[Tensor, Tensor]:
            with plan.precision():
                moment = next(ddpm(model, x_t, one, noise))
            return moment.x_t, moment.x0_hat

        def networks() -> None:
            with plan.precision():
                with torch.no_grad():
                    unet(x_t, t, y if denoiser.class_names else None)
                x = x_t.clone().requires_grad_()
                encoder(x, t).sum().backward()  # not autograd.grad, under which FLOPs cannot be counted
        return Stepper(step, networks)
    return of


def training_steps(shape: Shape, kind: str, precision: str, device: torch.device, compile: bool = False,
                   files: Path | None = None) -> Callable[[int], Stepper]:
    """By the batch, steps of AdamW on a "denoiser" or a "classifier": images read, cropped or flipped, the weights' average.

    files  an empty folder: JPEGs are written into it, and the images read from these
    """
    size, names, schedule = shape.unet.image_size, shape.labels.names, NoiseSchedule.named(shape.schedule)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 3, size, size), dtype=np.uint8)
    read = ArrayImages(pixels) if files is None else ImageFiles(jpegs(files, size), size)
    images = LabelledImages(read, torch.arange(256) % len(names))
    data, conditional = Dataset("random", images, images, names), kind == "denoiser" and shape.unet.num_classes is not None
    with device:
        if kind == "denoiser":
            task = denoiser_task(new_denoiser(shape.unet, schedule, "learned_range", data, conditional, 0), data)
        else:
            task = classifier_task(NoisyClassifier(EncoderUNet(shape.encoder), schedule, names), data)
    give_random(task.network)
    config = TrainingConfig(iterations=10 ** 6, batch_size=1, lr=LR, weight_decay=WEIGHT_DECAY, precision=precision,
                            ema=EMA if kind == "denoiser" else 0.0, random_crop=kind == "classifier", random_flip=True)
    run = Run(task, config, data, Path(tempfile.gettempdir()), Execution(device, compile=compile))

    def of(batch: int) -> Stepper:
        run.config = replace(config, batch_size=batch)
        batches = read_ahead(run.read, range(10 ** 6), threads=2)
        x_t, y = some_noise(shape, batch, device)(), torch.arange(batch, device=device) % len(names)
        inputs = (x_t, torch.full_like(y, 500), y)[:3 if conditional else 2]

        def networks() -> None:
            with torch.autocast(device.type, dtype_of(precision), enabled=precision != "float32"):
                output = run.computed(*inputs)
            output.float().square().mean().backward()
            run.optimizer.zero_grad(set_to_none=True)
        return Stepper(lambda: run.train_step(*next(batches)), networks)
    return of
