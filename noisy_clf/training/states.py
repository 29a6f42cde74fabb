"""A run's states on disk: written whole, the last few kept, and the newest that is whole to go on from; models of earlier
steps beside."""
from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noisy_clf.checkpoints.model_folder import save_weights
from noisy_clf.checkpoints.run_folder import STATES, kept_model, states, step_of
from noisy_clf.errors import UserError, out_of_memory
from noisy_clf.files import atomic_write


def write_state(folder: Path, state: dict[str, Any], keep: int) -> None:
    """Writes the state of step state["step"]; of it and those before it, `keep` remain."""
    step = state["step"]
    with atomic_write(folder / STATES / f"step-{step:07d}.pt") as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    older = [path for path in states(folder) if step_of(path) <= step]  # what is newer is damaged: see take_newest()
    for path in [*older[keep:], *(folder / STATES).glob(".step-*.pt.tmp")]:  # those that a kill left
        path.unlink(missing_ok=True)


def keep_model(folder: Path, step: int, average: nn.Module) -> None:
    """Writes the weights of a step, to be named FOLDER@step-N: they stay, and nothing is resumed from them."""
    save_weights(kept_model(folder, step), average, {"step": step})


def take_newest(folder: Path, take: Callable[[dict[str, Any]], None], talk: bool) -> None:
    """Gives `take` the newest state that is whole, if there is any; `take` raises whatever it likes on one that is not.

    Damaged ones are passed over, which is told on stderr if `talk`; UserError where there are no others.
    """
    damaged = []
    for path in states(folder):
        try:
            take(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # whatever a damaged or foreign file makes torch raise
            if out_of_memory(error) or isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a file cut short
                raise  # which says nothing against the file
            damaged.append(path)
            continue
        if damaged and talk:
            print(f"{', '.join(map(str, damaged))} cannot be resumed from: damaged, or of another program; going on from "
                  f"step {step_of(path)}.", file=sys.stderr)
        return
    if damaged:
        raise UserError(f"{', '.join(map(str, damaged))} cannot be resumed from: damaged, or of another program; "
                        f"remove {folder / STATES} to start this run from the beginning.")
