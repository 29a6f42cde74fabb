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

import json
import sys
from pathlib import Path
from typing import Any

from noisy_clf.foreign.adm_flags import settings_from_flags
from noisy_clf.errors import UserError
from noisy_clf.foreign.released import RELEASED
from noisy_clf.schedule import NoiseSchedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = dict[str, Any]
UNTOLD = ("image_size", "heads", "head_channels", "attention_order", "schedule", "T", "alpha_bar", "rescaled_t", "predicts",
          "variance", "small_size", "class_names")
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
        raise UserError(f"there is no file {config} with a model's settings; give a TOML or JSON file, or the released model "
                        f"whose settings they are: {', '.join(RELEASED[kind])}.")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as {'JSON' if path.suffix == '.json' else 'TOML'} "
                        f"({str(error).rstrip('.')}).") from error
    unknown = sorted(set(found) - {*UNTOLD, *TOLD}) if isinstance(found, dict) else ["which is no table"]
    if unknown:
        raise UserError(f"{path} has unknown settings: {', '.join(unknown)}; there are: {', '.join(UNTOLD + TOLD)}.")
    return found


def schedule_of(settings: Settings) -> NoiseSchedule:
    if settings.get("alpha_bar") is not None:
        return NoiseSchedule.from_alpha_bar(settings["alpha_bar"])
    T = settings["T"]
    if not isinstance(T, int) or isinstance(T, bool):
        raise UserError(f"T must be a whole number, not {T!r}.")
    return NoiseSchedule.named(str(settings["schedule"]), T)
