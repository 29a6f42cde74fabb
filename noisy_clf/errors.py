"""What a user reads when something goes wrong: one sentence, no traceback."""
from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

NO_MEMORY = r"(can't|cannot|not enough) (allocate )?memory|out of memory|bad_?alloc|ALLOC_FAILED|failed to map segment"
TURN = 4.0  # seconds in which torchrun, once a process has failed, has ended the others


class UserError(Exception):
    """Something that the user can mend. The message says what was given, what is possible and what to do."""


class OthersError(UserError):
    """What another process's failing has caused: worth telling only where that one did not tell anything."""


class FriendlyCommand(click.Command):
    """A click command that ends in one sentence, with exit status 1, on a user's error, a failing disk or too little memory."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        may_be_empty = {flag for parameter in self.params for flag in parameter.opts
                        if hasattr(parameter.type, "may_be_empty") or flag.endswith("-flags")}  # a program may have had none
        for before, arg in zip(["", *args], args):
            named = re.fullmatch(r"(--[\w-]+)=", arg)
            if named or not arg:  # which would be taken for the folder that one is in
                flag = named[1] if named else before if before.startswith("-") else "an argument"
                if flag not in may_be_empty:
                    raise click.UsageError(f"{flag} is empty; give it a value, or leave it out.", ctx)
        return super().parse_args(ctx, args)

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        fill_closed_streams()
        with in_one_sentence(self.to_save_memory):
            return super().make_context(*arguments, **more)  # eager options already run here

    def invoke(self, ctx: click.Context) -> Any:
        with in_one_sentence(self.to_save_memory):
            return super().invoke(ctx)

    def to_save_memory(self) -> str:
        flags = {flag for parameter in self.params for flag in parameter.opts}
        given = next((f"give a smaller {flag}, " for flag in ("--microbatch", "--batch-size") if flag in flags), "")
        return f"{given}choose a smaller model, or end other programs"


@contextmanager
def in_one_sentence(to_save_memory: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        wait_for_a_turn(error)
        raise
    except BrokenPipeError:  # the reader of our output has left: click knows what to do
        raise
    except Exception as error:
        if (told := sentence(error, to_save_memory)) is None:
            raise
        wait_for_a_turn(error)
        raise click.ClickException(told) from error


def sentence(error: Exception, to_save_memory: Callable[[], str]) -> str | None:
    """What a user is told of it; None of a mistake of ours."""
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error):
        return f"there is too little memory for this; {to_save_memory()}."
    return disk_trouble(error) if isinstance(error, OSError) else None


def out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory: Python's and numpy's errors, a device's, torch's on a CPU (a mere RuntimeError)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" \
        or isinstance(error, OSError) and error.errno == errno.ENOMEM \
        or not isinstance(error, UserError) and bool(re.search(NO_MEMORY, str(error), re.IGNORECASE))


@contextmanager
def enough_memory(otherwise: Callable[[], str]) -> Iterator[None]:
    """Within, too little memory, of a device or of the machine, becomes a UserError that says this."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise UserError(otherwise()) from None


def wait_for_a_turn(error: Exception) -> None:
    """Of the processes that torchrun started on a machine, all may fail alike: the first tells it and ends, whereupon torchrun
    ends the others while they wait here. One that fails alone tells it after that, and what that brings about comes last."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and "LOCAL_RANK" in os.environ:
        time.sleep(TURN * ((os.environ["LOCAL_RANK"] != "0") + 2 * isinstance(error, OthersError)))


def fill_closed_streams() -> None:
    """Where the shell has closed a standard stream (2>&-), what is told there is lost; and no file that is opened later gets
    the stream's number, and into it what libraries tell there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def disk_trouble(error: OSError, path: object = None) -> str:
    """One sentence for an operating system's error about `path` (default: the file that the error names)."""
    where = path or error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {where} could not be written; free some space and run the same command again."
    return f"{where}: {error.strerror or error}."


def one_line(error: Exception) -> str:
    """The first sentence of a library's message, or what there is."""
    told = re.sub(r"^\[[^]]*\][ .]*", "", str(error).strip())  # without "[enforce fail at FILE:LINE] ."
    return re.split(r"\.\s|\n", told)[0].rstrip(".")[:120] or type(error).__name__
