"""Arrays out of a Python pickle, as data sets are published in. Nothing that a pickle names is ever called or imported.

Python's own unpickler, in Python, with the instructions that make data; what a name or an instruction to build something
does is written here. Its arrays are numeric, plain and read-only.
"""
from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noisy_clf.errors import UserError, disk_trouble

DATA = (  # the instructions that make data or move it; what is not here is refused
    "PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 LIST EMPTY_LIST "
    "APPEND APPENDS DICT EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL").split()
KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


class Refused(Exception):
    """The pickle asks for more than arrays."""


@dataclass(frozen=True)
class Name:
    """A global that a pickle names. It stays a name."""

    text: str


class Kind:
    """A numeric dtype, of which a pickle tells the byte order later."""

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if name not in KINDS:
            raise Refused(f"an array that is not of numbers ({str(name)[:40]!r})")
        self.dtype = np.dtype(str(name))

    def set_state(self, state: Any) -> None:
        """state  (version, byte order, and what only other dtypes have)"""
        _, order, *more = state
        if order not in ("<", ">", "|", "=") or any(value not in (None, -1, 0) for value in more):
            raise Refused("an array that is not of plain numbers")
        self.dtype = self.dtype.newbyteorder(order)


def read_pickled_arrays(path: Path) -> dict[str, Any]:
    """The dict in the pickle at `path`, of any protocol, of Python 2 or 3. Its arrays are read-only.

    In memory are the arrays' bytes once; while a file of Python 2 is read, twice.
    """
    try:
        with open(path, "rb") as file:
            found = ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    except Refused as error:
        raise UserError(f"{path} carries {error} and is not opened; only arrays of numbers, lists and the like are read: "
                        f"download the official file again.") from error
    except Exception as error:  # what is no pickle at all makes the unpickler stumble in any way
        why = " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__
        raise UserError(f"{path} is not a whole pickle of arrays ({why}); copy or download it again.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path} should hold arrays by name and holds something else ({type(found).__name__}); download the "
                        f"official file again.")
    return found


class ArrayUnpickler(pickle._Unpickler):
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Name:
        text = re.sub(r"^numpy\.core\.", "numpy._core.", f"{module}.{name}")  # numpy 1
        if text not in MAKERS and text != "numpy.ndarray":
            raise Refused(f"code ({text[:80]})") if re.fullmatch(r"\w+(\.\w+)+", text) else ValueError("a name that is none")
        return Name(text)

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack[-1]
        if not isinstance(name, Name) or name.text not in MAKERS:
            raise Refused(f"a call of {name.text if isinstance(name, Name) else 'something that is no function'}")
        self.stack[-1] = MAKERS[name.text](*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Kind):
            target.set_state(state)
        elif isinstance(target, np.ndarray):
            fill(target, *state)
        else:
            raise Refused(f"a state for a {type(target).__name__}")


class Instructions(dict[int, Callable[..., None]]):
    def __missing__(self, code: int) -> Callable[..., None]:
        name = next((name for name in pickle.__all__ if getattr(pickle, name) == bytes([code])), None)
        if name is None:
            raise ValueError("it is no pickle")
        raise Refused(f"an instruction that is not needed for arrays ({name})")


ArrayUnpickler.dispatch = Instructions(
    {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in DATA}
    | {pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],  # an array is made of it without a copy
       pickle.REDUCE[0]: ArrayUnpickler.load_reduce, pickle.BUILD[0]: ArrayUnpickler.load_build})


def reconstruct(kind: object, shape: object, code: object) -> np.ndarray:
    """An array to be filled."""
    if kind != Name("numpy.ndarray") or shape != (0,) or code not in (b"b", "b"):
        raise Refused("an array of an unusual kind")
    return np.ndarray((0,), np.int8)


def fill(target: np.ndarray, version: object, shape: Any, kind: Any, fortran: Any, data: Any) -> None:
    """Gives an empty array what it holds."""
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2
    checked = from_buffer(data, kind, shape, "F" if fortran else "C")
    target.__setstate__((1, checked.shape, checked.dtype, bool(fortran), data))  # type: ignore[arg-type]  # a Python bool
    target.flags.writeable = False


def from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """An array over `data`, of which it has each byte."""
    if not isinstance(data, bytes) or not isinstance(kind, Kind):
        raise Refused("an array that is not of plain numbers")
    array = np.ndarray(shape, kind.dtype, buffer=data, order=order)
    if array.nbytes != len(data):
        raise ValueError("an array's shape is not that of its data")
    return array


def scalar(kind: Any, data: Any) -> Any:
    return from_buffer(data.encode("latin1") if isinstance(data, str) else data, kind, (), "C")[()]


def encoded(text: str, encoding: object) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise Refused("bytes of an unusual encoding")
    return text.encode("latin1")


MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": Kind, "numpy._core.multiarray._reconstruct": reconstruct, "numpy._core.multiarray.scalar": scalar,
    "numpy._core.numeric._frombuffer": from_buffer, "_codecs.encode": encoded, "__builtin__.bytes": lambda: b""}
