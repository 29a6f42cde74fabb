"""What a value of a request may be: checked alike in a flag's text, in a file and in Python."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click


class Real(click.types.FloatParamType):
    """A finite number from `least` to `most`."""

    def __init__(self, least: float = -math.inf, most: float = math.inf) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            self.fail(f"{value!r} is not a number.", param, ctx)
        try:
            number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number; try 1 or 0.", param, ctx)
        if not self.least <= number <= self.most:
            self.fail(f"{number:g} is not in the range {self.least:g}<=x<={self.most:g}.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return super().convert(value, param, ctx)  # type: ignore[arg-type]


class Text(click.ParamType):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not isinstance(value, str):
            self.fail(f"{value!r} is not text in quotes.", param, ctx)
        return value


class Steps(click.ParamType):
    """Text as steps.py reads it, a number of steps, or the timesteps one by one."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | tuple[int, ...]:
        if type(value) is int:
            return str(value)
        if isinstance(value, list | tuple) and value and all(type(t) is int for t in value):
            return tuple(value)
        if not isinstance(value, str):
            self.fail(f"{value!r} are no steps such as 250, \"ddim25\" or [0, 250, 500, 750].", param, ctx)
        return value


class Words(click.ParamType):
    """One word or several: text, and where `numbers` are meant too, whole numbers, and tables, as "three=1,eight=-0.5"."""

    name = "text"

    def __init__(self, numbers: bool = False) -> None:
        self.kinds = (str, int) if numbers else (str,)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | int, ...]:
        words = tuple(value) if isinstance(value, list | tuple) else (value,)
        if int in self.kinds:
            words = tuple(self.of_table(word, param, ctx) if isinstance(word, Mapping) else word for word in words)
        if not all(isinstance(word, self.kinds) and not isinstance(word, bool) for word in words):
            self.fail(f"{value!r} is neither text nor a list of it.", param, ctx)
        return words

    def of_table(self, table: Mapping[Any, Any], param: click.Parameter | None, ctx: click.Context | None) -> str:
        for key, number in table.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                self.fail(f"{key} = {number!r} is no weight; give a number, as in {{three = 1, eight = -0.5}}.", param, ctx)
        return ",".join(f"{key}={number!r}" for key, number in table.items())


class Amount(Real):
    """A finite number; in a file also a list of them, one for each sample, or a table, one for each class."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Mapping) and value:
            return {str(key): super(Amount, self).convert(one, param, ctx) for key, one in value.items()}
        if isinstance(value, list | tuple) and value:
            return tuple(super(Amount, self).convert(one, param, ctx) for one in value)
        return super().convert(value, param, ctx)


class Threshold(click.ParamType):
    """static, none, or dynamic:QUANTILE, spelled out."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in ("static", "none"):
            return str(value)
        name, colon, number = str(value).partition(":")
        if name != "dynamic":
            self.fail(f"{value!r} is no threshold; there are static, dynamic, dynamic:0.995 and none.", param, ctx)
        try:
            quantile = float(number) if colon else 0.995
        except ValueError:
            quantile = math.nan
        if not 0 < quantile <= 1:
            self.fail(f"{number!r} is no quantile; give a number above 0 and at most 1, as in dynamic:0.995.", param, ctx)
        return f"dynamic:{quantile!r}" if quantile < 1 else "dynamic:1"


class Plain(click.ParamType):
    """Text, a number, or in a file a list of numbers: what the grammar of guides/__init__.py reads."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        several = value if isinstance(value, list | tuple) else [value]
        if not several or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in several):
            self.fail(f"{value!r} is neither text nor a number.", param, ctx)
        return ":".join(map(str, several))
