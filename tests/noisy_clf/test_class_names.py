from __future__ import annotations

import pytest

from noisy_clf.class_names import by_number, class_index
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


ODD = ("A", "a", "b, C", "3", "2019", "-7", "index:1")


@pytest.mark.parametrize("text, index", [
    ("A", 0), ("a", 1), ("name:A", 0), ("name: a", 1), ("B, c", 2), ("name:b, c", 2), ("3", 3), ("index:3", 3), ("name:3", 3),
    ("2019", 4), ("name:2019", 4), ("index: 4", 4), ("-7", 5), ("index:1", 1), ("name:index:1", 6), ("2", 2)])
def test_an_exact_name_wins_and_index_and_name_say_which_is_meant(text: str, index: int) -> None:
    assert class_index(text, ODD) == index


def test_a_number_that_is_another_classs_name_is_refused() -> None:
    names = ("1", "2", "3")
    assert [class_index(f"index:{i}", names) for i in range(3)] == [0, 1, 2]
    assert [class_index(f"name:{name}", names) for name in names] == [0, 1, 2]
    assert class_index("0", names) == 0 and class_index("3", names) == 2
    with pytest.raises(UserError, match="^1 is the number of the class called '2', and the name of class number 0; ask for the "
                                        "one with --class index:1, for the other with --class name:1.$"):
        class_index("1", names)
    assert [by_number(i, names) for i in range(3)] == [0, "index:1", "index:2"]
    nameless = ("0", "1", "2")
    assert [class_index(text, nameless) for text in nameless] == [by_number(i, nameless) for i in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("text, names, told", [
    ("ab", ("AB", "Ab"), "'ab' is the name of 2 classes: 0 AB and 1 Ab; give the number.$"),
    ("x", ("5", "x", "x"), "'x' is the name of 2 classes: 1 x and 2 x; give the number.$"),
    ("x", ("1", "x", "x"), "give the number, index:1 or 2.$"),
    ("index:3", ("2", "3", "4"), r"there is no class 3; the classes are 0 to 2 \(2, 3, 4\)"),
    ("index:x", ("x", "y"), "there is no class number 'x'; the classes are 0 to 1"),
    ("name:0", ("x", "y"), "there is no class '0'; the classes are x, y")])
def test_what_names_no_class_or_two_is_refused(text: str, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        class_index(text, names)
