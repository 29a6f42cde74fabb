"""NoisyClassifier: a time-conditioned network with all that using it takes: its noise schedule and its class names."""
from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from noisy_clf.errors import UserError
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space

NETWORKS: dict[str, tuple[Any, Any]] = {  # config.json's type of network -> (its config, the network)
    "EncoderUNet": (EncoderUNetConfig, EncoderUNet),
    "timm": (TimmConfig, TimmClassifier),
}


class NoisyClassifier(nn.Module):
    """p(y | x_t) for images of one size, one noise schedule and K named classes."""

    def __init__(self, network: EncoderUNet | TimmClassifier, schedule: NoiseSchedule, class_names: tuple[str, ...]) -> None:
        super().__init__()
        if network.config.num_classes == 0:
            raise UserError("an encoder without a last layer tells no classes: it is no classifier.")
        if len(class_names) != network.config.num_classes:
            raise UserError(f"the classifier has {network.config.num_classes} classes but {len(class_names)} class names.")
        self.network, self.schedule, self.class_names = network, schedule, tuple(class_names)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B,C,H,W], t [B] -> logits float32 [B,K]."""
        return self.network(x_t, t).float()

    @property
    def space(self) -> Space:
        return Space(self.schedule, self.image_size, self.channels)

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    @property
    def channels(self) -> int:
        return self.network.config.in_channels

    def config(self) -> dict[str, Any]:
        """What config.json says of this classifier."""
        kind = next(kind for kind, (config, _) in NETWORKS.items() if type(self.network.config) is config)
        return {"kind": "classifier", "network": {"type": kind, **asdict(self.network.config)},
                "schedule": self.schedule.to_config(), "class_names": list(self.class_names)}
