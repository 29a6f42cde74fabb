"""Classes whose names are numbers, or words that --class has a meaning for."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guided_sample.labels import Labels, plain, spelled_out, word_of
from noisy_clf.errors import UserError
from tests.commands import assert_refused, contents, run
from tests.conftest import stored, tiny_classifier, tiny_denoiser


def guided_by_classes(*names: str) -> list[object]:
    """A command that samples of classes so called; two each."""
    classifier = stored(tiny_classifier(names=names), Path("classifier"))
    advice = {"classifier": str(classifier), "scale": 2.0, "steps": {"ddpm": "5"}}
    return ["--model", stored(tiny_denoiser(), Path("denoiser"), sampling=advice), "--num-samples", 2]


def drawn(command: list[object], *more: object, out: str) -> tuple[list[int], list[Any]]:
    """(the labels, the manifest's class)"""
    result = run(*command, *more, "--out", out)
    assert result.exit_code == 0, result.output
    return (np.load(f"{out}/samples.npz")["arr_1"].tolist(),
            json.loads(Path(out, "manifest.json").read_text())["request"]["class"])


def test_classes_called_by_numbers():
    command = guided_by_classes("1", "2", "3")
    assert_refused(run(*command, "--class", "1"), "1 is the number of the class called '2', and the name of class number 0; "
                   "ask for the one with --class index:1, for the other with --class name:1.")
    assert drawn(command, "--class", "index:1", out="by-index") == ([1, 1], ["index:1"])
    assert drawn(command, "--class", "name:1", out="by-name") == ([0, 0], [0])
    assert drawn(command, "--class", "3", out="three") == ([2, 2], ["index:2"])
    assert drawn(command, "--class", "index:0,name:3", out="list") == ([0, 2], [0, "index:2"])
    assert "0/0" in run(*command, "--class", "name:2", "--out", "by-index").output  # the same request by other words


@pytest.mark.parametrize("text, refused", [("class = 1", True), ("class = [1, 2]", True), ('class = "1"', True),
                                           ('class = "name:2"', False), ('class = ["index:1"]', False)])
def test_a_files_numbers_are_as_ambiguous_as_flags(text: str, refused: bool):
    command = guided_by_classes("1", "2", "3")
    Path("request.toml").write_text(text)
    if refused:
        assert_refused(run(*command, "--request", "request.toml"), "--class index:1", "--class name:1")
    else:
        assert drawn(command, "--request", "request.toml", out="out")[0] == [1, 1]


def test_what_a_dry_run_and_a_manifest_tell_draws_the_same_again():
    command = guided_by_classes("1", "2", "3")
    drawn(command, "--class", "name:3,index:0", out="first")
    Path("told.toml").write_text(run(*command, "--class", "name:3,index:0", "--dry-run", "--out", "x").output)
    for file in ("told.toml", "first/manifest.json"):
        drawn([], "--request", file, out=f"by-{file[:4]}")
        assert contents(Path(f"by-{file[:4]}")) == contents(Path("first"))


def test_an_older_manifests_numbers_are_numbers_and_its_folder_goes_on():
    command = guided_by_classes("1", "2", "3")
    drawn(command, "--class", "index:1", out="old")
    manifest = json.loads(Path("old/manifest.json").read_text())
    manifest["request"]["class"] = [1]  # as releases wrote it that knew no index:
    Path("old/manifest.json").write_text(json.dumps(manifest))
    assert drawn([], "--request", "old/manifest.json", out="again") == ([1, 1], ["index:1"])
    result = run(*command, "--class", "index:1", "--out", "old")
    assert result.exit_code == 0 and "0/0" in result.output, result.output
    assert_refused(run(*command, "--class", "name:1", "--out", "old"),
                   "old holds another run's results (class [1] there, [0] now)")


@pytest.mark.parametrize("word, meaning", [("all", "all classes in turn"), ("random", "classes at random"),
                                           ("none", "no class")])
def test_a_class_called_like_a_word_of_ours(word: str, meaning: str):
    command = guided_by_classes("apple", word, "plum")
    assert_refused(run(*command, "--class", word), f"{word} is the name of class 1, and also means {meaning}; ask for the one "
                   f"with --class name:{word}, for the other with --class word:{word}.")
    assert drawn(command, "--class", f"name:{word}", out="class") == ([1, 1], [1])
    assert drawn(command, "--class", f"name:{word},0", out="list") == ([1, 0], [1, 0])
    labels, told = drawn(command, "--class", f"word:{word}", "--seed", 3, out="word")
    assert told == ([0, 1, 2] if word == "all" else [f"word:{word}"])
    assert drawn([], "--request", "word/manifest.json", out="again") == (labels, told)
    manifest = json.loads(Path("word/manifest.json").read_text())
    if word != "all":
        manifest["request"]["class"] = [word]  # as older releases wrote it
        Path("word/manifest.json").write_text(json.dumps(manifest))
        assert drawn([], "--request", "word/manifest.json", out="old") == (labels, told)
        assert "0/0" in run(*command, "--class", f"word:{word}", "--seed", 3, "--out", "word").output


def test_all_classes_are_the_default_though_one_is_called_all():
    command = guided_by_classes("all", "pear")
    assert drawn(command, out="out") == ([0, 1], [0, 1])


def test_words_with_prefixes_mean_what_they_mean_without(denoiser_folder: Path):
    command = ["--model", denoiser_folder, "--num-samples", 2]
    assert drawn(command, "--class", "word:none", out="none") == ([-1, -1], ["none"])
    assert drawn(command, "--class", "word:all", out="all")[1] == [0, 1, 2]
    assert_refused(run(*command, "--class", "word:none", "--scale", 2), "--class none asks for no class")
    assert_refused(run(*command, "--class", "word:all", "--class", 1), "--class word:all goes with no other",
                   "a class of that name: name:all")
    assert_refused(run(*command, "--class", "word:pear"), "no class 'word:pear'")


def test_the_default_folder_tells_the_class_without_prefix():
    command = guided_by_classes("1", "2", "3")
    assert run(*command, "--class", "index:1").exit_code == run(*command, "--class", "word:none").exit_code == 0
    folders = sorted(path.name.split("-scale")[0] for path in Path("samples").iterdir())
    assert folders == ["denoiser-class-1", "denoiser-class-none"]


def test_names_with_commas_and_in_two_cases():
    names = ("a, b", "A", "a", "index")
    assert Labels.of(("name:a, b",), names).classes == Labels.of(("A, B",), names).classes == (0,)
    assert Labels.of(("a,A",), names).classes == (2, 1)
    assert Labels.of(("name:A", "index:2,name:index"), names).classes == (1, 2, 3)
    with pytest.raises(UserError, match="'b' is the name of 2 classes: 1 b and 2 b"):
        Labels.of(("a,b",), ("a", "b", "b"))


def test_a_resolved_requests_classes_are_spelled_out_and_made_plain_again():
    classes = (0, "index:1", "random", "word:none")
    assert spelled_out(classes) == ("index:0", "index:1", "word:random", "word:none")
    assert plain(spelled_out(classes)) == plain(classes) == [0, 1, "random", "none"]
    assert plain(("name:1", "index:x", "1")) == ["name:1", "index:x", "1"]
    assert [word_of(one) for one in ("all", ["none"], ("word:random",), ["all", 1], (), 0, None)] == [
        "all", "none", "random", None, None, None, None]
