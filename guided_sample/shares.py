"""Which of a run's samples are this process's own, where several draw one run: as asked, or as torchrun or srun started it.

No process talks to another: sample i is the same whoever draws it, and the folder tells what is missing.
"""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from noisy_clf.errors import UserError

TOGETHER = {"torchrun": ("RANK", "WORLD_SIZE"),  # srun's tasks alone have a number of tasks of their step, not a batch script
            "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}
ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class Share:
    """Share `number`, counted from 1, of `count`; `by` whom they are so many. `talks`: no other tells the same beside it."""

    number: int = 1
    count: int = 1
    by: str = ""
    talks: bool = True

    def __str__(self) -> str:
        return f"{self.number} of {self.count}"

    def batches(self, total: int, block: int, size: int) -> list[range]:
        """This share's batches. Each block of range(total) is one share's, and falls into batches of `size`: what a sample is
        drawn with depends neither on how many processes there are nor on what is missing."""
        own = range((self.number - 1) * block, total, self.count * block)
        return [range(first, min(first + size, start + block, total))
                for start in own for first in range(start, min(start + block, total), size)]


def share_of(asked: str | None, environ: Mapping[str, str] = os.environ) -> Share:
    """What --shard says, I/N or slurm (of an array), or without it what torchrun or srun started this process as. Processes
    that were started together share an array's task again, and torchrun's, which have one command line, any share."""
    group = started_together(environ)
    if asked is None:
        return group
    array = asked.strip().lower() == "slurm"
    share = of_array(environ) if array else parsed(asked)
    if group.count == 1 or (group.by == "srun" and not array):  # one who numbers the tasks of a step by hand means that
        return share
    return Share((share.number - 1) * group.count + group.number, share.count * group.count, f"{group.by} in {share.by}",
                 group.talks)


def parsed(text: str) -> Share:
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"{text!r} is no share; give one as I/N, counted from 1 (1/3, 2/3 and 3/3 are three processes'), or "
                        f"slurm for the tasks of an array.")
    return Share(number, count, "--shard")


def started_together(environ: Mapping[str, str]) -> Share:
    for by, (rank, size) in TOGETHER.items():
        if environ.get(size) not in (None, "", "1"):
            number, count = whole(environ, rank, by), whole(environ, size, by)
            if not 0 <= number < count:
                raise UserError(f"{rank} is {number} and {size} is {count}, which is no process of {by}'s; unset both.")
            return Share(number + 1, count, by, talks=number == 0)
    return Share()


def of_array(environ: Mapping[str, str]) -> Share:
    if lacking := [name for name in ARRAY if name not in environ]:
        raise UserError(f"--shard slurm is for the tasks of an array (sbatch --array=0-9), and {lacking[0]} is not set; give "
                        f"--shard I/N, or leave it out.")
    task, first, count = (whole(environ, name, "a Slurm array") for name in ARRAY)
    number, between = divmod(task - first, whole({"SLURM_ARRAY_TASK_STEP": "1", **environ}, "SLURM_ARRAY_TASK_STEP", "Slurm"))
    if between or not 0 <= number < count:
        raise UserError(f"task {task} of an array of {count} from {first} on is no share; number the tasks in even steps, such "
                        f"as --array=0-9.")
    return Share(number + 1, count, "--shard slurm")


def whole(environ: Mapping[str, str], name: str, by: str) -> int:
    value = environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name} is {value!r}, and {by} sets it to a number; unset what it set, or start it by {by}.")
    return int(value)
