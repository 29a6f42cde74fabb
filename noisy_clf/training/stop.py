"""How a run is asked to stop: Ctrl-C and SIGTERM."""
from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from noisy_clf.errors import UserError
from noisy_clf.training.run import Run


def stopped_at(run: Run) -> UserError:
    return UserError(f"stopped at step {run.step} of {run.config.iterations}; everything is saved in {run.folder}: "
                     f"the same command goes on from here.")


class Stop:
    """Whether the run was asked to stop; where it may end at once, it does."""

    asked = False
    ending: Run | None = None

    @contextmanager
    def at_once(self, run: Run) -> Iterator[None]:
        """Within, a stop need not wait."""
        self.ending = run
        try:
            if self.asked:
                raise stopped_at(run)
            yield
        finally:
            self.ending = None

    def ask(self) -> None:
        self.asked = True
        if self.ending:
            raise stopped_at(self.ending)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, the first Ctrl-C, and any SIGTERM, only ask for a stop; the second Ctrl-C acts as ever.

    A cluster's SIGTERM comes twice to what torchrun started: from the cluster, and from torchrun.
    """
    stop = Stop()

    def ask(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        stop.ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
