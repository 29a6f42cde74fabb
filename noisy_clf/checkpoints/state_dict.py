"""The one state dict of a training checkpoint: the average of its weights, where it has one, and else the model's."""
from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from noisy_clf.errors import UserError

AVERAGED = r"(?<![a-z])(ema|swa|avg|averaged?)(?![a-z])"  # in a name: ema, model_ema, state_dict_ema, ema_0.9999, average
OF_A_MODEL = ("model", "state_dict", "model_state_dict", "network", "net", "module", "params", "weights")
WRAPPERS = ("module.", "model.", "network.", "net.", "_orig_mod.")  # DataParallel's, Lightning's modules', torch.compile's
ALONE = "save the model's state_dict() alone"


def state_dict_of(path: Path, found: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a bare state dict, or of the obvious one in a training checkpoint, which is told on stderr.

    UserError where none is obvious.
    """
    found = with_averages_open(path, {str(name): value for name, value in found.items()})
    if name := obvious(path, found):
        others = [other for other in found if other != name and is_state_dict(found[other])
                  and (other in OF_A_MODEL or is_averaged(other))]
        print(f"{name} of {path} is used" + f", not its {', '.join(others)}" * bool(others) + ".", file=sys.stderr)
        found = {str(of_it): tensor for of_it, tensor in found[name].items()}
    if other := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{path} is not a bare state dict (its {', '.join(other[:4])} "
                        f"{'is no tensor' if len(other) == 1 else 'are no tensors'}); {ALONE}.")
    return without_wrappers(found)


def with_averages_open(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The same, with the state dict that an average's entry holds among other things in its place. UserError where the average
    is kept in another way, as the model's weights shall not stand in for it unseen."""
    opened = dict(found)
    for name, value in found.items():
        if not is_averaged(name) or isinstance(value, Tensor) or is_state_dict(value) or not holds_tensors(value):
            continue
        parts = value if isinstance(value, dict) else {}
        inner = {f"{name}.{key}": part for key, part in parts.items() if is_state_dict(part)}
        own = {key: part for key, part in parts.items() if isinstance(part, Tensor)}
        if own and not any(holds_tensors(part) for key, part in parts.items() if key not in own):
            inner = {name: own}  # beside its decay
        if len(inner) != 1 or not all(isinstance(key, str) for one in inner.values() for key in one):
            raise UserError(f"{path} keeps its average, {name}, not as a state dict of tensors by their names; give the file "
                            f"that its program wrote of it beside (ema_*.pt), or {ALONE}.")
        opened |= inner
    return opened


def obvious(path: Path, found: dict[str, Any]) -> str | None:
    """Which of the checkpoint's state dicts is meant; None where it is a bare one, or holds none."""
    there = [name for name, value in found.items() if is_state_dict(value)]
    averages = [name for name in there if is_averaged(name)]
    bare = any(isinstance(value, Tensor) for value in found.values())
    possible = averages or [name for name in there if name in OF_A_MODEL] or ([] if bare else there)
    if len(possible) > 1:
        raise UserError(f"{path} holds several state dicts ({', '.join(possible)}), and it is not plain which is meant; save "
                        f"the one that you want alone: torch.save(torch.load(FILE)[{possible[0]!r}], \"model.pt\").")
    return possible[0] if possible else None


def is_averaged(name: str) -> bool:
    return bool(re.search(AVERAGED, name.lower()))


def is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def holds_tensors(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | tuple) else []
    return isinstance(value, Tensor) or any(map(holds_tensors, parts))


def without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what modules around the network put before every name."""
    if all(name.startswith("module.") for name in tensors if name != "n_averaged"):  # torch's AveragedModel counts
        tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"} or tensors
    while wrapper := next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
