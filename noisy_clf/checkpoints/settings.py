"""What the shapes of a bare checkpoint's tensors cannot tell: from a TOML or JSON file, or from the flags of its own program.

Settings in this toolkit's words, all optional here (who needs one asks for it):

    image_size       pixels a side
    heads            attention heads; or head_channels, the channels of each
    attention_order  "legacy" or "new" (see torso.py)
    schedule, T      "linear" or "cosine", and the number of timesteps; or alpha_bar, the list of them
    rescaled_t       whether the network is told 1000 t / T in t's place
    predicts         "eps", "velocity" or "x_0"                                       (denoisers)
    variance         "fixed_small", "fixed_large", "learned" or "learned_range"       (denoisers)
    small_size       of an upsampler: the size that it enlarges from                  (denoisers)
    class_names      "imagenet", or a list in the order of their numbers

Others (channels, res_blocks, ...) may be given too: they are compared with what the tensors tell.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisy_clf.errors import UserError
from noisy_clf.files import read_table, shortened
from noisy_clf.checkpoints.adm_flags import settings_from_flags
from noisy_clf.checkpoints.released import RELEASED

if TYPE_CHECKING:
    from noisy_clf.schedule import NoiseSchedule
Settings = dict[str, Any]
UNTOLD = ("image_size", "heads", "head_channels", "attention_order", "schedule", "T", "alpha_bar", "rescaled_t", "predicts",
          "variance", "small_size", "class_names")
TYPES: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("image_size heads head_channels T small_size in_channels out_channels channels res_blocks num_classes",
     "a whole number from 1 to 1000000", lambda value: type(value) is int and 1 <= value <= 1_000_000),
    ("rescaled_t scale_shift class_conditional", "true or false", lambda value: isinstance(value, bool)),
    ("attention_order schedule predicts variance resample pool", "a word", lambda value: isinstance(value, str)),
    ("alpha_bar attention_at channel_mult", "a list of numbers", lambda value: is_list_of(value, int, float)),
    ("class_names", "\"imagenet\" or a list of names", lambda value: value == "imagenet" or is_list_of(value, str))]
TOLD = ("in_channels", "out_channels", "channels", "channel_mult", "res_blocks", "attention_at", "scale_shift", "resample",
        "class_conditional", "num_classes", "pool")


def read_settings(config: str | None, flags: str | None, kind: str) -> Settings | None:
    """The settings of `config` (a file, or a released model's name) or of `flags`; None where neither is given."""
    if config is not None and flags is not None:
        raise UserError("settings are given twice; give a file of settings, or the flags of the model's own program.")
    if flags is not None:
        return settings_from_flags(flags, kind)
    if config is None:
        return None
    if config in RELEASED[kind]:
        return dict(RELEASED[kind][config].settings)
    path = Path(config)
    if not path.is_file():
        raise UserError(f"there is no file {config!r} with a model's settings; give a TOML or JSON file, or the released model "
                        f"whose settings they are: {', '.join(RELEASED[kind])}.")
    return checked(read_table(path, "heads = 4", '{"heads": 4, "T": 1000}'), path)


def checked(settings: Mapping[str, Any], source: object) -> Settings:
    """The settings that are given (None: not given); one that is unknown, or of another type than it must be, is refused."""
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(set(settings) - {*UNTOLD, *TOLD})
    if unknown:
        raise UserError(f"{source}: unknown setting {', '.join(unknown)}; there are: {', '.join(UNTOLD + TOLD)}.")
    for names, what, fits in TYPES:
        for name in names.split():
            if name in settings and not fits(settings[name]):
                raise UserError(f"{source}: {name} must be {what}, not {shortened(settings[name])}.")
    if "heads" in settings and "head_channels" in settings:
        raise UserError(f"{source}: heads and head_channels are both given; give the one that the model was made with.")
    if "alpha_bar" in settings and ("schedule" in settings or "T" in settings):
        raise UserError(f"{source}: alpha_bar tells the whole schedule; leave out schedule and T.")
    return settings


def is_list_of(value: Any, *types: type) -> bool:
    return isinstance(value, list | tuple) and all(type(part) in types for part in value)


def schedule_of(settings: Settings) -> NoiseSchedule:
    from noisy_clf.schedule import NoiseSchedule

    if settings.get("alpha_bar") is not None:
        return NoiseSchedule.from_alpha_bar(settings["alpha_bar"])
    return NoiseSchedule.named(settings["schedule"], settings["T"])
