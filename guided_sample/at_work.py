"""Who is at work in a sampling run's folder: each process holds a lock of its own, and a short one while it changes what all
processes read. A process that is killed holds none."""
from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from noisy_clf.errors import UserError, disk_trouble

QUIETLY = 5  # seconds to wait for others before it is told


class Stake(NamedTuple):
    """Share `number` of `shares`, of blocks of so many samples: disjoint from every other one of as many and such blocks."""

    number: int
    shares: int
    block: int

    @property
    def lock(self) -> str:
        return f".share-{self.number}-of-{self.shares}-by-{self.block}.lock"


def held(path: Path) -> FileLock | None:
    """The lock, taken; None where another process holds it. UserError where the file system has no locks."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    except NotImplementedError:
        raise no_locks(path) from None
    if type(lock) is not FileLock:  # newer versions' stand-in, which a kill leaves behind
        lock.release()
        raise no_locks(path)
    return lock


def no_locks(path: Path) -> UserError:
    return UserError(f"the file system of {path.parent} has no locks, so that two runs might mix there; choose an --out on "
                     f"another one.")


@contextmanager
def briefly_alone(folder: Path) -> Iterator[None]:
    """Within, no other process looks at who is at work in the folder, or writes what is of all of them."""
    started, told = time.monotonic(), False
    while (lock := held(folder / ".lock")) is None:
        if not told and time.monotonic() - started > QUIETLY:
            told = tell_waiting(f"gathers the samples in {folder}")
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


def others_at_work(folder: Path) -> set[Stake]:
    """Of other processes than this one; to be asked while `briefly_alone`."""
    found = set()
    for path in folder.glob(".share-*.lock"):
        if match := re.fullmatch(r"\.share-(\d+)-of-(\d+)-by-(\d+)\.lock", path.name):
            if (lock := held(path)) is None:
                found.add(Stake(*map(int, match.groups())))
            else:
                path.unlink(missing_ok=True)
                lock.release()
    return found


def staked(folder: Path, mine: Stake, claim: Callable[[bool], object]) -> FileLock:
    """The lock of a stake, once no other process has it. First `claim(whether others are at work)` says whether the folder
    may be drawn into at all; UserError for that, and where others share the samples out otherwise."""
    told = False
    while True:
        with briefly_alone(folder):
            others = others_at_work(folder)
            claim(bool(others))
            refuse_other_division(folder, mine, others)
            if mine not in others and (lock := held(folder / mine.lock)):
                return lock
        if not told:
            told = tell_waiting(f"draws {f'share {mine.number} of {mine.shares}' if mine.shares > 1 else 'all'} of {folder}")
        time.sleep(0.2)


def refuse_other_division(folder: Path, mine: Stake, others: set[Stake]) -> None:
    for other in sorted(others):
        if (other.shares, other.block) != (mine.shares, mine.block):
            raise UserError(f"{folder} is being drawn in {other.shares} share{'s' * (other.shares > 1)} of batches of "
                            f"{other.block}, and this is one of {mine.shares} of batches of {mine.block}; wait until they have "
                            f"ended, or share as they do.")


def tell_waiting(what: str) -> bool:
    tqdm.write(f"waiting for another process that {what}", file=sys.stderr)
    return True
