"""Which class each sample is asked to show, or which several, and how a request says so."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noisy_clf.class_names import INDEX, NAME, by_number, class_index, named
from noisy_clf.errors import UserError

WORDS = {"all": "all classes in turn", "random": "classes at random", "none": "no class"}
WORD = "word:"  # before one of WORDS, whatever else it may mean
Classes = tuple[str | int, ...]


@dataclass(frozen=True)
class Wish:
    """What one sample is asked to show: numbers of classes, a weight each, in the order given; below 0: that it be none."""

    weights: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, text: str, names: tuple[str, ...]) -> Wish:
        """From "3=1,8=-0.5", by numbers, names or WordNet ids. UserError for what does not exist, a class that has no weight
        or two, and weights that are no finite numbers or sum to 0."""
        weights: dict[int, float] = {}
        for name, weight in weighted(text, names):
            k = class_of(name, names)
            if k in weights:
                raise UserError(f"--class {text} gives class {k} ({names[k]}) two weights; give it one.")
            weights[k] = weight
        if abs(sum(weights.values())) <= 1e-9 * max(map(abs, weights.values())):  # 0.1 + 0.2 - 0.3 is not 0
            raise UserError(f"the weights of --class {text} sum to 0, and so ask for nothing; ask for one class more than "
                            f"against others, as in 3=1,8=-0.5.")
        return cls(tuple((k, weight) for k, weight in weights.items() if weight))

    @property
    def plain(self) -> bool:
        """Whether it is one class, and no more is said of it."""
        return len(self.weights) == 1 and self.weights[0][1] == 1

    @property
    def label(self) -> int | None:
        """The class that most is asked for, which class-conditional denoisers are told; None where it is several, or none."""
        most = max(weight for _, weight in self.weights)
        foremost = [k for k, weight in self.weights if weight == most]
        return foremost[0] if most > 0 and len(foremost) == 1 else None

    @property
    def told(self) -> int | dict[str, float]:
        """As samples.jsonl has it: the weights by the classes' numbers; of one plain class its number."""
        return self.weights[0][0] if self.plain else {str(k): weight for k, weight in self.weights}

    def text(self, names: Sequence[object]) -> str:
        """"three=1,eight=-0.5", or one plain class as "three", by these names of all classes."""
        if self.plain:
            return str(names[self.weights[0][0]])
        return ",".join(f"{names[k]}={repr(float(weight)).removesuffix('.0')}" for k, weight in self.weights)


@dataclass(frozen=True)
class Labels:
    """`classes` in turn, or at random among `K`, or none; `names` of all classes."""

    classes: tuple[int | Wish, ...] = ()
    K: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: Classes, names: tuple[str, ...]) -> Labels:
        """What --class asks for: one of WORDS alone, or numbers, names, WordNet ids, or several of these with a weight each.
        UserError for what does not exist, or may be one class or another."""
        word = word_of(wanted)
        if word is not None:
            refuse_two_meanings(str(wanted[0]), names)
            return {"none": cls(), "random": cls(K=len(names), names=names),
                    "all": cls(tuple(range(len(names))), names=names)}[word]
        classes: list[int | Wish] = []
        for text in map(str, wanted):
            parts = [text] if is_name(text, names) else list(map(str.strip, text.split(",")))
            if any("=" in part and not is_name(part, names) for part in parts):
                wish = Wish.of(text, names)
                classes.append(wish.weights[0][0] if wish.plain else wish)
            else:
                classes += [class_of(part, names) for part in parts]
        return cls(tuple(classes), names=names)

    @property
    def any(self) -> bool:
        return bool(self.classes or self.K)

    @property
    def has_weights(self) -> bool:
        return not all(wish.plain for wish in self.wishes)

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """All that a sample may be asked for."""
        return tuple(map(wish_for, self.classes or range(self.K)))

    def of_sample(self, index: int, seed: int) -> int | None:
        wish = self.wish_of(index, seed)
        return None if wish is None else wish.label

    def wish_of(self, index: int, seed: int) -> Wish | None:
        if self.classes:
            return wish_for(self.classes[index % len(self.classes)])
        if self.K:
            from noisy_clf.noise import random_label
            return wish_for(random_label(seed, index, self.K))
        return None

    def asked(self, wanted: Classes, names: tuple[str, ...] | None) -> Classes:
        """What these labels were made of, as numbers; with index: or word: only where another class of `names`, if these are
        known, has that name, and always within a Wish."""
        word = word_of(wanted)
        if word in (None, "all"):
            numbers = [f"{INDEX}{k}" for k in range(len(self.names))]
            return tuple(one.text(numbers) if isinstance(one, Wish) else by_number(one, names or ()) for one in self.classes)
        return wanted if names is None or word in names else (str(word),)


def wish_for(one: int | Wish) -> Wish:
    return one if isinstance(one, Wish) else Wish(((one, 1.0),))


def word_of(classes: Any) -> str | None:
    """Which of WORDS is asked for, as "all", ["all"] or "word:all"; None: something else."""
    only, *more = classes if isinstance(classes, list | tuple) and classes else (classes,)
    text = str(only).removeprefix(WORD)
    return text if text in WORDS and not more else None


def is_name(text: str, names: tuple[str, ...]) -> bool:
    """Whether all of it is a class's name, which may have "," and "=" of its own."""
    text = text.strip()
    return not text.startswith(INDEX) and bool(named(text.removeprefix(NAME).strip(), names))


def class_of(text: str, names: tuple[str, ...]) -> int:
    refuse_two_meanings(text, names)
    if word_of(text):
        raise alone(text)
    return class_index(text, names)


def weighted(text: str, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """(class, weight) of each part of "3=1,8=-0.5"; of parts that together are a class's name as many as can be."""
    parts, found = text.split(","), []
    longest = 1 + max((name.count(",") for name in names), default=0)
    while parts:
        count = next((n for n in range(min(longest, len(parts)), 1, -1)
                      if "=" in parts[n - 1] and is_name(",".join(parts[:n]).rpartition("=")[0], names)), 1)
        part, parts = ",".join(parts[:count]).strip(), parts[count:]
        name, _, weight = map(str.strip, part.rpartition("="))
        if "=" not in part or is_name(part, names):
            raise UserError(f"{part!r} has no weight in --class {text}, where others have one; give it one ({part}=1), or, to "
                            f"draw in turn, a --class of its own.")
        found.append((name, weight_of(weight, part, names)))
    return found


def weight_of(weight: str, part: str, names: tuple[str, ...]) -> float:
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
        try:
            class_index(part, names)
        except UserError as error:  # which tells of names like it: some have "=" of their own
            raise UserError(f"{weight!r} is no weight such as 1 or -0.5, and {error}") from None
    if not math.isfinite(number):
        raise UserError(f"{part} has a weight that is no finite number; give one such as 1 or -0.5.")
    return number


def refuse_two_meanings(text: str, names: tuple[str, ...]) -> None:
    """UserError where one of WORDS is also a class's name."""
    if text in WORDS and text in names:
        raise UserError(f"{text} is the name of class {names.index(text)}, and also means {WORDS[text]}; ask for the one with "
                        f"--class {NAME}{text}, for the other with --class {WORD}{text}.")


def alone(word: str) -> UserError:
    return UserError(f"--class {word} goes with no other; give it alone, or only numbers and names (a class of that name: "
                     f"{NAME}{word.removeprefix(WORD)}).")


def spelled_out(classes: Classes) -> Classes:
    """A resolved request's, as what they are: index:3, whatever the classes of the models that they go to are called."""
    return tuple(f"{WORD}{one}" if one in WORDS else f"{INDEX}{one}" if isinstance(one, int) else one for one in classes)


def plain(classes: Classes) -> list[str | int]:
    """The same without index: and word:, and weights without spaces, to tell and to compare."""
    def one(asked: str | int) -> str | int:
        text = str(asked)
        number = text.removeprefix(INDEX)
        if number != text and number.isdecimal():
            return int(number)
        if "=" in text:
            return re.sub(rf"(^|,){INDEX}(?=\d+=)", r"\1", re.sub(r"\s*([=,])\s*", r"\1", text))
        return text.removeprefix(WORD) if text == asked else asked
    return list(map(one, classes))
