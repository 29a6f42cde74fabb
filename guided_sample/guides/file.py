"""Guides of one's own: functions of a Look in a Python file, which is run."""
from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from guided_sample.guides import GuideSpec
from guided_sample.model import Look
from noisy_clf.errors import UserError, out_of_memory


def load_guide(spec: GuideSpec) -> Callable[[Look], Tensor]:
    """The function, a log-density. UserError where the file does not run, or has no such function."""
    name = spec.title
    function = load_object(spec.source, spec.name)
    if not callable(function):
        raise UserError(f"{name} is a {type(function).__name__}; a guide is a function of a Look that returns a log-density.")

    def log_density(look: Look) -> Tensor:
        with told_in_a_sentence(f"{name} failed at t = {int(look.step.t)} for samples 0 to {len(look.x_t) - 1} of the batch",
                                spec.source):
            return function(look)
    return log_density


@contextmanager
def told_in_a_sentence(what: str | Callable[[], str], source: str) -> Iterator[None]:
    """Within, whatever the code of somebody's file stumbles over becomes a UserError that begins so; asked only then, as what
    lies on a device takes a wait to tell."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        raise UserError(f"{what if isinstance(what, str) else what()}: {what_happened(error, source)}.") from error


def load_object(source: str, name: str) -> Any:
    """What the Python file calls `name`. It may import what lies beside it, then and later."""
    path = Path(source).resolve()
    own_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(own_name, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{source} is no Python file; its name must end in .py.")
    module = sys.modules[own_name] = importlib.util.module_from_spec(module_spec)  # dataclasses look there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    with told_in_a_sentence(f"{source} fails when it is imported", source):
        module_spec.loader.exec_module(module)
    if not hasattr(module, name):
        own = [one for one, value in vars(module).items() if not one.startswith("_") and callable(value)
               and getattr(value, "__module__", None) == module.__name__]
        near = difflib.get_close_matches(name, own, n=1)
        raise UserError(f"{source} has no {name!r}; " + (f"did you mean {near[0]}?" if near else
                        f"it defines: {', '.join(own)}." if own else "it defines no function."))
    return getattr(module, name)


def what_happened(error: BaseException, source: str) -> str:
    """The error in a few words, with the line of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [error.lineno] if isinstance(error, SyntaxError) else [
        frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(source).resolve()]
    text = " ".join(str(error).split()).rstrip(".")[:160]
    return f"{type(error).__name__}{f' ({text})' if text else ''}{f' in line {lines[-1]}' if lines else ''}"
