from __future__ import annotations

import pytest

from noisy_clf.class_names import class_index
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError

NAMES = ("Tench", "goldfish", "great white shark", "tiger shark")
MANY = tuple(f"class-{i}" for i in range(1000))


@pytest.mark.parametrize("text, index", [
    ("0", 0), ("3", 3), (" 2 ", 2), ("goldfish", 1), ("GoldFish", 1), ("tench", 0), (" tiger shark", 3)])
def test_a_class_is_found_by_number_and_by_name_in_any_case(text: str, index: int) -> None:
    assert class_index(text, NAMES) == index


def test_digits_classes_are_their_names(classifier: NoisyClassifier) -> None:
    assert [class_index(name, classifier.class_names) for name in classifier.class_names] == list(range(10))


@pytest.mark.parametrize("text", ["4", "-1", "1000"])
def test_a_number_out_of_range_is_answered_with_the_range_and_the_names(text: str) -> None:
    with pytest.raises(UserError, match=rf"no class {text}; the classes are 0 to 3 \(Tench, goldfish, .*tiger shark\)"):
        class_index(text, NAMES)


def test_a_number_out_of_a_long_range_is_answered_without_names() -> None:
    with pytest.raises(UserError, match="no class 1000; the classes are 0 to 999.$"):
        class_index("1000", MANY)


@pytest.mark.parametrize("text, hint", [
    ("goldfisch", "did you mean goldfish"), ("TENC", "did you mean Tench"), ("shark tiger", "tiger shark"),
    ("zebra", "the classes are Tench, goldfish, great white shark, tiger shark, or 0 to 3"), ("", "the classes are")])
def test_an_unknown_name_is_answered_with_the_nearest_or_with_all(text: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"no class '{text}'; .*{hint}"):
        class_index(text, NAMES)


def test_an_unknown_name_among_many_is_answered_with_the_first_and_the_last() -> None:
    with pytest.raises(UserError, match="no class 'zebra'; the classes are 0 to 999, class-0 to class-999"):
        class_index("zebra", MANY)


@pytest.mark.parametrize("text", ["--3", "²", "1.5", "3-", "-"])
def test_what_only_looks_like_a_number_is_refused_as_a_name(text: str) -> None:
    with pytest.raises(UserError, match="no class '"):
        class_index(text, NAMES)
