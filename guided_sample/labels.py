"""Which class each sample is asked to show, and how a request says so."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noisy_clf.class_names import INDEX, NAME, by_number, class_index, named
from noisy_clf.errors import UserError

WORDS = {"all": "all classes in turn", "random": "classes at random", "none": "no class"}
WORD = "word:"  # before one of WORDS, whatever else it may mean
Classes = tuple[str | int, ...]


@dataclass(frozen=True)
class Labels:
    """`classes` in turn, or at random among `K`, or none; `names` of all classes."""

    classes: tuple[int, ...] = ()
    K: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: Classes, names: tuple[str, ...]) -> Labels:
        """What --class asks for: one of WORDS alone, or numbers, names, WordNet ids. UserError for what does not exist, or may
        be one class or another."""
        word = word_of(wanted)
        if word is not None:
            refuse_two_meanings(str(wanted[0]), names)
            return {"none": cls(), "random": cls(K=len(names), names=names),
                    "all": cls(tuple(range(len(names))), names=names)}[word]
        indices = []
        for text in map(str, wanted):
            whole = named(text.strip().removeprefix(NAME).strip(), names)  # some class names have commas of their own
            for part in [text] if whole else map(str.strip, text.split(",")):
                refuse_two_meanings(part, names)
                if not whole and word_of(part):
                    raise alone(part)
                indices.append(class_index(part, names))
        return cls(tuple(indices), names=names)

    @property
    def any(self) -> bool:
        return bool(self.classes or self.K)

    def of_sample(self, index: int, seed: int) -> int | None:
        if self.classes:
            return self.classes[index % len(self.classes)]
        if self.K:
            from noisy_clf.noise import random_label
            return random_label(seed, index, self.K)
        return None

    def asked(self, wanted: Classes, names: tuple[str, ...] | None) -> Classes:
        """What these labels were made of, as numbers; with index: or word: only where another class of `names`, if these are
        known, has that name."""
        word = word_of(wanted)
        if word in (None, "all"):
            return tuple(by_number(index, names or ()) for index in self.classes)
        return wanted if names is None or word in names else (str(word),)


def word_of(classes: Any) -> str | None:
    """Which of WORDS is asked for, as "all", ["all"] or "word:all"; None: something else."""
    only, *more = classes if isinstance(classes, list | tuple) and classes else (classes,)
    text = str(only).removeprefix(WORD)
    return text if text in WORDS and not more else None


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
    """The same without index: and word:, to tell and to compare."""
    def one(asked: str | int) -> str | int:
        text = str(asked)
        number = text.removeprefix(INDEX)
        return int(number) if number != text and number.isdecimal() else text.removeprefix(WORD) if text == asked else asked
    return list(map(one, classes))
