"""What a training run's folder holds: its best and last model, states to go on from, and models that are kept; without torch.

RUN@step-500 names the moving average of step 500, RUN@best and RUN@last what the folder of that name holds.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

from noisy_clf.errors import UserError

RUNS_MODELS = ("best", "last")  # the folders that hold its models
STATES, KEPT = "states", "kept"
SHOWN = 6


def states(run: Path) -> list[Path]:
    """The training states in a run's folder, the newest first; a copy by another name is none."""
    return by_step(run / STATES, ".pt")


def by_step(folder: Path, suffix: str) -> list[Path]:
    """The files step-N, the newest first."""
    found = [path for path in folder.glob(f"step-*{suffix}") if path.stem.removeprefix("step-").isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def kept_model(run: Path, step: int) -> Path:
    """The weights' file of a model that is kept."""
    return run / KEPT / f"step-{step:07d}.safetensors"


def averages(run: Path) -> dict[int, Path]:
    """The files that hold the weights' moving average of a step, by steps; of two, the one that is there to stay."""
    found = {step_of(path): path for path in [*states(run), *by_step(run / KEPT, ".safetensors")]}
    return dict(sorted(found.items()))


def of_a_run(name_or_path: str | Path) -> tuple[str | Path, Path | None]:
    """(a model's name or path, the file of its weights where these are not the model's own) of what may be RUN@STATE.

    A path that is there means itself. UserError where the run keeps no such state.
    """
    run, _, state = str(name_or_path).rpartition("@")
    if not run or os.path.lexists(name_or_path) or not Path(run).is_dir():
        return name_or_path, None
    found, step = averages(Path(run)), re.search(r"\d{1,18}", state)
    if step and state == f"step-{step[0]}" and int(step[0]) in found:
        return os.path.join(".", run), found[int(step[0])]  # a path, and no bundled model's name
    if state in RUNS_MODELS and (Path(run) / state).is_dir():
        return Path(run) / state, None
    raise UserError(none_such(run, state, list(found), int(step[0]) if step else None))


def none_such(run: str, state: str, steps: list[int], near: int | None) -> str:
    if not steps:
        return (f"{run} keeps no state of a training run, and so no {state!r}; train with --keep-every N to keep every N-th "
                f"step's, or give {run} for its best model.")
    names = [f"step-{step}" for step in steps]
    shown = names if len(names) <= 2 * SHOWN else [*names[:SHOWN], "...", *names[-SHOWN:]]
    nearest = steps[-1] if near is None else min(steps, key=lambda step: abs(step - near))
    return f"{run} keeps {', '.join(shown)}, and no {state!r}; give one of these, such as {run}@step-{nearest}."
