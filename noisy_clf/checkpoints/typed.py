"""Values from a file, held against the types that they are annotated with."""
from __future__ import annotations

import sys
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from noisy_clf.errors import UserError
from noisy_clf.files import shortened

IN_WORDS: dict[Any, tuple[str, str]] = {  # one of a type, and several
    int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), bool: ("true or false", "true or false"),
    str: ("a text", "texts"), NoneType: ("null", "null"), dict: ("an object", "objects"), list: ("a list", "lists")}


def refuse_other_types(values: Mapping[str, Any], types: Mapping[str, Any], source: object, within: str = "") -> None:
    """UserError that names the first of the values that is not of its type: JSON's true is no number, and 16.0 not whole."""
    for name, value in values.items():
        if name in types and not fits(value, types[name]):
            raise UserError(f"{source}: {within}{name} must be {in_words(types[name])}, not {shortened(value)}.")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of the annotated type. A number is finite, a whole one is one too; a tuple may be a list."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, parts[1]) for one in value.values())
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return kind is Any or type(value) is kind


def in_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin in (list, tuple):
        return f"a list of {IN_WORDS.get(parts[0], ('', 'values'))[1]}"
    if origin is dict and parts[1] is not Any:
        return f"an object with {IN_WORDS[parts[1]][1]} by name"
    return IN_WORDS[origin or kind][0]
