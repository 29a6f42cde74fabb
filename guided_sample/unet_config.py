"""UNet's settings: checked before there is a network, and without torch."""
from __future__ import annotations

from dataclasses import dataclass

from noisy_clf.networks.config import TorsoConfig


@dataclass(frozen=True, kw_only=True)
class UNetConfig(TorsoConfig):
    """As the torso's, and:

    out_channels  the image's channels, or twice as many where the variance is learned too
    num_classes   K of a class-conditional network; None: unconditional
    """

    out_channels: int
    num_classes: int | None = None
