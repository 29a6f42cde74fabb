"""NoisyClassifier: a time-conditioned network with all that using it takes: its noise schedule and its class names."""
from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.checkpoint import ModelFolder, config_from
from noisy_clf.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule


class NoisyClassifier(nn.Module):
    """p(y | x_t) for images of one size, one noise schedule and K named classes."""

    def __init__(self, network: EncoderUNet, schedule: NoiseSchedule, class_names: tuple[str, ...]) -> None:
        super().__init__()
        if len(class_names) != network.config.num_classes:
            raise UserError(f"the classifier has {network.config.num_classes} classes but {len(class_names)} class names.")
        self.network, self.schedule, self.class_names = network, schedule, tuple(class_names)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B,C,H,W], t [B] -> logits float32 [B,K]."""
        return self.network(x_t, t).float()

    def log_prob(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_t) in nats, float32 [B]."""
        return -F.cross_entropy(self(x_t, t), y, reduction="none")

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    @property
    def channels(self) -> int:
        return self.network.config.in_channels

    def config(self) -> dict[str, Any]:
        """What config.json says of this classifier."""
        return {"kind": "classifier", "network": {"type": "EncoderUNet", **asdict(self.network.config)},
                "schedule": self.schedule.to_config(), "class_names": list(self.class_names)}


def load_classifier(name_or_path: str | Path) -> NoisyClassifier:
    """A bundled classifier by name, or one from its folder; frozen and in evaluation mode."""
    folder = ModelFolder.open(name_or_path, "classifier")
    fields = dict(folder.config["network"])
    if fields.pop("type", None) != "EncoderUNet":
        raise UserError(f"{folder.path}: unknown type of classifier; there is: EncoderUNet.")
    with torch.device("meta"):
        network = EncoderUNet(config_from(EncoderUNetConfig, fields, folder.path))
    folder.load_weights(network)
    return NoisyClassifier(network, folder.schedule, folder.class_names).eval().requires_grad_(False)


def class_index(text: str, class_names: tuple[str, ...]) -> int:
    """A class's number from its number or its name; what does not exist is answered with what does."""
    K = len(class_names)
    if text.strip().removeprefix("-").isdecimal():
        if 0 <= int(text) < K:
            return int(text)
        raise UserError(f"there is no class {text}; the classes are 0 to {K - 1}"
                        + (f" ({', '.join(class_names)})." if K <= 20 else "."))
    lower = [name.lower() for name in class_names]
    if text.strip().lower() in lower:
        return lower.index(text.strip().lower())
    near = difflib.get_close_matches(text.strip().lower(), lower, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(class_names[lower.index(name)] for name in near)}?" if near else \
        f"the classes are {', '.join(class_names)}, or 0 to {K - 1}." if K <= 20 else \
        f"the classes are 0 to {K - 1}, {class_names[0]} to {class_names[-1]}."
    raise UserError(f"there is no class {text!r}; {hint}")
