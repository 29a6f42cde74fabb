"""The grammar of guides, KIND_OR_FILE:NAME[,key=value]..., one for all that is to come. One kind a file."""
from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from noisy_clf.errors import UserError

KEYS = ("scale", "interval")


@dataclass(frozen=True)
class GuideSpec:
    """A guide as it is asked for: "my_guides.py:darker,scale=20,interval=0.2:3".

    source    a Python file
    name      of a function in it, (look) -> log-density [B]
    scale     by which its gradient counts
    interval  (low, high): it is run where low < sigma <= high, with sigma = sqrt(1 / alpha_bar - 1); None: everywhere
    """

    source: str
    name: str
    scale: float = 1.0
    interval: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> GuideSpec:
        """UserError where it is not of the grammar."""
        head, *options = text.split(",")
        source, _, name = head.rpartition(":")
        if not source or not name.isidentifier():
            raise UserError(f"the guide {text!r} cannot be read; write FILE.py:FUNCTION, then what you like of ,scale=20 and "
                            f",interval=0.2:3.")
        given: dict[str, str] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1)
                raise UserError(f"the guide {text!r} has the unknown setting {key!r}; "
                                + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(KEYS)}."))
            if key in given:
                raise UserError(f"the guide {text!r} gives {key} twice; give it once.")
            given[key] = value
        scale, = numbers(given.get("scale", "1"), 1, text)
        interval = numbers(given["interval"], 2, text) if "interval" in given else None
        if interval is not None and not 0 <= interval[0] < interval[1]:
            raise UserError(f"the guide {text!r} has an interval that holds no sigma; give the lower end first, as in 0.2:3.")
        return cls(source, name, scale, None if interval is None else (interval[0], interval[1]))

    def refuse_missing(self) -> None:
        if not Path(self.source).is_file():
            raise UserError(f"the guide {self.name} is to be found in {self.source}, and there is no such file; give the path "
                            f"of a Python file.")


def numbers(text: str, count: int, spec: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(":")))
    except ValueError:
        found = ()
    if len(found) != count or any(math.isnan(number) for number in found) or (count == 1 and not math.isfinite(found[0])):
        raise UserError(f"the guide {spec!r} has {text!r} where {'a number' if count == 1 else 'two numbers, as in 0.2:3,'} "
                        f"must stand.")
    return found
