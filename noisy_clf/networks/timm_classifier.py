"""TimmClassifier: any of timm's image classifiers, told the time and fit for noise.

Images x_t [B,C,H,W] in [-1,1].
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisy_clf.networks.batch_norm import replace_batch_norm
from noisy_clf.networks.layers import Dropout
from noisy_clf.networks.timm_model import TimmConfig, create
from noisy_clf.networks.timm_stages import find_stages
from noisy_clf.networks.told_the_time import ToldTheTime


class HeadDropout(Dropout):
    """A hook before the last layer; timm's own dropout would not draw each sample's mask from its own generator."""

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(inputs[0]), *inputs[1:]


class TimmClassifier(ToldTheTime):
    """(x_t [B,C,H,W] in [-1,1], t [B]) -> logits float32 [B,K].

    Made on the CPU whatever the default device: timm's models compute tensors when they are made that no file holds.
    """

    config: TimmConfig
    backbone: Any  # a timm model

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        stages = find_stages(config)
        with torch.device("cpu"):
            self.backbone = create(config)
            if config.batch_norm == "group":
                replace_batch_norm(self.backbone, config.name)
        self.tell_stages(stages, getattr(self.backbone, "num_prefix_tokens", 1))
        self.dropout = HeadDropout(config.dropout)
        last: Any = self.backbone.get_classifier() if config.num_classes else ()  # of distilled models there are two
        for layer in last if isinstance(last, tuple | nn.ModuleList) else [last]:
            layer.register_forward_pre_hook(self.dropout)
        self.train()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.told(x_t, t, self.logits)

    def logits(self, x: Tensor) -> Tensor:
        features = self.backbone.forward_features(x)
        with torch.autocast(x.device.type, enabled=False):  # the head in float32 whatever the stages computed in
            return self.backbone.forward_head(float32(features)).float()

    def embedding(self, x: Tensor) -> Tensor:
        features = self.backbone.forward_features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.backbone.forward_head(float32(features), pre_logits=True).float().flatten(1)


def float32(features: Any) -> Any:
    """A stage's output, one tensor or several, in float32."""
    return features.float() if isinstance(features, Tensor) else type(features)(map(float32, features))
