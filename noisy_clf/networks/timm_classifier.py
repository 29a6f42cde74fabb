"""TimmClassifier: any of timm's image classifiers, told the time and fit for noise.

Images x_t [B,C,H,W] in [-1,1]; time embedding `emb` [B,E]; a stage's features [B,C,H,W], [B,H,W,C] or tokens [B,L,C].
"""
from __future__ import annotations

import difflib
import threading
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.errors import UserError
from noisy_clf.checkpoints.torch_file import one_line
from noisy_clf.networks.layers import Dropout, time_embedding, zeroed

BatchNorm = Literal["frozen", "group"]
EMB_WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """TimmClassifier's settings: all that rebuilding it takes, without a download.

    name              timm's name of the model, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k")
    image_size        pixels a side
    in_channels       1 grey, 3 colour
    num_classes       K, the number of logits
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
        for field in ("image_size", "in_channels", "num_classes", "input_size"):
            value = getattr(self, field)
            if (field != "input_size" or value is not None) and (type(value) is not int or value < 1):
                raise UserError(f"{field} must be a whole number of at least 1, not {value!r}.")
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


class Moment(threading.local):
    """The time embedding of the forward pass that this thread is in: a network may serve several threads at once."""

    emb: Tensor | None = None

    def __reduce__(self) -> tuple[type[Moment], tuple[()]]:
        return Moment, ()  # a copy of the network begins outside of any forward pass


class Features(NamedTuple):
    """A tensor of what a stage returns: its place there, its channels, and the axis that they are along."""

    place: int
    channels: int
    axis: int


class TimeModulation(nn.Module):
    """features * (1 + scale(t)) + shift(t), for each sample and channel its own; starts as the identity.

    A forward hook of the stage, so that the backbone keeps timm's tensor names.
    """

    def __init__(self, moment: Moment, stage: list[Features]) -> None:
        super().__init__()
        self.moment, self.stage = moment, stage
        self.linear = zeroed(nn.Linear(EMB_WIDTH, 2 * sum(features.channels for features in stage)))

    def forward(self, stage: nn.Module, inputs: Any, output: Any) -> Any:
        emb = self.moment.emb
        if emb is None:  # the backbone was called by itself
            return output
        with torch.autocast(emb.device.type, enabled=False):
            changes = self.linear(emb).split([2 * features.channels for features in self.stage], dim=1)
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
            self.moment = Moment()
            self.modulations = nn.ModuleList(TimeModulation(self.moment, stage) for stage in stages.values())
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
                self.moment.emb = self.time_embed(time_embedding(t, EMB_WIDTH))
        try:
            features = self.backbone.forward_features(x)
            with torch.autocast(x.device.type, enabled=False):  # the head in float32 whatever the stages computed in
                return self.backbone.forward_head(float32(features)).float()
        finally:
            self.moment.emb = None


def float32(features: Any) -> Any:
    """A stage's output, one tensor or several, in float32."""
    return features.float() if isinstance(features, Tensor) else type(features)(map(float32, features))


def create(config: TimmConfig) -> nn.Module:
    """timm's model with random weights, what it drops at random switched off; UserError where it cannot take such images."""
    import timm
    from timm.layers import DropPath, PatchEmbed

    known = pretrained_cfg(config.name)
    fixed = known.fixed_input_size and config.size != known.input_size[-1]  # others take any size, and no img_size
    sizes: dict[str, Any] = {"img_size": config.size} if fixed else {}
    try:
        model = timm.create_model(config.name, num_classes=config.num_classes, in_chans=config.in_channels, drop_rate=0.0,
                                  **sizes)
    except Exception as error:  # whatever a model's constructor stumbles over
        raise does_not_fit(config, error) from error
    cut = getattr(model, "patch_embed", None)
    if isinstance(cut, PatchEmbed) and not cut.dynamic_img_pad and any(config.size % side for side in cut.patch_size):
        raise does_not_fit(config, ValueError(f"patches of {cut.patch_size[0]} pixels would leave out a border"))
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def does_not_fit(config: TimmConfig, error: Exception) -> UserError:
    native = pretrained_cfg(config.name).input_size[-1]
    return UserError(f"timm's {config.name} does not take images of {config.size} x {config.size} pixels and "
                     f"{config.in_channels} channels ({one_line(error)}); have them resized, by an input_size of {native}, "
                     f"or choose another model.")


def find_stages(config: TimmConfig) -> dict[str, list[Features]]:
    """The path of each stage that is told the time -> what it returns, by a pass without numbers, which also shows whether
    such images fit."""
    found: dict[str, list[Features]] = {}
    with torch.device("meta"):
        model = create(config).eval()
        images = torch.zeros(2, config.in_channels, config.size, config.size)
        channels_last = getattr(model, "output_fmt", None) == "NHWC"
        for path, width in stage_widths(model).items():

            def note(module: nn.Module, inputs: Any, output: Any, path: str = path, width: int = width) -> None:
                tensors = [output] if isinstance(output, Tensor) else output
                found[path] = [Features(place, tensor.shape[axis], axis) for place, tensor in enumerate(tensors)
                               if isinstance(tensor, Tensor) and len(tensor) == len(images)
                               for axis in [channel_axis(tensor, width, channels_last)]]

            model.get_submodule(path).register_forward_hook(note)
        try:
            model(images)
        except Exception as error:  # whatever a model stumbles over
            raise does_not_fit(config, error) from error
    if not config.time_conditional:
        return {}
    if not any(found.values()):
        raise UserError(f"timm does not tell the stages of {config.name}, so that it cannot be told the time; choose another "
                        f"model, or time_conditional = false.")
    return found


def stage_widths(model: nn.Module) -> dict[str, int]:
    """The paths of the stages that timm tells of -> their channels; where there are none, the parts of what its models mostly
    call them, of unknown channels (0)."""
    modules = dict(model.named_modules())
    told: Any = getattr(model, "feature_info", [])
    widths = {info["module"]: info["num_chs"] for info in told if info["module"] in modules and info["module"]}  # "": the model
    if not widths:
        widths = {f"{whole}.{part}": 0 for whole in ("stages", "blocks", "layers") if whole in modules
                  for part, _ in modules[whole].named_children()}
    return {f"{path}.{len(blocks) - 1}" if isinstance(blocks := modules[path], nn.ModuleList) else path: width
            for path, width in widths.items()}  # a ModuleList is never called itself: its last one stands for it


def channel_axis(features: Tensor, width: int, channels_last: bool) -> int:
    """Of [B,C,H,W], [B,H,W,C] or [B,L,C], where `width` is what timm says of a stage's C."""
    if features.ndim == 4 and not channels_last and (features.shape[1] == width or features.shape[-1] != width):
        return 1
    return features.ndim - 1


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The layers of any kind that hold statistics of batches."""
    return [module for module in network.modules() if hasattr(module, "running_var")]


def in_plain_order(norm: nn.Module, inputs: Any, output: Tensor) -> None:
    """A hook that has the gradient of a single sample arrive channel by channel: torch 2.15's batch_norm on the CPU returns
    a wrong one where it arrives token by token."""
    if len(output) == 1 and output.requires_grad and not torch.compiler.is_compiling():
        output.register_hook(torch.Tensor.contiguous)


def replace_batch_norm(model: nn.Module, name: str) -> None:
    """Puts GroupNorm in the place of each BatchNorm, with its affine parameters and its activation."""
    from timm.layers import BatchNormAct2d, GroupNormAct

    for parent in list(model.modules()):
        norm: Any
        for child_name, norm in list(parent.named_children()):
            new: nn.Module
            if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
                new = nn.GroupNorm(groups_of(norm.num_features), norm.num_features, norm.eps, norm.affine)
            elif type(norm) is BatchNormAct2d:
                new = GroupNormAct(norm.num_features, groups_of(norm.num_features), norm.eps, norm.affine)
                new.act, new.drop = norm.act, norm.drop
            elif hasattr(norm, "running_var"):
                raise UserError(f"{name} normalises over the batch by {type(norm).__name__}, for which there is no GroupNorm; "
                                f"choose batch_norm frozen, or another model.")
            else:
                continue
            if norm.affine:
                new.weight, new.bias = norm.weight, norm.bias
            setattr(parent, child_name, new)


def groups_of(channels: int) -> int:
    """At most 32 groups, of at least 8 channels: fewer would leave little of a map that has shrunk to one pixel."""
    return max((groups for groups in range(1, 33) if channels % groups == 0 and channels // groups >= 8), default=1)
