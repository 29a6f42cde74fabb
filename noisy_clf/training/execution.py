"""How a training run is computed, apart from what it is."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from noisy_clf.errors import UserError
from noisy_clf.execution import exact_float32, pick_device, refuse_uncompilable
from noisy_clf.processes import Processes, started


@dataclass(frozen=True)
class Execution:
    """How a run is computed, which changes it by rounding at most: it may go on with another.

    device       of this process
    processes    that share each batch
    microbatch   images of a batch that a process computes at a time; 0: all of its share
    compile      through torch.compile
    threads      that read images ahead of the steps; 0: none, each step reads its own
    keep         training states that stay on disk, the newest ones
    keep_every   the moving average of each step that is a multiple of it stays, too, as RUN@step-N; 0: of none
    tensorboard  metrics for it, too
    """

    device: torch.device = torch.device("cpu")
    processes: Processes = Processes()
    microbatch: int = 0
    compile: bool = False
    threads: int = 2
    keep: int = 2
    keep_every: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in (("microbatch", 0), ("threads", 0), ("keep", 1), ("keep_every", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}.")

    def parts(self, share: range, multiple: int = 1) -> list[range]:
        """A process's share of a batch, in microbatches."""
        size = max(self.microbatch // multiple * multiple, multiple) if self.microbatch else max(len(share), 1)
        return [share[start:start + size] for start in range(0, len(share), size)]


@contextmanager
def execution(device: str, image_size: int, **settings: Any) -> Iterator[Execution]:
    """On this process's device, with the processes that torchrun started; `settings` as Execution's."""
    where = pick_device(device)
    if settings.get("compile"):
        refuse_uncompilable(where)
    on_cpu = {"microbatch": max(1, 128 * 64 ** 2 // image_size ** 2)} if where.type == "cpu" else {}
    exact_float32()
    with started(where) as processes:
        yield Execution(where, processes, **on_cpu | settings)
