"""From how a user calls a class to its number."""
from __future__ import annotations

import difflib

from noisy_clf import imagenet
from noisy_clf.errors import UserError


def nameless(class_names: tuple[str, ...]) -> bool:
    """Whether these are only the classes' numbers, as of a foreign file that tells no names."""
    return class_names == tuple(map(str, range(len(class_names))))


def class_index(text: str, class_names: tuple[str, ...]) -> int:
    """A class's number from its number or its name; what does not exist is answered with what does."""
    K = len(class_names)
    if text.strip().removeprefix("-").isdecimal():
        if 0 <= int(text) < K:
            return int(text)
        raise UserError(f"there is no class {text}; the classes are 0 to {K - 1}"
                        + (f" ({', '.join(class_names)})." if K <= 20 else "."))
    text, lower = text.strip(), [name.lower() for name in class_names]
    if text.lower() in lower:
        return lower.index(text.lower())
    words: dict[str, int | list[int]] = {**dict(zip(lower, range(K))), **imagenet_words(class_names)}
    meant = words.get(text.lower())
    if isinstance(meant, int):
        return meant
    if meant:
        raise UserError(f"{text!r} is the name of {len(meant)} classes: "
                        f"{' and '.join(f'{i} {class_names[i]}' for i in meant)}; give the number.")
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
