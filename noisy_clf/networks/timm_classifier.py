"""TimmClassifier: any of timm's image classifiers, told the time and fit for noise.

Images x_t [B,C,H,W] in [-1,1]; time embedding `emb` [B,E]; a stage's features [B,C,H,W], [B,H,W,C] or tokens [B,L,C].
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.networks.batch_norm import batch_norms, in_plain_order, replace_batch_norm
from noisy_clf.networks.layers import Dropout, time_embedding, zeroed
from noisy_clf.networks.timm_model import TimmConfig, create
from noisy_clf.networks.timm_stages import Features, find_stages

EMB_WIDTH = 128


class TimeModulation(nn.Module):
    """features * (1 + scale(t)) + shift(t), for each sample and channel its own; starts as the identity.

    A forward hook of the stage, so that the backbone keeps timm's tensor names. `emb` is the pass's for as long as it lasts.
    """

    emb: Tensor | None = None

    def __init__(self, stage: list[Features]) -> None:
        super().__init__()
        self.stage = stage
        self.linear = zeroed(nn.Linear(EMB_WIDTH, 2 * sum(features.channels for features in stage)))

    def forward(self, stage: nn.Module, inputs: Any, output: Any) -> Any:
        if self.emb is None:  # the backbone was called by itself
            return output
        with torch.autocast(self.emb.device.type, enabled=False):
            changes = self.linear(self.emb).split([2 * features.channels for features in self.stage], dim=1)
        tensors = [output] if isinstance(output, Tensor) else list(output)
        for (place, _, axis), change in zip(self.stage, changes):
            h = tensors[place]
            shape = [len(h)] + [1] * (h.ndim - 1)
            shape[axis] = -1
            scale, shift = change.to(h.dtype).chunk(2, dim=1)
            tensors[place] = h * (1 + scale.view(shape)) + shift.view(shape)
        return tensors[0] if isinstance(output, Tensor) else type(output)(tensors)


class HeadDropout(Dropout):
    """A hook before the last layer; timm's own dropout would not draw each sample's mask from its own generator."""

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(inputs[0]), *inputs[1:]


class TimmClassifier(nn.Module):
    """(x_t [B,C,H,W] in [-1,1], t [B]) -> logits float32 [B,K].

    Made on the CPU whatever the default device: timm's models compute tensors when they are made that no file holds.
    """

    backbone: Any  # a timm model
    modulations: Any  # a list of TimeModulation
    mean: Tensor
    std: Tensor

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        stages = find_stages(config)
        with torch.device("cpu"):
            self.backbone = create(config)
            if config.batch_norm == "group":
                replace_batch_norm(self.backbone, config.name)
            for norm in batch_norms(self):
                norm.register_forward_hook(in_plain_order)
            for name in ("mean", "std"):
                self.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None], persistent=False)
            self.modulations = nn.ModuleList(TimeModulation(stage) for stage in stages.values())
            if config.time_conditional:
                self.time_embed = nn.Sequential(
                    nn.Linear(EMB_WIDTH, EMB_WIDTH), nn.SiLU(), nn.Linear(EMB_WIDTH, EMB_WIDTH), nn.SiLU())
        for path, modulation in zip(stages, self.modulations):
            self.backbone.get_submodule(path).register_forward_hook(modulation)
        self.dropout = HeadDropout(config.dropout)
        last = self.backbone.get_classifier()  # of distilled models there are two
        for layer in last if isinstance(last, tuple | nn.ModuleList) else [last]:
            layer.register_forward_pre_hook(self.dropout)
        self.train()

    def train(self, mode: bool = True) -> TimmClassifier:
        super().train(mode)
        for norm in batch_norms(self):  # a sample's logits must not depend on the others of its batch
            norm.eval()
        return self

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = (x_t + 1) / 2
        if self.config.size != self.config.image_size:
            x = F.interpolate(x, size=(self.config.size, self.config.size), mode="bilinear", antialias=True)
        x = (x - self.mean) / self.std
        if self.config.time_conditional:
            with torch.autocast(x.device.type, enabled=False):
                self.tell(self.time_embed(time_embedding(t, EMB_WIDTH)))
        try:
            features = self.backbone.forward_features(x)
            with torch.autocast(x.device.type, enabled=False):  # the head in float32 whatever the stages computed in
                return self.backbone.forward_head(float32(features)).float()
        finally:
            self.tell(None)

    def tell(self, emb: Tensor | None) -> None:
        """Tells the stages the time; None: they forget it."""
        for modulation in self.modulations:
            modulation.emb = emb


def float32(features: Any) -> Any:
    """A stage's output, one tensor or several, in float32."""
    return features.float() if isinstance(features, Tensor) else type(features)(map(float32, features))
