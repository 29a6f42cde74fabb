"""The grammar of guides, KIND_OR_FILE:NAME[,key=value]..., and of all scales. One kind a file."""
from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_sample.pictures import picture_file
from noisy_clf.errors import UserError

SEES = ("x_t", "x0", "through")  # what a network is shown: the noised image, x0_hat, x0_hat through the denoiser
SCHEDULES = ("constant", "linear", "cosine", "sine", "alpha", "beta")  # guides/scales.py says what they are
OWN = "the classifier"  # what messages call the one that --classifier names
CAP = 20.0  # of entropy's adaptation: ED-DPM's has none, and grows without bound as the entropy falls
Parse = Callable[[Any], Any]


def number(value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """ValueError where it is no finite number from `least` to `most`, as for all that follow."""
    found = float(value)
    if not (math.isfinite(found) and least <= found <= most):
        raise ValueError
    return found


def whole(value: Any) -> int:
    found = int(value)
    if found < 1:
        raise ValueError
    return found


def positive(value: Any) -> float:
    found = number(value)
    if found <= 0:
        raise ValueError
    return found


def interval(value: Any) -> tuple[float, float]:
    """"low:high" in sigma = sqrt(1 / alpha_bar - 1); high may be inf."""
    low, high = map(float, value.split(":") if isinstance(value, str) else value)
    if not 0 <= low < high:
        raise ValueError
    return low, high


def every(value: Any) -> tuple[int, bool]:
    """"n" or "n:held": at each n-th step, and in between nothing or the same gradient once more."""
    n, _, held = str(value).partition(":")
    if held not in ("", "held"):
        raise ValueError
    return whole(n), bool(held)


def schedule(value: Any) -> str | tuple[float, ...]:
    """One of SCHEDULES, or a table of factors from the first step to the last, "0:1:2" or a list."""
    if value in SCHEDULES:
        return value
    table = tuple(map(number, value.split(":") if isinstance(value, str) else value))
    if not any(table):
        raise ValueError
    return table


def adapt(value: Any) -> float:
    """The cap of "entropy" or "entropy:cap"."""
    what, _, cap = str(value).partition(":")
    if what != "entropy":
        raise ValueError
    return number(cap, least=1) if cap else CAP


def flag(value: Any) -> bool:
    return {"true": True, "": True, "false": False}[str(value).lower()]


def layers(value: Any) -> tuple[int, ...]:
    """Numbers of an encoder's maps, from 1, the finest: "1:2", or a list."""
    found = tuple(map(whole, value.split(":") if isinstance(value, str) else value))
    if not found or len(set(found)) < len(found):
        raise ValueError
    return found


def one_of(*words: str) -> Parse:
    def chosen(value: Any) -> str:
        return words[words.index(value)]
    return chosen


PACE: dict[str, tuple[Parse, str]] = {  # when a scale holds: what a key's value is read by, and an example
    "interval": (interval, "two numbers of sigma, the lower first, as in 0.2:3,"),
    "every": (every, "a whole number of steps, as in 2 or 2:held,"),
    "schedule": (schedule, f"{', '.join(SCHEDULES)} or a table of which not all is 0, as in 0:1:2,")}
MOVES: dict[str, tuple[Parse, str]] = {  # how else than by its score a guide acts: guides/through.py
    "push": (number, "a number"), "rho": (number, "a number"), "mu": (number, "a number"),
    "iterations": (whole, "a whole number"), "smooth": (positive, "a positive number"), "draws": (whole, "a whole number"),
    "backward": (whole, "a whole number"), "rate": (positive, "a positive number")}
SEEING: dict[str, tuple[Parse, str]] = {"see": (one_of(*SEES), " or ".join(SEES))}
ENCODED = SEEING | {"encoder": (str, "an encoder's name or path")}
LAYERED = ENCODED | {"layers": (layers, "numbers of the encoder's maps, from 1, as in 1:2,")}
COMMON = {"scale": (number, "a number")} | PACE | MOVES
KINDS: dict[str, dict[str, tuple[Parse, str]]] = {  # and the settings that each has of its own
    "classifier": SEEING | {"adapt": (adapt, "entropy or entropy:CAP, a cap of at least 1,"), "class": (str, "a class")},
    "like": LAYERED, "style": LAYERED, "text": ENCODED,
    "inpaint": {"mask": (str, "a file")}, "blur": {"sigma": (positive, "a positive number"), "given": (flag, "true or false")},
    "downsample": {"factor": (whole, "a whole number")}, "colour": {}}
SIMILAR = ("like", "style", "text")  # by what an encoder sees: guides/similarity.py
MEASUREMENTS = tuple(kind for kind in KINDS if kind not in ("classifier", *SIMILAR))
NEEDED = {"inpaint": "mask", "blur": "sigma", "downsample": "factor"}  # settings that measurements cannot do without
PUSH = {"inpaint": 0.5, "blur": 1.0, "downsample": 1.0, "colour": 1.0}  # where nothing else is said (DPS: 0.3 to 0.5)
DEFAULT_SCALES = {"like": 100.0, "text": 30.0, "style": 3e5, "layers": 300.0}  # of a like with layers the last
CONTRAST: dict[str, tuple[Parse, str]] = PACE | {  # --contrast: contrast.py
    "apg": (number, "a number"), "momentum": (lambda value: number(value, -0.999, 0.999), "a number between -1 and 1"),
    "norm": (positive, "a positive number"), "rescale": (lambda value: number(value, 0, 1), "a number from 0 to 1")}


@dataclass(frozen=True)
class GuideSpec:
    """A guide as it is asked for: "my_guides.py:darker,scale=20,interval=0.2:3", "classifier:runs/smile,class=smiling,scale=2".

    kind      one of KINDS, or "function"
    source    a Python file, a classifier, a picture, words
    name      of a function in the file, (look) -> log-density [B]; else as it was written, or of a flag's own: OWN, "like", ...
    settings  by their keys
    several   of a flag: pictures or words, in turn
    """

    kind: str
    source: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    several: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> GuideSpec:
        """UserError where it is not of the grammar."""
        head, *options = text.split(",")
        kind, _, source = head.partition(":")
        name = head
        if kind not in KINDS:
            kind, (source, _, name) = "function", head.rpartition(":")
            if not name.isidentifier():
                source = ""
        if not source:
            raise UserError(f"the guide {text!r} cannot be read; write FILE.py:FUNCTION, classifier:MODEL, "
                            f"like:PICTURE, style:PICTURE, text:WORDS or a measurement "
                            f"({', '.join(f'{kind}:...' for kind in MEASUREMENTS)}), then what you like of ,scale=20 and "
                            f",interval=0.2:3.")
        commas = " (words with a comma are for --text)" if kind == "text" else ""
        settings = settings_of(options, COMMON | KINDS.get(kind, {}), f"the guide {text!r}{commas}")
        return cls(kind, source.strip(), name, usual(kind, settings) | settings)

    def spelled_out(self, text: str, encoder: str | None = None) -> str:
        """The text that it was read from, with the settings that it left open; `encoder` is what counts where it names none."""
        given = settings_of(text.split(",")[1:], COMMON | KINDS.get(self.kind, {}), text)
        left_open = [f"{key}={value:g}" for key, value in usual(self.kind, given).items()]
        if self.kind in SIMILAR and "encoder" not in given and encoder is not None:
            left_open.append(f"encoder={encoder}")
        return ",".join([text, *left_open])

    @property
    def flagged(self) -> bool:
        """Whether a flag of its own asks for it, and not --guide."""
        return self.kind != "function" and self.name in (OWN, *SIMILAR)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Pictures or words, one for each sample in turn."""
        return self.several or (self.source,)

    @property
    def wanted_names(self) -> tuple[str, ...]:
        """The same, wherever pictures lie."""
        return self.wanted if self.kind == "text" else tuple(Path(one).name for one in self.wanted)

    @property
    def title(self) -> str:
        """What messages and manifests call it."""
        if self.kind in ("like", "style") and not self.flagged:
            return f"{self.kind}:{Path(self.source).name}"
        return f"{Path(self.source).name}:{self.name}" if self.kind == "function" else self.name

    @property
    def moves(self) -> bool:
        """Whether it moves x0_hat, where others add to the score."""
        return bool({"push", "rho", "mu"} & set(self.settings))

    @property
    def told(self) -> str:
        """What images depend on beside its files' contents: wherever these lie."""
        head = self.title if self.kind in ("function", "colour", "text") else self.kind
        settings = {key: value for key, value in self.settings.items() if key not in ("mask", "encoder")}
        return ",".join([head, *(f"{key}={plain(value)}" for key, value in sorted(settings.items()))])

    def refuse_missing(self) -> None:
        refuse_needy(self.kind, self.source, self.settings)
        if not all(one.strip() for one in self.wanted):
            raise UserError(f"--{self.kind} has an empty {'text' if self.kind == 'text' else 'path'} in it; say what is "
                            f"wanted, or leave it out.")
        files = () if self.kind in ("classifier", "colour", "text") else (*self.wanted, self.settings.get("mask"))
        for path in filter(None, files):
            if not picture_file(path).is_file():
                what = "of a Python file" if self.kind == "function" else "of a picture"
                which = f"--{self.kind}" if self.flagged else f"the guide {self.name}"
                raise UserError(f"{which} is to be found in {path}, and there is no such file; give the path {what}.")


def usual(kind: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """How strongly a guide acts where nothing is said of that."""
    if {"scale", "push", "rho", "mu"} & set(settings) or kind not in (*SIMILAR, *MEASUREMENTS):
        return {}
    if kind in MEASUREMENTS:
        return {"push": PUSH[kind]}
    return {"scale": DEFAULT_SCALES["layers" if kind == "like" and "layers" in settings else kind]}


def plain(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


def refuse_needy(kind: str, source: str, settings: Mapping[str, Any]) -> None:
    """UserError where a measurement lacks what it cannot do without."""
    key = NEEDED.get(kind)
    if key is not None and settings.get(key) is None:
        raise UserError(f"the guide {kind}:{source} needs a {key}; write {kind}:{source},{key}=...")


def settings_of(options: list[str], known: Mapping[str, tuple[Parse, str]], what: str) -> dict[str, Any]:
    """From "key=value" each. UserError for a key that is unknown or there twice, or a value that cannot be."""
    found: dict[str, Any] = {}
    for option in options:
        key, _, value = map(str.strip, option.partition("="))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(f"{what} has the unknown setting {key!r}; "
                            + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."))
        if key in found:
            raise UserError(f"{what} gives {key} twice; give it once.")
        found[key] = read(key, value, known, what)
    return found


def read(key: str, value: Any, known: Mapping[str, tuple[Parse, str]], what: str) -> Any:
    """The value of a key, or UserError."""
    parse, wanted = known[key]
    try:
        return parse(value)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        where = "" if what.startswith("--") and what.removeprefix("--") not in ("contrast", "recur") else f" as {key}"
        raise UserError(f"{what} has {value!r}{where} where {wanted} must stand.") from error
