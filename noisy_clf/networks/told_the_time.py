"""A backbone of clean images, told the time: t scales and shifts what each of its stages returns.

Images x_t [B,C,H,W] in [-1,1]; time embedding `emb` [B,E]; a stage's features [B,C,H,W], [B,H,W,C] or tokens [B,L,C].
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.networks.batch_norm import batch_norms, in_plain_order
from noisy_clf.networks.features import Features
from noisy_clf.networks.layers import time_embedding, zeroed
from noisy_clf.networks.stages import Stages, StageTensor, as_map

EMB_WIDTH = 128


class TimeModulation(nn.Module):
    """features * (1 + scale(t)) + shift(t), for each sample and channel its own; starts as the identity.

    A forward hook of the stage, so that the backbone keeps its tensors' names. `emb` is the pass's for as long as it lasts.
    """

    emb: Tensor | None = None

    def __init__(self, stage: list[StageTensor]) -> None:
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


class MapKeeper(nn.Module):
    """A forward hook of a stage that adds its map to `maps`, for as long as a pass wants them."""

    maps: list[Tensor] | None = None

    def __init__(self, stage: list[StageTensor], extra: int) -> None:
        super().__init__()
        self.stage, self.extra = stage, extra

    def forward(self, stage: nn.Module, inputs: Any, output: Any) -> None:
        if self.maps is None:
            return
        for place, _, axis in self.stage:
            found = as_map(output if isinstance(output, Tensor) else output[place], axis, self.extra)
            if found is not None:
                self.maps.append(found.float())
                return


class ToldTheTime(nn.Module):
    """What a network around a backbone does before and after it. Each kind makes `backbone`, then calls `tell_stages`."""

    config: Any  # image_size, in_channels, size, mean, std, time_conditional
    backbone: Any
    modulations: Any  # a list of TimeModulation
    keepers: Any  # a list of MapKeeper
    mean: Tensor
    std: Tensor

    def tell_stages(self, stages: Stages, extra: int) -> None:
        """Adds what stages are told the time by, on the CPU whatever the default device.

        extra  tokens of the backbone that are of no place in the image
        """
        for norm in batch_norms(self):
            norm.register_forward_hook(in_plain_order)
        with torch.device("cpu"):
            for name in ("mean", "std"):
                self.register_buffer(name, torch.tensor(getattr(self.config, name))[:, None, None], persistent=False)
            self.modulations = nn.ModuleList(TimeModulation(stage) for stage in stages.values() if self.config.time_conditional)
            if self.config.time_conditional:
                self.time_embed = nn.Sequential(
                    nn.Linear(EMB_WIDTH, EMB_WIDTH), nn.SiLU(), nn.Linear(EMB_WIDTH, EMB_WIDTH), nn.SiLU())
        self.keepers = nn.ModuleList(MapKeeper(stage, extra) for stage in stages.values())
        for hooks in (self.modulations, self.keepers):  # maps are kept as they are when told
            for path, hook in zip(stages, hooks):
                self.backbone.get_submodule(path).register_forward_hook(hook)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in batch_norms(self):  # what is said of a sample must not depend on the others of its batch
            norm.eval()
        return self

    def features(self, x_t: Tensor, t: Tensor) -> Features:
        """The maps of the stages that have one, and what the last layer tells the classes by, or would."""
        maps: list[Tensor] = []
        embedding = self.told(x_t, t, self.embedding, maps)
        return Features(maps, embedding)

    def embedding(self, x: Tensor) -> Tensor:
        """The backbone's of its own kind of images, float32 [B,D]."""
        raise NotImplementedError

    def told(self, x_t: Tensor, t: Tensor, see: Callable[[Tensor], Tensor], maps: list[Tensor] | None = None) -> Tensor:
        """What `see` makes of x_t in the backbone's own size and numbers, while the stages know t and add to `maps`."""
        x = (x_t + 1) / 2
        if self.config.size != self.config.image_size:
            x = F.interpolate(x, size=(self.config.size, self.config.size), mode="bilinear", antialias=True)
        x = (x - self.mean) / self.std  # which shows grey in all colours, where a backbone has them
        if self.config.time_conditional:
            with torch.autocast(x.device.type, enabled=False):
                self.tell(self.time_embed(time_embedding(t, EMB_WIDTH)))
        self.keep(maps)
        try:
            return see(x)
        finally:
            self.tell(None)
            self.keep(None)

    def tell(self, emb: Tensor | None) -> None:
        """Tells the stages the time; None: they forget it."""
        for modulation in self.modulations:
            modulation.emb = emb

    def keep(self, maps: list[Tensor] | None) -> None:
        """Where the stages add their maps; None: nowhere."""
        for keeper in self.keepers:
            keeper.maps = maps
