"""What a report reads of a manifest.json and an evaluation.json, looked through once: whoever wrote them, they hold what they
should."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from noisy_clf.errors import UserError

LARGEST = 1e30  # what is beyond is no figure, as infinity is none


class Kind(NamedTuple):
    """Of a value in a file: its name, and whether a value is one."""

    name: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is one that can be drawn and told."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not


def finite(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: value for key, value in (values or {}).items() if is_number(value)}


def optional(kind: Kind) -> Kind:
    return kind._replace(fits=lambda value: value is None or kind.fits(value))


def listing(kind: Kind) -> Kind:
    return Kind(f"a list, each {kind.name}", lambda value: isinstance(value, list) and all(map(kind.fits, value)))


def mapping(kind: Kind) -> Kind:
    return Kind(f"an object, each value {kind.name}", lambda value: isinstance(value, dict) and all(
        map(kind.fits, value.values())))


TEXT = Kind("text", lambda value: isinstance(value, str))
WHOLE = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)
NUMBER = Kind("a number", is_number)
FIGURE = Kind("a number", lambda value: value is None or isinstance(value, float) or is_number(value))  # or NaN
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
COUNT = Kind("a whole number", lambda value: WHOLE.fits(value) and is_number(value))
AMOUNT = Kind("a number, or several", lambda value: bool(value) and (
    listing(NUMBER).fits(value) or mapping(NUMBER).fits(value)) or is_number(value))
STEPS = Kind("text, or a list of whole numbers", lambda value: TEXT.fits(value) or listing(COUNT).fits(value))

MANIFEST_KINDS = {  # "a.b": the key b of the object a, which stands before it
    "request.scale": AMOUNT, "request.cfg": AMOUNT, "request.weak_scale": AMOUNT,
    "request.seed": WHOLE, "request.guide": listing(TEXT), "request.sampler": TEXT,
    "request.steps": STEPS, "request.upsample_steps": STEPS, "digests": mapping(TEXT),
    "configs.model": OBJECT, "configs.model.schedule": OBJECT, "configs.model.schedule.T": COUNT,
    "configs.upsample": OBJECT, "configs.upsample.schedule": OBJECT, "configs.upsample.schedule.T": COUNT,
    "last_run": OBJECT, "last_run.images_per_second": NUMBER, **{
        f"{place}{name}": OBJECT for place in ("", "last_run.") for name in ("evaluations", "evaluations.saved", "ess")}}
EVALUATION_KINDS = {
    "N": COUNT, "metrics": mapping(FIGURE), "errors": mapping(FIGURE), "floor": mapping(FIGURE), "floor.N": COUNT,
    "names": mapping(TEXT), "features": mapping(TEXT), "warnings": listing(TEXT),
    "reference": OBJECT, "reference.name": TEXT, "reference.digest": TEXT, "reference.N": COUNT,
    "by_class": OBJECT, "by_class.class_names": listing(TEXT), "by_class.agreement": listing(FIGURE),
    "by_class.confusion": listing(listing(COUNT))}


def checked(content: dict[str, Any], kinds: Mapping[str, Kind], file: Path, way_out: str) -> dict[str, Any]:
    """The content; UserError where a value that is there, and is not null, is of another kind."""
    for name, kind in kinds.items():
        value: Any = content
        for key in name.split("."):
            value = (value or {}).get(key)
        if not optional(kind).fits(value):
            told = repr(value)
            raise UserError(f"{file}: {name} is {told if len(told) <= 60 else told[:57] + '...'}, and {kind.name} is wanted; "
                            f"{way_out}.")
    return content
