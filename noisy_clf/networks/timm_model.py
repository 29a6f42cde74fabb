"""timm's image classifiers: their settings, and how one is made."""
from __future__ import annotations

import difflib
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from torch import nn

from noisy_clf.errors import UserError, one_line, out_of_memory
from noisy_clf.networks.config import refuse_no_size

BatchNorm = Literal["frozen", "group"]


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """TimmClassifier's settings: all that rebuilding it takes, without a download.

    name              timm's name of the model, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k")
    image_size        pixels a side
    in_channels       1 grey, 3 colour
    num_classes       K, the number of logits; 0: an encoder, without the last layer
    time_conditional  t scales and shifts each stage's features; else t is not looked at
    input_size        pixels a side that x_t is resized to first, for a backbone of larger images; None: image_size
    mean, std         what the backbone takes off and divides by, for each channel, in [0,1]; (): as timm says
    batch_norm        "frozen": running statistics are used and never change, right for weights that learned with them;
                      "group": GroupNorm in its place, right for weights drawn at random
    dropout           before the last layer
    """

    name: str
    image_size: int
    in_channels: int
    num_classes: int
    time_conditional: bool = True
    input_size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    batch_norm: BatchNorm = "group"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        trained = pretrained_cfg(str(self.name))
        for field, none in (("image_size", ...), ("in_channels", ...), ("num_classes", 0), ("input_size", None)):
            if type(value := getattr(self, field)) is not type(none) or value != none:
                refuse_no_size(field, value)
        if self.batch_norm not in get_args(BatchNorm):
            raise UserError(f"unknown batch_norm {self.batch_norm!r}; there are: {', '.join(get_args(BatchNorm))}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, not {self.dropout}.")
        for field in ("mean", "std"):
            values = tuple(getattr(self, field)) or for_channels(getattr(trained, field), self.in_channels)
            object.__setattr__(self, field, values)  # JSON has lists only
            if len(values) != self.in_channels:
                raise UserError(f"{field} has {len(values)} values for {self.in_channels} channels; give one for each.")
        if not all(0 < value < float("inf") for value in self.std):
            raise UserError(f"std must be positive numbers, not {self.std}.")

    @property
    def size(self) -> int:
        """Pixels a side of what the backbone sees."""
        return self.input_size or self.image_size


def pretrained_cfg(name: str) -> Any:
    """What timm knows of a model's weights; UserError with the nearest names where there is no such model or tag."""
    import timm

    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.5)
        raise UserError(f"timm has no model {model!r}; " + (f"did you mean {' or '.join(near)}?" if near else
                        "its names are those of timm.list_models()."))
    tags = [known.partition(".")[2] for known in timm.list_pretrained(model)]
    if tag and tag not in tags:
        raise UserError(f"timm's {model} has no weights {tag!r}; " + (
            f"there are: {', '.join(tags)}." if tags else "it has none at all: leave out the tag."))
    return timm.get_pretrained_cfg(name)


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Red, green and blue's values for another number of channels: grey has their mean, more go round."""
    return (fmean(values),) if channels == 1 else tuple(values[i % len(values)] for i in range(channels))


def create(config: TimmConfig) -> nn.Module:
    """timm's model with random weights, what it drops at random switched off; UserError where it cannot take such images."""
    import timm
    from timm.layers import PatchEmbed

    known = pretrained_cfg(config.name)
    fixed = known.fixed_input_size and config.size != known.input_size[-1]  # others take any size, and no img_size
    sizes: dict[str, Any] = {"img_size": config.size} if fixed else {}
    try:
        model = timm.create_model(config.name, num_classes=config.num_classes, in_chans=config.in_channels, drop_rate=0.0,
                                  **sizes)
    except Exception as error:  # whatever a model's constructor stumbles over
        if out_of_memory(error):
            raise
        raise does_not_fit(config, error) from error
    cut = getattr(model, "patch_embed", None)
    if isinstance(cut, PatchEmbed) and not cut.dynamic_img_pad and any(config.size % side for side in cut.patch_size):
        raise does_not_fit(config, ValueError(f"patches of {cut.patch_size[0]} pixels would leave out a border"))
    drop_nothing(model)
    return model


def drop_nothing(model: nn.Module) -> None:
    """Nothing at random, that is."""
    from timm.layers import DropPath

    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0


def does_not_fit(config: TimmConfig, error: Exception) -> UserError:
    native = pretrained_cfg(config.name).input_size[-1]
    return UserError(f"timm's {config.name} does not take images of {config.size} x {config.size} pixels and "
                     f"{config.in_channels} channels ({one_line(error)}); have them resized, by an input_size of {native}, "
                     f"or choose another model.")
