"""metrics.jsonl, and TensorBoard's files beside it where they are asked for."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write, from_json


class MetricsLog:
    """One JSON object a validation. What a resumed run will write again is dropped first."""

    def __init__(self, path: Path, step: int, tensorboard: bool) -> None:
        self.path = path
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if step_of(line) <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self.board = tensorboard_writer(path.parent / "tensorboard", step) if tensorboard else None

    def write(self, entry: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")
        if self.board:
            for name, value in entry.items():
                self.board.add_scalar(name, value, entry["step"])
            self.board.flush()


def step_of(line: str) -> float:
    try:
        step = from_json(line)["step"]
        return step if isinstance(step, int) else math.inf
    except (ValueError, KeyError, TypeError):  # a line torn by a kill, or none of ours
        return math.inf


def tensorboard_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard.") from error
    return SummaryWriter(folder, purge_step=step + 1)
