from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from noisy_clf.datasets.csv_file import csv_dataset
from noisy_clf.datasets.images import Dataset, LabelledImages
from noisy_clf.errors import UserError

THREE = "1.png,cat\n2.png,dog\n3.png,cat\n"  # rows that make a dataset


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data/1.png to 30.png, each of a grey of its own."""
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    Path("data").mkdir()
    for i in range(1, 31):
        Image.new("RGB", (2, 2), (i,) * 3).save(f"data/{i}.png")


def dataset(text: str | bytes, channels: int = 3) -> Dataset:
    Path("data/list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return csv_dataset(Path("data/list.csv"), 4, channels)


def named(data: Dataset, part: LabelledImages) -> list[tuple[str, str]]:
    """(file, class name) of each image, by file."""
    paths = part.images.paths  # type: ignore[attr-defined]
    return sorted((os.path.relpath(path, "data"), data.class_names[label]) for path, label in zip(paths, part.labels))


def test_files_and_labels_are_as_listed_and_every_tenth_is_held_out() -> None:
    rows = [(f"{i}.png", "even" if i % 2 == 0 else "odd") for i in range(10, 30)]
    data = dataset("file,label\n" + "".join(f"{file},{label}\n" for file, label in reversed(rows)))
    assert data.class_names == ("even", "odd") and data.train.images.shape == (3, 4, 4)
    assert data.name == os.path.abspath("data/list.csv")
    assert named(data, data.validation) == [("10.png", "even"), ("11.png", "odd")]
    assert named(data, data.train) == rows[2:]
    images, y = data.train.whole()
    assert sorted(zip(images[:, 0, 0, 0].tolist(), y.tolist())) == [(i, i % 2) for i in range(12, 30)]


def test_a_split_is_followed() -> None:
    data = dataset("split,label,file\ntrain,b,1.png\nval,a,2.png\ntrain,a,3.png\nVal,b,4.png\ntest,a,5.png\n", channels=1)
    assert named(data, data.train) == [("1.png", "b"), ("3.png", "a")]
    assert named(data, data.validation) == [("2.png", "a"), ("4.png", "b")]
    assert data.train.images.shape == (1, 4, 4)


@pytest.mark.parametrize("text", [
    "file,label\n" + THREE,
    "\ufefffile,label\n" + THREE,  # a byte order mark
    "file,label\r\n" + THREE.replace("\n", "\r\n"),
    "file,label\r\n" + THREE.replace("\n", "\r\n").strip(),
    "\"file\",\"label\"\n\"1.png\",\"cat\"\n2.png,\"dog\"\n\"3.png\",cat\n",
    "File, LABEL \n 1.png , cat\n./2.png,dog\n\n,\nx/../3.png,cat  \n",
    ",file,label,note\n0,1.png,cat,\n1,2.png,dog,\"a, \"\"b\"\"\nc\"\n2,3.png,cat,x\n",
    "file,label\n" + THREE + THREE,  # each twice
])
def test_a_csv_may_be_written_in_many_ways(text: str) -> None:
    data = dataset(text)
    assert named(data, data.train) == [("2.png", "dog"), ("3.png", "cat")]
    assert named(data, data.validation) == [("1.png", "cat")]


def test_files_may_have_commas_and_folders_and_be_elsewhere(tmp_path: Path) -> None:
    Path("data/deep").mkdir()
    for old, new in (("1.png", "data/a, \"b\".png"), ("2.png", "data/deep/2.png"), ("3.png", "3.png")):
        Path("data", old).rename(new)
    data = dataset(f"file,label\n\"a, \"\"b\"\".png\",x\ndeep/2.png,y\n{tmp_path / '3.png'},x\n4.png,x\n")
    assert {file for part in (data.train, data.validation) for file, _ in named(data, part)} == {
        "a, \"b\".png", "deep/2.png", "../3.png", "4.png"}


def test_labels_that_are_integers_are_sorted_as_numbers() -> None:
    text = "file,label\n" + "".join(f"{i}.png,{i % 12}\n" for i in range(1, 31))
    assert dataset(text).class_names == tuple(map(str, range(12)))
    assert dataset(text.replace("30.png,6", "30.png,x")).class_names == tuple(sorted([*map(str, range(12)), "x"]))


@pytest.mark.parametrize("text, sentence", [
    ("", r"list.csv has the columns \(none\); its first line must name file and label"),
    ("1.png,cat\n2.png,dog\n", "has the columns 1.png, cat; its first line must name file and label"),
    ("file;label\n1.png;cat\n", "has the columns file;label; .* with commas between them"),
    ("file\tlabel\n1.png\tcat\n", r"has the columns file\\tlabel; .* with commas between them"),
    ("file,label,Label\n1.png,cat,cat\n", "has the columns file, label, label; .* each once"),
    ("file,label\n", "list.csv lists no images"),
    ("file,label\n1.png,cat\n2.png\n", "line 3, has 1 fields instead of 2"),
    ("file,label\na,b.png,cat\n", "line 2, has 3 fields instead of 2; a field with a comma in it is put in double quotes"),
    ("file,label\n1.png,cat\n2.png, \n", "line 3, has no label"),
    ("file,label\n,cat\n", "line 2, has no file"),
    ("file,label,split\n1.png,cat,\n", "line 2, has no split"),
    ("file,label,split\n1.png,cat,held out\n", "line 2, has the split held out; a split is train or val"),
    ("file,label,split\n1.png,cat,train\n2.png,dog,train\n", "has the split train only; there must be both train and val"),
    ("file,label,split\n1.png,cat,val\n2.png,dog,test\n", "has the split test and val only"),
    ("file,label,split\n1.png,cat,train\n2.png,dog,train\n3.png,cow,val\n", "images of cow to validate on, but none to train"),
    ("file,label\n1.png,cat\n2.png,dog\n./1.png,dog\n", "gives 1.png the label cat in line 2 and dog in line 4; remove one"),
    ("file,label,split\n1.png,cat,train\n1.png,cat,val\n", "gives 1.png the split train in line 2 and val in line 3"),
    ("file,label\n1.png,cat\nx.png,dog\ny.png,cat\n", "2 of the 3 files that .*list.csv lists are not there, the first x.png "
     "in line 3; files are relative to the CSV's folder"),
    ("file,label\n\"1\n\0.png\",cat\n", r"not there, the first 1\\n\\x00.png in line 3|is not CSV"),
    ("file,label\n1.png,cat\n2.png,cat\n", "list.csv has one class only, cat"),
    ("file,label\n1.png,cat\n2.png,dog\n", "list.csv has no image to validate on"),
    ("file,label\n1.png,\"cat\nx\"\n2.png,dog\n", r"a class with a name that cannot be printed, cat\\nx; rename it"),
    ("file,label\n1.png,\"cat\n2.png,dog\n", "line 3, is not CSV .*unexpected end of data"),
    (f"file,label\n1.png,{'x' * 200_000}\n", "line 2, is not CSV .*field larger than field limit"),
    ("file,label\n".encode("utf-16"), "list.csv is not text in UTF-8; save it as such"),
    ("file,label\n1.png,Käfer\n".encode("latin-1"), "list.csv is not text in UTF-8"),
])
def test_what_is_wrong_in_a_csv_is_told_in_one_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        dataset(text)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("path, sentence", [("data/none.csv", "none.csv: No such file"), ("data", "data: Is a directory")])
def test_a_csv_that_cannot_be_read_is_told(path: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        csv_dataset(Path(path), 4)


def test_the_source_tells_which_files_there_are_and_their_classes_but_not_which_are_damaged() -> None:
    sources = [dataset("file,label\n" + THREE).source]
    assert sources[0].startswith("files ")
    sources.append(dataset("file,label\n" + THREE.replace("cat", "cow")).source)
    sources.append(dataset("file,label\n" + THREE + "4.png,dog\n").source)
    Path("data/2.png").write_bytes(b"none")
    assert len(set(sources)) == 3 and dataset("file,label\n" + THREE + "4.png,dog\n").source == sources[2]
