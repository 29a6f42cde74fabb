"""Several classes asked for at once, with a weight each: how they are said, told again, and kept apart."""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from guided_sample.folder import RunFolder
from guided_sample.labels import Labels, Wish, plain, spelled_out
from guided_sample.manifest import Manifest
from guided_sample.request import Request, read_request
from guided_sample.run import columns_of
from noisy_clf.errors import UserError
from tests.commands import assert_refused, contents, run

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ODD = ("a, b", "a", "b=1", "3", "index:1=1,index:2=2", "all")  # names that look like something else
NOT_AN_EIGHT = Wish(((3, 1.0), (8, -0.5)))


def classes(*wanted: str | int, names: tuple[str, ...] = DIGITS) -> tuple[int | Wish, ...]:
    return Labels.of(wanted, names).classes


@pytest.mark.parametrize("text, expected", [
    ("3=1,8=1", (Wish(((3, 1.0), (8, 1.0))),)),
    ("3=1,8=-0.5", (NOT_AN_EIGHT,)),
    (" three = 1 , EIGHT = -.5 ", (NOT_AN_EIGHT,)),
    ("name:three=1e0,index:8=-5e-1", (NOT_AN_EIGHT,)),
    ("8=-0.5,3=1", (Wish(((8, -0.5), (3, 1.0))),)),
    ("3=2", (Wish(((3, 2.0),)),)),
    ("3=-1", (Wish(((3, -1.0),)),)),
    ("3=1", (3,)), ("3=1,8=0", (3,)),  # one plain class, by other words
    ("3,8", (3, 8))])
def test_what_is_asked_for(text: str, expected: tuple[int | Wish, ...]) -> None:
    assert classes(text) == expected


def test_several_flags_are_in_turn() -> None:
    labels = Labels.of(("3=1,8=-0.5", "5,6", 7), DIGITS)
    assert labels.classes == (NOT_AN_EIGHT, 5, 6, 7) and labels.has_weights
    assert [labels.wish_of(index, 0) for index in (0, 4, 5)] == [NOT_AN_EIGHT, NOT_AN_EIGHT, Wish(((5, 1.0),))]
    assert [labels.of_sample(index, 0) for index in range(5)] == [3, 5, 6, 7, 3]


def test_every_sample_has_a_wish_unless_none_is_asked_for() -> None:
    assert Labels().wish_of(0, 0) is None and Labels().wishes == ()
    everything, chance = Labels.of(("all",), DIGITS), Labels.of(("random",), DIGITS)
    assert everything.wishes == chance.wishes == tuple(Wish(((k, 1.0),)) for k in range(10))
    assert not everything.has_weights and not chance.has_weights
    drawn = [chance.of_sample(index, 5) for index in range(20)]
    assert [chance.wish_of(index, 5) for index in range(20)] == [Wish(((k or 0, 1.0),)) for k in drawn] and len(set(drawn)) > 4


@pytest.mark.parametrize("text, label", [("3=1,8=1", None), ("3=1,8=0.5", 3), ("3=0.5,8=1,5=-3", 8), ("3=-1", None),
                                         ("3=1,8=1,5=2", 5), ("3=2", 3)])
def test_the_label_is_the_one_class_that_most_is_asked_for(text: str, label: int | None) -> None:
    assert Labels.of((text,), DIGITS).of_sample(0, 0) == label


@pytest.mark.parametrize("text, expected", [
    ("a, b", (0,)), ("name:b=1", (2,)), ("B=1", (2,)), ("a,b=1", (1, 2)), ("name:a,name:b=1", (1, 2)),
    ("a, b=2,a=1", (Wish(((0, 2.0), (1, 1.0))),)), ("a=1,a, b=2", (Wish(((1, 1.0), (0, 2.0))),)),
    ("b=1=2,a=1", (Wish(((2, 2.0), (1, 1.0))),)), ("name:b=1=2", (Wish(((2, 2.0),)),)),
    ("name:3=1,index:4=1", (Wish(((3, 1.0), (4, 1.0))),)), ("name:all=2", (Wish(((5, 2.0),)),)),
    ("name:index:1=1,index:2=2", (4,)), ("index:1=1,index:2=2", (Wish(((1, 1.0), (2, 2.0))),))])
def test_names_that_look_like_something_else(text: str, expected: tuple[int | Wish, ...]) -> None:
    assert classes(text, names=ODD) == expected


@pytest.mark.parametrize("text, words", [
    ("3=1,8", "'8' has no weight in --class 3=1,8, where others have one; give it one (8=1), or, to draw in turn"),
    ("3,8=1", "'3' has no weight"), ("3=1,", "'' has no weight"),
    ("3=1,8=-1", "the weights of --class 3=1,8=-1 sum to 0"), ("3=0", "sum to 0"), ("3=0.1,5=0.2,8=-0.3", "sum to 0"),
    ("3=1,three=2", "gives class 3 (three) two weights"),
    ("3=1,tree=1", "there is no class 'tree'; did you mean three"), ("3=1,10=1", "there is no class 10; the classes are 0"),
    ("index:3=1,index:x=1", "there is no class number 'x'"),
    ("3=nan,8=1", "3=nan has a weight that is no finite number"), ("3=1e999", "no finite number"),
    ("3=much", "'much' is no weight such as 1 or -0.5, and there is no class '3=much'"),
    ("name:three=x", "'x' is no weight such as 1 or -0.5, and there is no class 'three=x'; did you mean three"),
    ("3=", "'' is no weight"), ("=1", "there is no class ''"),
    ("all=1", "--class all goes with no other"), ("3=1,word:none=1", "--class word:none goes with no other"),
    ("3=1,random=1", "--class random goes with no other")])
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(UserError) as told:
        classes(text)
    assert words in str(told.value) and str(told.value)[-1] in ".?" and ". " not in str(told.value)


def test_a_word_of_ours_that_is_a_name_is_asked_about() -> None:
    with pytest.raises(UserError, match="all is the name of class 5, and also means all classes in turn"):
        classes("all=1,a=1", names=ODD)
    with pytest.raises(UserError, match="'b=1' has no weight.* give it one .b=1=1."):
        classes("a=1,b=1", names=ODD)
    with pytest.raises(UserError, match="'hig' is no weight .*, and there is no class 'lr=hig'; did you mean lr=high?"):
        classes("name:lr=hig", names=("lr=high", "x"))


WISHES = [(NOT_AN_EIGHT,), (0, Wish(((1, 1 / 3), (2, -1e-7), (4, 1e22))), 5), (Wish(((1, 1.0), (2, 2.0))),), (3, 4)]


@pytest.mark.parametrize("asked", WISHES)
@pytest.mark.parametrize("names", [DIGITS, (*ODD, "0", "1", "2"), tuple(reversed("0123456789"))])
def test_a_resolved_request_says_the_same_whatever_the_classes_are_called(asked: tuple[int | Wish, ...],
                                                                          names: tuple[str, ...]) -> None:
    names = (*names, *("x",) * (10 - len(names)))
    told = Labels(asked, names=names).asked(("whatever",), names)
    for others in (names, DIGITS, names[::-1]):  # a manifest's, read for another classifier too
        assert Labels.of(spelled_out(told), others).classes == asked
    assert Labels.of(told, names).classes == asked
    assert Request.of(json.loads(json.dumps({"class": told}))).classes == told


def test_what_is_told_and_compared_has_no_prefixes() -> None:
    told = Labels((NOT_AN_EIGHT, 4), names=DIGITS).asked(("x",), DIGITS)
    assert told == ("index:3=1,index:8=-0.5", 4) and plain(told) == ["3=1,8=-0.5", 4]
    assert plain(("name:3=1", "index:x=1", "b,index:c")) == ["name:3=1", "index:x=1", "b,index:c"]
    texts = {str(plain(Labels((wish,), names=DIGITS).asked(("x",), DIGITS))) for wish in (
        NOT_AN_EIGHT, Wish(((3, 1.0), (8, 0.5))), Wish(((3, 1.0), (8, 0.5000000001))), Wish(((3, 1.0), (8, 5.0))))}
    assert len(texts) == 4


def test_a_wish_in_words_and_in_json() -> None:
    assert NOT_AN_EIGHT.text(DIGITS) == "three=1,eight=-0.5" and NOT_AN_EIGHT.told == {"3": 1.0, "8": -0.5}
    one = Wish(((3, 1.0),))
    assert one.plain and one.text(DIGITS) == "three" and one.told == 3
    assert not Wish(((3, 2.0),)).plain and Wish(((3, 2.0),)).text(DIGITS) == "three=2"


@pytest.mark.parametrize("name, text", [
    ("request.toml", 'class = [{three = 1, eight = -0.5}, "5", 6, "3=1,8=1"]'),
    ("request.json", '{"class": [{"three": 1, "eight": -0.5}, "5", 6, {"3": 1.0, "index:8": 1}]}')])
def test_a_file_gives_each_sample_a_table(name: str, text: str) -> None:
    Path(name).write_text(text)
    asked = Request.of(read_request(Path(name))[0]).classes
    assert classes(*asked) == (NOT_AN_EIGHT, 5, 6, Wish(((3, 1.0), (8, 1.0))))


def test_a_table_alone_and_its_awkward_names() -> None:
    assert classes(*Request.of({"class": {"three": 1, "eight": -0.5}}).classes) == (NOT_AN_EIGHT,)
    tables = Request.of({"class": [{"a, b": 1, "b=1": 2}, {"a": 1}]}).classes
    assert classes(*tables, names=ODD) == (Wish(((0, 1.0), (2, 2.0))), 1)


@pytest.mark.parametrize("key, table, words", [
    ("class", {"three": "1"}, "class: three = '1' is no weight; give a number, as in {three = 1, eight = -0.5}."),
    ("class", {"three": True}, "three = True is no weight"), ("class", [{"three": [1]}], "three = [1] is no weight"),
    ("guide", {"three": 1}, "guide: {'three': 1} is neither text nor a list of it")])
def test_tables_that_are_no_wishes(key: str, table: Any, words: str) -> None:
    with pytest.raises(UserError) as told:
        Request.of({key: table})
    assert words in str(told.value)


def test_many_weights_of_many_names_are_read_at_once() -> None:
    names = tuple(f"class {k}, number {k}" for k in range(300))
    wish, = classes(",".join(f"{name}={k + 1}" for k, name in enumerate(names)), names=names)
    assert isinstance(wish, Wish) and wish.weights == tuple((k, k + 1.0) for k in range(300))


def columns(labels: Labels, image_size: int, num_samples: int = 32) -> tuple[int, tuple[str, ...]]:
    plan: Any = SimpleNamespace(labels=labels, request=Request(), denoiser=SimpleNamespace(image_size=image_size))
    found = columns_of(plan, num_samples)
    return found.number, found.headings


def test_the_grid_has_a_column_for_each_wish() -> None:
    asked = Labels((NOT_AN_EIGHT, 5, Wish(((3, 1.0), (8, 1.0)))), names=DIGITS)
    assert columns(asked, 16) == (3, ("3=1,8=-0.5", "five", "3=1,8=1"))
    assert columns(asked, 256) == (3, ("three=1,eight=-0.5", "five", "three=1,eight=1"))
    assert columns(asked, 16, num_samples=2) == (2, ("3=1,8=-0.5", "five"))
    assert columns(Labels((NOT_AN_EIGHT, 1), names=("a", "\xe9", *"cdefghij")), 256)[1] == ("d=1,i=-0.5", "1")
    assert columns(Labels(K=10, names=DIGITS), 16) == (6, ()) and columns(Labels((NOT_AN_EIGHT,), names=DIGITS), 16) == (6, ())


def test_a_line_that_tells_another_wish_is_no_finished_sample() -> None:
    lines: list[dict[str, Any]] = [
        {"index": 0, "class": 3, "wish": {"3": 1.0, "8": -0.5}}, {"index": 1, "class": 5}, {"index": 2, "class": 3},
        {"index": 3, "class": None, "wish": {"3": 1.0, "8": 1.0}}, {"index": 4, "class": 3, "wish": {"3": 1.0, "8": 0.5}},
        {"index": 5, "class": 3, "wish": {"3": 1, "8": -0.5}}, {"index": 6, "wish": {"3": 1.0, "8": -0.5}}]
    for line in lines:
        Path(f"{line['index']:06d}.png").touch()
    Path("samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = [NOT_AN_EIGHT, Wish(((5, 1.0),)), NOT_AN_EIGHT, Wish(((3, 1.0), (8, 1.0))), *[NOT_AN_EIGHT] * 3]
    folder = RunFolder(Path("."), (1, 8, 8), Manifest({}, {}, {}), lambda manifest: {}, {},
                       lambda indices: [asked[index].told for index in indices])
    folder.look()
    assert sorted(folder.lines) == [0, 1, 3]


# as people type it


def sampled(denoiser_folder: Path, *arguments: object, out: str = "out") -> list[dict[str, Any]]:
    result = run("--model", denoiser_folder, "--num-samples", 4, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in Path(out, "samples.jsonl").read_text().splitlines()]


def test_a_runs_lines_labels_and_manifest(denoiser_folder: Path) -> None:
    lines = sampled(denoiser_folder, "--class", "apple=1,plum=-0.5", "--class", "pear", "--class", "apple=1,pear=1")
    told = [{key: line[key] for key in ("class", "class_name", "wish") if key in line} for line in lines]
    assert told == [{"class": 0, "class_name": "apple=1,plum=-0.5", "wish": {"0": 1.0, "2": -0.5}},
                    {"class": 1, "class_name": "pear"},
                    {"class": None, "class_name": "apple=1,pear=1", "wish": {"0": 1.0, "1": 1.0}}, told[0]]
    assert np.load("out/samples.npz")["arr_1"].tolist() == [0, 1, -1, 0]
    request = json.loads(Path("out/manifest.json").read_text())["request"]
    assert request["class"] == ["index:0=1,index:2=-0.5", 1, "index:0=1,index:1=1"]
    assert run("--request", "out/manifest.json", "--out", "again").exit_code == 0
    assert contents(Path("again")) == contents(Path("out"))
    Path("told.toml").write_text(run("--request", "out/manifest.json", "--dry-run", "--out", "x").output)
    assert run("--request", "told.toml", "--out", "third").exit_code == 0
    assert contents(Path("third")) == contents(Path("out"))


def test_a_run_goes_on_with_its_wish_and_no_other(denoiser_folder: Path) -> None:
    command = ["--model", denoiser_folder, "--num-samples", 4, "--out", "out", "--class"]
    sampled(denoiser_folder, "--class", "apple=1,plum=-0.5")
    Path("out/000002.png").unlink()
    assert "1/1" in run(*command, "index:0=1.0,2=-.5").output  # the same by other words
    assert_refused(run(*command, "apple=1,plum=-0.25"),
                   "out holds another run's results (class ['0=1,2=-0.5'] there, ['0=1,2=-0.25'] now)")
    assert_refused(run(*command, "apple"), "out holds another run's results")


def test_wishes_change_the_images_and_one_by_itself_is_what_it_is_among_others(denoiser_folder: Path) -> None:
    sampled(denoiser_folder, "--class", "apple=1,plum=-0.5", out="one")
    sampled(denoiser_folder, "--class", "apple", out="apple")
    sampled(denoiser_folder, "--class", "apple=1,plum=-0.5", "--class", "pear", "--batch-size", 1, out="turn")
    pixels = {out: np.load(f"{out}/samples.npz")["arr_0"].astype(int) for out in ("one", "apple", "turn")}
    assert (pixels["one"] != pixels["apple"]).any() and abs(pixels["one"][::2] - pixels["turn"][::2]).max() <= 1


def test_default_folders_of_different_wishes_differ(denoiser_folder: Path) -> None:
    for text in ("apple=1,plum=0.5", "apple=1,plum=-0.5", "apple=1, plum= 0.5", "0=2,1=1"):
        assert run("--model", denoiser_folder, "--num-samples", 1, "--class", text).exit_code == 0, text
    names = {path.name.split("-class-")[1].split("-scale")[0] for path in Path("samples").iterdir()}
    assert len(names) == 3 and not set("".join(names)) & set(" ,/:"), names
