"""Arrays out of a Python pickle, as data sets are published in. What it may name is in NAMES, all else is refused."""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from noisy_clf.errors import UserError, disk_trouble

KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


class Refused(Exception):
    """The pickle asks for more than arrays of numbers."""


class Kind:
    """A dtype of numbers. numpy's own would take a pickle's word for where in its bytes there are addresses of objects."""

    def __init__(self, name: object, *_: object) -> None:
        if name not in KINDS:
            raise Refused(f"an array that is not of numbers ({str(name)[:40]!r})")
        self.dtype = np.dtype(str(name))

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """An array that is filled later. numpy's own would take any shape."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.array = from_bytes(data, kind, shape, "F" if fortran else "C")


def from_bytes(data: Any, kind: Kind, shape: Any, order: Any) -> np.ndarray:
    """An array over all of `data`: bytes or, from Python 2, text."""
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.dtype).reshape(shape, order=order)


NAMES: dict[str, Any] = {  # and what is called instead; in Python 3's pickles for Python 2, bytes are text that is encoded
    "numpy.ndarray": None, "numpy.dtype": Kind, "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.multiarray.scalar": lambda kind, data: from_bytes(data, kind, (), "C")[()],
    "numpy.core.numeric._frombuffer": from_bytes, "__builtin__.bytes": lambda: b"",
    "_codecs.encode": lambda text, latin1: text.encode("latin1")}


class ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        text = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # numpy 2
        if text not in NAMES:
            raise Refused(f"code ({text[:80]!r})")
        return NAMES[text]


def read_pickled_arrays(path: Path) -> dict[str, Any]:
    """The dict in the pickle at `path`, of any protocol, of Python 2 or 3: arrays of numbers, lists and the like by name.

    In memory are the arrays' bytes once; while a file of Python 2 is read, twice. UserError if there is anything else in it.
    """
    try:
        with open(path, "rb") as file:
            found = ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise Refused(f"something else than arrays by name ({type(found).__name__})")
        return {name: value.array if isinstance(value, Array) else value for name, value in found.items()}
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    except Refused as error:
        raise UserError(f"{path} carries {error} and is not opened; only arrays of numbers, lists and the like are read: "
                        f"download the official file again.") from error
    except Exception as error:  # what is no pickle at all makes the unpickler stumble in any way
        why = " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__
        raise UserError(f"{path} is not a whole pickle of arrays ({why}); copy or download it again.") from error
