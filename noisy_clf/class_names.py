"""From how a user calls a class to its number."""
from __future__ import annotations

import difflib
from collections.abc import Sequence

from noisy_clf import imagenet
from noisy_clf.errors import UserError

INDEX, NAME = "index:", "name:"  # before a class that is told by its number, or by its name, whatever else it may mean


def nameless(class_names: tuple[str, ...]) -> bool:
    """Whether these are only the classes' numbers, as of a foreign file that tells no names."""
    return class_names == tuple(map(str, range(len(class_names))))


def same_classes(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two models may mean the same classes: numbers go with any names of as many."""
    return len(ours) == len(theirs) and (ours == theirs or nameless(ours) or nameless(theirs))


def numbers_of(ours: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Their number of each of our classes, by name, in whatever order; None where they are not the same classes."""
    if same_classes(tuple(ours), tuple(theirs)):
        return list(range(len(ours)))
    return [list(theirs).index(name) for name in ours] if sorted(ours) == sorted(theirs) else None


def class_index(text: str, class_names: tuple[str, ...]) -> int:
    """A class's number from its number or its name, told apart by index: and name: where they are two classes.

    What does not exist is answered with what does.
    """
    text = text.strip()
    if text.startswith(INDEX):
        return number_of(text.removeprefix(INDEX).strip(), class_names)
    called = named(text.removeprefix(NAME).strip(), class_names)
    if text.startswith(NAME):
        return index_of_name(text.removeprefix(NAME).strip(), called, class_names)
    if not is_number(text) or called and not 0 <= int(text) < len(class_names):
        return index_of_name(text, called, class_names)
    number = number_of(text, class_names)
    if any(i != number for i in called):
        raise UserError(f"{text} is the number of the class called {class_names[number]!r}, and the name of class number "
                        f"{' and '.join(map(str, called))}; ask for the one with --class {INDEX}{text}, for the other with "
                        f"--class {NAME}{text}.")
    return number


def by_number(index: int, class_names: tuple[str, ...]) -> str | int:
    """What `class_index` reads as the class of that number: the number, with index: where it is another class's name."""
    return index if all(i == index for i in named(str(index), class_names)) else f"{INDEX}{index}"


def named(text: str, class_names: tuple[str, ...]) -> list[int]:
    """The classes of that name: of exactly that, or where there is none, in any case."""
    exact = [i for i, name in enumerate(class_names) if name == text]
    return exact or [i for i, name in enumerate(class_names) if name.lower() == text.lower()]


def is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def number_of(text: str, class_names: tuple[str, ...]) -> int:
    K = len(class_names)
    if is_number(text) and 0 <= int(text) < K:
        return int(text)
    raise UserError(f"there is no class {text if is_number(text) else f'number {text!r}'}; the classes are 0 to {K - 1}"
                    + (f" ({', '.join(class_names)})." if K <= 20 else "."))


def index_of_name(text: str, called: list[int], class_names: tuple[str, ...]) -> int:
    """The one of the classes that are `called` so, or one by a WordNet id or another of its words."""
    if len(called) == 1:
        return called[0]
    K, lower = len(class_names), [name.lower() for name in class_names]
    words: dict[str, int | list[int]] = {**dict(zip(lower, range(K))), **imagenet_words(class_names)}
    meant = called or words.get(text.lower())
    if isinstance(meant, int):
        return meant
    if meant:
        numbers = [by_number(i, class_names) for i in meant]
        raise UserError(f"{text!r} is the name of {len(meant)} classes: "
                        f"{' and '.join(f'{i} {class_names[i]}' for i in meant)}; give the number"
                        f"{'' if numbers == meant else ', ' + ' or '.join(map(str, numbers))}.")
    near = difflib.get_close_matches(text.lower(), words, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(class_names[lower.index(word)] if word in lower else word for word in near)}?" \
        if near else f"the classes are {', '.join(class_names)}, or 0 to {K - 1}." if K <= 20 else \
        f"the classes are 0 to {K - 1}, {class_names[0]} to {class_names[-1]}."
    raise UserError(f"there is no class {text!r}; {hint}")


def imagenet_words(class_names: tuple[str, ...]) -> dict[str, int | list[int]]:
    """WordNet ids and words (lower case) for those of the classes that are ImageNet's: a class, or several."""
    position = {name: i for i, name in enumerate(class_names)}
    names, ids = imagenet.class_names(), [id for id, _ in imagenet.synsets()]
    found: dict[str, int | list[int]] = {}
    for word, classes in imagenet.meanings().items():
        here = [position[name] for i in classes for name in (names[i], ids[i]) if name in position]
        if here:
            found[word] = here[0] if len(here) == 1 else here
    return found
