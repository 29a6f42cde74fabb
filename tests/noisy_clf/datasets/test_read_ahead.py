from __future__ import annotations

import threading
import time

import pytest

from noisy_clf.errors import UserError
from noisy_clf.datasets.read_ahead import read_ahead


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_all_come_in_order_however_long_each_takes(threads: int) -> None:
    def slow_if_even(step: int) -> int:
        time.sleep(0.005 * (step % 2 == 0))
        return step

    assert list(read_ahead(slow_if_even, range(3, 30), threads)) == list(range(3, 30))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_no_more_is_read_than_a_few_ahead(threads: int) -> None:
    started: list[int] = []
    batches = read_ahead(lambda step: started.append(step), range(10 ** 9), threads)
    for taken in range(1, 6):
        next(batches)
        assert len(started) <= taken + threads + 1
    batches.close()  # type: ignore[attr-defined]


def test_reading_goes_on_while_a_step_computes() -> None:
    ready = threading.Event()
    batches = read_ahead(lambda step: ready.set() if step == 2 else None, range(5), 2)
    next(batches)
    assert ready.wait(timeout=10)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_at_the_step_it_belongs_to(threads: int) -> None:
    def broken_at_3(step: int) -> int:
        if step == 3:
            raise UserError("the disk is gone.")
        return step

    batches = read_ahead(broken_at_3, range(10), threads)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)
