"""NoisyEncoder: a time-conditioned image encoder with all that using it takes: its noise schedule and its text tower's name."""
from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf import classifier
from noisy_clf.networks.clip_image import ClipImageConfig, ClipImageTower
from noisy_clf.networks.encoder_unet import EncoderUNet
from noisy_clf.networks.features import Features
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space

NETWORKS: dict[str, tuple[Any, Any]] = {  # config.json's type of network -> (its config, the network)
    **classifier.NETWORKS,
    "clip": (ClipImageConfig, ClipImageTower),
}


class NoisyEncoder(nn.Module):
    """E(x_t, t): what an image shows, for images of one size and one noise schedule.

    text   of a CLIP image tower, the text tower of the same embeddings: {"tower": its name, "digest": SHA-256 of its weights}
    shown  (pixels a side, channels) of its images, where they are not the network's: they are resized, differentiably, and
           grey ones are shown in all channels
    """

    def __init__(self, network: EncoderUNet | TimmClassifier | ClipImageTower, schedule: NoiseSchedule,
                 text: dict[str, str] | None = None, shown: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network, self.schedule, self.text = network, schedule, text
        self.image_size, self.channels = shown or (network.config.image_size, network.config.in_channels)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B,C,H,W], t [B] -> embeddings float32 [B,D], of any length."""
        return self.features(x_t, t).embedding

    def features(self, x_t: Tensor, t: Tensor) -> Features:
        size, channels = self.network.config.image_size, self.network.config.in_channels
        if self.image_size != size:
            x_t = F.interpolate(x_t, size=(size, size), mode="bilinear", antialias=True)
        if self.channels != channels:
            x_t = x_t.expand(-1, channels, -1, -1)
        return self.network.features(x_t, t)

    @property
    def space(self) -> Space:
        return Space(self.schedule, self.image_size, self.channels)

    def config(self) -> dict[str, Any]:
        """What config.json says of this encoder, for images of the network's own kind."""
        kind = next(kind for kind, (config, _) in NETWORKS.items() if type(self.network.config) is config)
        return {"kind": "encoder", "network": {"type": kind, **asdict(self.network.config)},
                "schedule": self.schedule.to_config(), "text": self.text}
