"""ImageNet's thousand classes in the order that models number them by: sorted WordNet ids, so that 207 is n02099601."""
from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path


@cache
def synsets() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(WordNet id, its words) of each class, in order."""
    lines = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="ascii").splitlines()
    return tuple((id, tuple(words.split(", "))) for id, _, words in (line.partition(" ") for line in lines))


@cache
def class_names() -> tuple[str, ...]:
    """The first word of each class; where two classes share it (crane, maillot, cardigan), with its WordNet id."""
    count = Counter(words[0].lower() for _, words in synsets())
    return tuple(words[0] if count[words[0].lower()] == 1 else f"{words[0]} ({id})" for id, words in synsets())


@cache
def meanings() -> dict[str, list[int]]:
    """The classes that a WordNet id or a word (lower case) stands for: a few words stand for two."""
    found: dict[str, list[int]] = {}
    for index, (id, words) in enumerate(synsets()):
        for word in dict.fromkeys([id, *(word.lower() for word in words), class_names()[index].lower()]):
            found.setdefault(word, []).append(index)
    return found
