"""Writing behind the sampling: a thread stores what is drawn while the next is drawn."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from threading import Thread
from typing import Any

WAITING = 256  # images, at most; where a disk is slower than the sampling, that waits


@contextmanager
def behind(store: Callable[..., object]) -> Iterator[Callable[..., None]]:
    """Within, a function that has `store` called with its arguments, in turn, by a thread; at the end all is stored. What store
    raises, the next call raises, or the end; after that nothing more is stored."""
    waiting: Queue[Any] = Queue(WAITING)
    raised: list[BaseException] = []

    def work() -> None:
        while (arguments := waiting.get()) is not None:
            if not raised:
                try:
                    store(*arguments)
                except BaseException as error:
                    raised.append(error)

    def put(*arguments: Any) -> None:
        if raised:
            raise raised[0]
        waiting.put(arguments)

    thread = Thread(target=work, name="behind", daemon=True)  # a second Ctrl-C need not wait
    thread.start()
    try:
        yield put
    finally:
        waiting.put(None)
        thread.join()
    if raised:
        raise raised[0]
