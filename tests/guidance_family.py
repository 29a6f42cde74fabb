"""Reference numbers of programs that guide otherwise than guided-diffusion, and the tiny networks that made them."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.unet import UNet
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.schedule import NoiseSchedule
from tests.reference import encoder, unet, with_drawn_weights

FOLDER = Path(__file__).parent / "data" / "guidance_family"
VECTORS: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())["vectors"]


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def velocity_denoiser(net: str, schedule: str, null_class: bool = False) -> Denoiser:
    """The tiny U-Net of that name; its first 3 channels are a velocity, the others its variance.

    null_class  with a table of 11 rows, the last of which is the null class
    """
    network = unet(net)
    if null_class:
        network = with_drawn_weights(UNet(replace(network.config, num_classes=11)))
    names = tuple("0123456789") if network.config.num_classes else None
    return unet_denoiser(network, NoiseSchedule.named(schedule, 1000), "learned_range", predicts="velocity", class_names=names,
                         null_class=null_class)


def sharp_classifier(clf: str, schedule: str, sharp: float = 1.0) -> NoisyClassifier:
    """The tiny encoder of that name, its logits multiplied."""
    class Sharp(type(network := encoder(clf))):  # type: ignore[misc]
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return sharp * super().forward(x, t)
    network.__class__ = Sharp
    return NoisyClassifier(network, NoiseSchedule.named(schedule, 1000), tuple("0123456789"))
