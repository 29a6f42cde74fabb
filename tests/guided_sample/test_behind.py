"""What is drawn is stored behind the sampling: all of it, in turn, or an error."""
from __future__ import annotations

import threading
import time

import pytest

from guided_sample.behind import WAITING, behind
from noisy_clf.errors import UserError


def test_all_is_stored_in_turn_by_another_thread():
    stored, threads = [], set()

    def store(number: int) -> None:
        time.sleep(0.001)
        stored.append(number)
        threads.add(threading.current_thread())

    with behind(store) as put:
        for number in range(20):
            put(number)
    assert stored == list(range(20)) and threads != {threading.current_thread()} and len(threads) == 1


def test_what_storing_raises_is_raised_and_nothing_is_stored_after_it():
    stored: list[int] = []

    def store(number: int) -> None:
        if number == 3:
            raise UserError("the disk is full")
        stored.append(number)

    with pytest.raises(UserError, match="the disk is full"), behind(store) as put:
        for number in range(20):
            time.sleep(0.001)
            put(number)
    assert stored == [0, 1, 2]
    with pytest.raises(UserError, match="the disk is full"), behind(store) as put:
        put(3)  # told at the end, where nothing more is put


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_drawn_before_an_error_is_stored(error: type[BaseException]):
    stored: list[int] = []
    with pytest.raises(error), behind(lambda number: (time.sleep(0.01), stored.append(number))) as put:
        for number in range(5):
            put(number)
        raise error
    assert stored == list(range(5))


def test_a_slow_disk_makes_the_sampling_wait_and_no_memory_is_filled():
    going = threading.Event()
    with behind(lambda number: going.wait()) as put:
        def fill() -> None:
            for number in range(2 * WAITING):
                put(number)

        drawing = threading.Thread(target=fill)
        drawing.start()
        drawing.join(0.2)
        waits = drawing.is_alive()
        going.set()  # asked after that: a test that fails shall end
        drawing.join()
        assert waits
