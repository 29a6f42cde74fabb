"""ADM's architectures as settings: checked before there is a network, and without torch."""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from noisy_clf.errors import UserError

AttentionOrder = Literal["legacy", "new"]
Resampling = Literal["resblock", "conv", "plain"]
Pool = Literal["attention", "adaptive", "spatial", "spatial_v2"]
LARGEST = {"image_size": 8192, "input_size": 8192, "in_channels": 1024, "out_channels": 1024, "channels": 16384,
           "res_blocks": 64, "num_classes": 1_000_000}  # of any network; more is a slip of the pen, and asks for terabytes
MOST_LEVELS, WIDEST = 16, 65536


def refuse_no_size(name: str, value: Any) -> None:
    """UserError where it is not a size that a network may have."""
    most = LARGEST.get(name, 16384)
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{name} must be a whole number from 1 to {most}, not {value!r}.")


@dataclass(frozen=True, kw_only=True)
class TorsoConfig:
    """The architecture's settings that denoiser and classifier have in common.

    image_size      pixels a side; divisible by 2 for each level but the last
    in_channels     1 grey, 3 colour
    channels        base width; a level has channels * channel_mult[level]
    channel_mult    one factor a level; each level but the last ends in down-sampling
    res_blocks      ResBlocks a level
    attention_at    image sizes, in pixels, at which ResBlocks are followed by attention
    head_channels   channels of an attention head; None: `heads` heads whatever the width
    attention_order how q, k and v lie in the weights: "legacy" (head first) or "new" (q, k, v first)
    scale_shift     the time embedding scales and shifts normalised features, rather than being added
    resample        by a "resblock", a "conv" or "plain" (mean pooling, nearest neighbour)
    """

    image_size: int
    in_channels: int
    channels: int
    channel_mult: tuple[float, ...]
    res_blocks: int = 2
    attention_at: tuple[int, ...] = ()
    heads: int = 1
    head_channels: int | None = None
    attention_order: AttentionOrder = "legacy"
    scale_shift: bool = True
    resample: Resampling = "resblock"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_at"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field in fields(self):  # their types are strings here
            value = getattr(self, field.name)
            if field.type == "int" or field.type == "int | None" and value is not None:
                refuse_no_size(field.name, value)
        if not 1 <= len(self.channel_mult) <= MOST_LEVELS or not all(0 < factor <= WIDEST for factor in self.channel_mult):
            raise UserError(f"channel_mult must be positive numbers, for 1 to {MOST_LEVELS} levels, not "
                            f"{self.channel_mult[:MOST_LEVELS]}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, not {self.dropout}.")
        stride = 2 ** (len(self.channel_mult) - 1)
        if self.image_size < stride or self.image_size % stride:
            raise UserError(f"image size {self.image_size} does not divide by {stride}, as channel_mult "
                            f"{self.channel_mult} with its {len(self.channel_mult)} levels needs.")
        for name, choices in (("attention_order", get_args(AttentionOrder)), ("resample", get_args(Resampling))):
            if getattr(self, name) not in choices:
                raise UserError(f"unknown {name} {getattr(self, name)!r}; there are: {', '.join(choices)}.")
        for width in self.widths:
            if width < 32 or width % 32 or width > WIDEST:
                raise UserError(f"a level {width} channels wide cannot be normalised in 32 groups; choose channels and "
                                f"channel_mult so that every level is a multiple of 32, up to {WIDEST}.")
        for width in {self.widths[level] for level in range(len(self.widths)) if self.attends(level)} | {self.widths[-1]}:
            if width % (self.head_channels or self.heads):
                raise UserError(f"{width} channels do not divide into " + (
                    f"heads of {self.head_channels} channels; choose head_channels that divide every level, such as 32."
                    if self.head_channels else f"{self.heads} heads."))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(self.channels * factor) for factor in self.channel_mult)

    @property
    def emb_width(self) -> int:
        return 4 * self.channels

    def attends(self, level: int) -> bool:
        return self.image_size // 2 ** level in self.attention_at

    def heads_of(self, width: int) -> int:
        return width // self.head_channels if self.head_channels else self.heads


@dataclass(frozen=True, kw_only=True)
class EncoderUNetConfig(TorsoConfig):
    """EncoderUNet's settings.

    num_classes  K, the number of logits
    pool         "attention" (every released classifier), "adaptive" (global mean), "spatial" or "spatial_v2" (the
                 mean of every block's output, through a hidden layer of 2048)
    """

    num_classes: int
    pool: Pool = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in get_args(Pool):
            raise UserError(f"unknown pool {self.pool!r}; there are: {', '.join(get_args(Pool))}.")
