"""Several processes that train as one, started by torchrun. Each works on its share; sums and gatherings make a whole of it."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from noisy_clf.errors import OthersError

Result = TypeVar("Result")

PATIENCE = timedelta(hours=12)  # one process may convert a dataset while the others wait


@dataclass(frozen=True)
class Processes:
    """This process's rank among `count`. Alone, every method is the identity."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, total: int, multiple: int = 1) -> range:
        """This process's part of range(total); the parts are in order, and begin at multiples of `multiple`."""
        start, stop = (total * rank // self.count // multiple * multiple for rank in (self.rank, self.rank + 1))
        return range(start, total if self.rank == self.count - 1 else stop)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes, in place, its sum over all processes."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])  # one large message rather than hundreds of small ones
        sum_over_all(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(total.view_as(tensor))

    def gather(self, rows: Tensor, total: int, multiple: int = 1) -> Tensor:
        """The rows [total,...] of all processes, of which each has its share."""
        if self.count == 1:
            return rows
        whole = rows.new_zeros(total, *rows.shape[1:])
        part = self.share(total, multiple)
        whole[part.start:part.stop] = rows
        sum_over_all(whole)
        return whole

    def any(self, mine: bool) -> bool:
        """Whether any process says so. The CPU waits for the others here, a GPU does not."""
        if self.count == 1:
            return mine
        flag = torch.tensor(float(mine))
        sum_over_all(flag)
        return bool(flag)

    def first_does(self, act: Callable[[], Result]) -> Result | None:
        """What `act` returns, on the first process; None on the others. Where it fails all end, the others with a sentence."""
        found, failed = None, None
        if self.first:
            try:
                found = act()
            except Exception as error:
                failed = error
        if self.any(failed is not None):
            raise failed or OthersError("the first process could not go on; its message tells why.")
        return found

    def agree(self, text: str) -> bool:
        """Whether all processes say the same."""
        mine = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.float32)
        whole = mine.clone()
        self.add([whole])
        return not self.any(not torch.equal(whole, mine * self.count))


def sum_over_all(tensor: Tensor) -> None:
    """The tensor becomes, in place, its sum over all processes. OthersError where one of them has ended."""
    try:
        dist.all_reduce(tensor)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise OthersError("another process has ended, or cannot be reached any more; what it told says why, and the same "
                          "command goes on from what is saved.") from error


@contextmanager
def started(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, of which this is one; without it, this one alone."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if count == 1:
        yield Processes()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
