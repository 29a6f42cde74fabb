"""Batches are read by threads, ahead of the step that needs them: decoding and resizing pictures leave Python's lock."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def read_ahead(read: Callable[[int], Batch], steps: Iterable[int], threads: int) -> Iterator[Batch]:
    """read(step) of each step, in order, up to threads + 1 steps ahead; with 0 threads, when it is asked for."""
    if threads == 0:
        yield from map(read, steps)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        pending: deque[Future[Batch]] = deque()
        for step in steps:
            pending.append(pool.submit(read, step))
            if len(pending) > threads + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
