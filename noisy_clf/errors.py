"""What a user reads when something goes wrong: one sentence, no traceback."""
from __future__ import annotations

import errno
import re
from typing import Any

import click


class UserError(Exception):
    """Something that the user can mend. The message says what was given, what is possible and what to do."""


class FriendlyCommand(click.Command):
    """A click command that ends in one sentence, with exit status 1, on a user's error or a failing disk."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)  # eager options already run here
        except UserError as error:
            raise click.ClickException(str(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:  # the reader of our output has left: click knows what to do
            raise
        except OSError as error:
            raise click.ClickException(disk_trouble(error)) from error


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
