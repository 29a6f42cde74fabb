from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisy_clf import imagenet
from noisy_clf.datasets import folders, image_files
from noisy_clf.datasets.folders import class_folders, hold_out, imagenet_folders, in_order
from noisy_clf.datasets.image_files import decoded
from noisy_clf.datasets.images import Dataset, LabelledImages
from noisy_clf.errors import UserError

IDS = [id for id, _ in imagenet.synsets()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(*names: str, root: str = "data") -> Path:
    """A 2x2 picture in each file, of a grey that the file's number tells."""
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int("".join(filter(str.isdigit, path.stem)) or 0)
        Image.new("RGB", (2, 2), (number,) * 3).save(path)
    return Path(root)


def files(part: LabelledImages) -> list[tuple[str, int]]:
    """(path below data/, label) of each image."""
    paths = part.images.paths  # type: ignore[attr-defined]
    return [(os.path.relpath(path, "data"), label) for path, label in zip(paths, part.labels.tolist())]


def whole(data: Dataset) -> set[str]:
    return {path for part in (data.train, data.validation) for path, _ in files(part)}


def test_folders_are_classes_and_every_tenth_image_is_held_out() -> None:
    data = class_folders(pictures(*(f"{name}/{i:02}.png" for name in ("dog", "cat") for i in range(12))), 4)
    assert data.class_names == ("cat", "dog") and data.name == os.path.abspath("data")
    assert files(data.validation) == [("cat/00.png", 0), ("cat/10.png", 0), ("dog/00.png", 1), ("dog/10.png", 1)]
    assert files(data.train) == [(f"{name}/{i:02}.png", label) for label, name in enumerate(("cat", "dog"))
                                 for i in range(12) if i not in (0, 10)]
    assert (data.image_size, data.channels) == (4, 3) and data.train.labels.dtype == data.validation.labels.dtype
    images, y = data.train.whole()
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11] * 2 and y.tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("count, held_out", [(1, 0), (2, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_a_tenth_of_a_class_is_held_out_but_never_all(count: int, held_out: int) -> None:
    paths = [str(i) for i in range(count)]
    kept, validation = (part["a"] for part in hold_out({"a": paths}))
    assert len(validation) == held_out and sorted(kept + validation) == sorted(paths) and set(kept).isdisjoint(validation)


def test_one_channel_is_grey() -> None:
    data = class_folders(pictures("a/7.png", "a/8.png", "b/9.png"), 4, channels=1)
    images, _ = data.train.whole()
    assert images.shape == (2, 1, 4, 4) and np.unique(images[0]) == [8]


def test_validation_of_its_own_follows_the_classes_of_training() -> None:
    data = class_folders(pictures("train/a/1.png", "train/b/2.png", "train/c/3.png", "val/c/4.png", "val/b/5.png"), 4)
    assert data.class_names == ("a", "b", "c")
    assert files(data.train) == [("train/a/1.png", 0), ("train/b/2.png", 1), ("train/c/3.png", 2)]
    assert files(data.validation) == [("val/b/5.png", 1), ("val/c/4.png", 2)]


def test_a_class_to_validate_on_that_is_not_trained_on_is_refused() -> None:
    root = pictures("train/a/1.png", "train/b/2.png", "val/a/4.png", "val/B/5.png")
    with pytest.raises(UserError, match="images of B to validate on, but none to train on; the classes are a, b."):
        class_folders(root, 4)
    (root / "val/B/5.png").unlink()  # an empty folder is no harm
    assert len(class_folders(root, 4).validation) == 1


@pytest.mark.parametrize("there, taken", [
    (("val", "validation", "test"), "val"), (("test", "validation"), "validation"), (("valid", "test"), "valid"),
    (("test",), "test")])
def test_the_first_of_several_folders_to_validate_on_is_taken(there: tuple[str, ...], taken: str) -> None:
    data = class_folders(pictures("train/a/1.png", "train/b/2.png", *(f"{name}/a/3.png" for name in there)), 4)
    assert files(data.validation) == [(f"{taken}/a/3.png", 0)]


@pytest.mark.parametrize("names", [("train",), ("Training", "Testing"), ("test", "val"), ("Train", "Val")])
def test_parts_of_a_dataset_are_not_taken_for_classes(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"/data has {', '.join(sorted(names))}, which are no classes; name them train and val"):
        class_folders(pictures(*(f"{name}/{label}/1.png" for name in names for label in "ab")), 4)


def test_a_class_may_be_named_train_among_others() -> None:
    assert class_folders(pictures("car/1.png", "car/2.png", "train/3.png"), 4).class_names == ("car", "train")


def test_all_below_a_class_is_found_but_for_what_is_hidden_or_no_image(capfd: pytest.CaptureFixture[str]) -> None:
    root = pictures("a/1.png", "a/deep/er/2.JPG", "a/x.jpg/3.bmp", "b/4.png", ".hidden/5.png", "__MACOSX/6.png", "7.png")
    for name in ("a/.DS_Store", "a/._1.png", "a/Thumbs.db", "a/labels.csv", "a/deep/notes.txt", "readme.md"):
        (root / name).write_text("x")
    assert whole(class_folders(root, 4)) == {"a/1.png", "a/deep/er/2.JPG", "a/x.jpg/3.bmp", "b/4.png"}
    assert f"1 images in {root.absolute()} are in no class's folder and are left out" in capfd.readouterr().err


def test_links_are_followed_but_not_in_circles() -> None:
    root = pictures("a/1.png", "b/2.png", "elsewhere/3.png", "elsewhere/deep/4.png", root="real")
    links = Path("data")
    (links / "b").mkdir(parents=True)
    (links / "a").symlink_to(Path("../real/a"))
    (links / "b" / "far").symlink_to(root.absolute() / "elsewhere")
    (links / "b" / "file.png").symlink_to(root.absolute() / "b/2.png")
    for name, target in (("self", "."), ("up", ".."), ("down", "far/deep"), ("top", "/"), ("loop", "loop"), ("gone", "gone2")):
        (links / "b" / name).symlink_to(target)
    assert whole(class_folders(links, 4)) == {"a/1.png", "b/far/3.png", "b/far/deep/4.png", "b/file.png"}


def test_a_very_deep_folder_is_searched_to_its_end() -> None:
    name = "/".join(["d"] * 300)
    data = class_folders(pictures("b/1.png", f"a/{name}/2.png", "a/3.png"), 4)
    assert whole(data) == {"b/1.png", f"a/{name}/2.png", "a/3.png"}


@pytest.mark.parametrize("names, sentence", [
    ([], "data has no class folders; put the images of each class into a folder named after it"),
    (["1.png"], "data has no class folders"),
    (["train/1.png", "val/2.png"], "data/train has no class folders"),
    (["train/a/1.png", "train/b/1.png", "val/2.png"], "data/val has no class folders"),
    (["a/1.png"], "data has one class only, a; there must be two or more"),
    (["a/1.png", "b/2.png"], "data has no image to validate on that can be used"),
    (["a/1.png", "a/2.png", "b\n/3.png"], r"a name that cannot be printed, b\\n; rename it"),
])
def test_what_makes_no_dataset_is_refused(names: list[str], sentence: str) -> None:
    Path("data").mkdir()
    with pytest.raises(UserError, match=sentence) as error:
        class_folders(pictures(*names), 4)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_class_without_an_image_is_refused() -> None:
    root = pictures("a/1.png", "a/2.png", "b/3.png", "b/4.png")
    (root / "c").mkdir()
    (root / "d").mkdir()
    with pytest.raises(UserError, match=r"data: class c \(and 1 more\) has no image; add some, or remove it"):
        class_folders(root, 4)


@pytest.mark.parametrize("bad, sentence", [
    (["c/2.png", "c/3.png"], "data: class c has no image to train on that can be used (/.*/c/3.png: it is empty); add some"),
    (["a/1.png", "b/1.png", "c/1.png"], "data has no image to validate on that can be used (/.*/c/1.png: it is empty); add"),
])
def test_what_has_no_usable_image_is_told_before_any_is_read(bad: list[str], sentence: str) -> None:
    root = pictures(*(f"{name}/{i}.png" for name in "abc" for i in (1, 2, 3)))
    for name in bad:
        assert class_folders(root, 4)  # while there are others
        (root / name).write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(sentence).replace(re.escape(".*"), ".*")):
        class_folders(root, 4)


def test_of_each_class_no_more_is_decoded_than_until_one_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    root, seen = pictures(*(f"{name}/{i:02}.png" for name in "abcdefg" for i in range(20))), list[str]()
    for name in ("a/01.png", "a/02.png"):
        (root / name).write_bytes(b"none")

    def remember(path: str) -> Image.Image:
        seen.append(os.path.relpath(path, root))
        return decoded(path)

    monkeypatch.setattr(image_files, "decoded", remember)
    class_folders(root, 4)
    assert sorted(seen) == sorted([*(f"{name}/01.png" for name in "abcdefg"), "a/02.png", "a/03.png", "a/00.png"])
    seen.clear()
    monkeypatch.setattr(folders, "MOST_TRIED", 3)
    class_folders(root, 4)
    assert sorted(seen) == ["a/00.png", "a/01.png", "a/02.png", "a/03.png", "d/01.png", "g/01.png"]


def test_what_the_first_release_left_out_stays_left_out_until_it_changes(cache: Path) -> None:
    """It decoded each file before training, and wrote this record."""
    root = pictures(*(f"{name}/{i:02}.png" for name in "ab" for i in range(12)))
    for name in ("a/00.png", "a/05.png", "b/10.png"):
        (root / name).write_bytes(b"none")
    assert len(class_folders(root, 4).train) == 24 - 4
    (cache / "checked").mkdir(parents=True)
    name = f"data-{hashlib.sha256(f'1 {root.absolute()}'.encode()).hexdigest()[:12]}.jsonl"
    lines = [json.dumps([str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns,
                         "it is none" * (path.stat().st_size == 4)]) for path in sorted(root.rglob("*.png"))]
    (cache / "checked" / name).write_text("\n".join(["torn", *lines, '["a/00.png", 4'[:9]]))
    data = class_folders(root, 4)
    assert [path for path, _ in files(data.validation)] == ["a/01.png", "b/00.png", "b/11.png"]
    assert len(data.train) == 24 - 3 - 3
    pictures("a/05.png")
    assert whole(class_folders(root, 4)) - whole(data) == {"a/05.png"}


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/nowhere: No such file or directory"):
        class_folders(tmp_path / "nowhere", 4)


def test_the_source_tells_which_images_there_are_and_which_class_they_have() -> None:
    root = pictures("a/1.png", "a/2.png", "b/3.png")
    sources = [class_folders(root, size).source for size in (4, 8)]
    assert sources[0] == sources[1] and sources[0].startswith("files ")
    (root / "b/3.png").rename(root / "b/4.png")
    sources.append(class_folders(root, 4).source)
    (root / "b/4.png").write_bytes(b"none")
    pictures("b/5.png")
    sources.append(class_folders(root, 4).source)
    (root / "a/2.png").rename(root / "b/2.png")
    pictures("a/6.png")
    sources.append(class_folders(root, 4).source)
    assert len(set(sources)) == 4


@pytest.mark.parametrize("names, order", [
    ("10 9 2 1", "1 2 9 10"), ("-1 0 +1 -10", "-10 -1 0 +1"), ("b a B 10 9", "10 9 B a b"), ("1.5 10 9", "1.5 10 9")])
def test_names_that_are_numbers_are_sorted_as_such(names: str, order: str) -> None:
    assert in_order(names.split()) == order.split()


def test_wordnet_ids_are_called_by_their_words() -> None:
    data = class_folders(pictures("n02099601/1.png", "n02099601/2.png", "n01440764/3.png", "n00000001/4.png"), 4)
    assert data.class_names == ("n00000001", "tench", "golden retriever")
    assert files(data.validation) == [("n02099601/1.png", 2)]


@pytest.fixture(scope="module")
def all_of_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each class to train on, and one to validate on."""
    root = tmp_path_factory.mktemp("all")
    picture = pictures("0.png", root=str(root / "one")).absolute() / "0.png"
    for part in ("train", "val"):
        for id in IDS:
            (root / "data" / part / id).mkdir(parents=True)
            os.link(picture, root / "data" / part / id / f"{id}_1.JPEG")
    return root / "data"


def test_imagenet_is_numbered_by_sorted_ids(all_of_imagenet: Path) -> None:
    data = imagenet_folders(all_of_imagenet, 2)
    assert data.class_names == imagenet.class_names() and data.class_names[207] == "golden retriever"
    assert (data.name, len(data.train), len(data.validation)) == ("imagenet", 1000, 1000)
    assert files(data.train)[207] == (os.path.relpath(all_of_imagenet / "train/n02099601/n02099601_1.JPEG", "data"), 207)
    assert data.train.labels.tolist() == data.validation.labels.tolist() == list(range(1000))
    same = class_folders(all_of_imagenet, 2)
    assert (same.class_names, same.source) == (data.class_names, data.source)


@pytest.mark.parametrize("names, sentence", [
    ([], "data has no folder train; ImageNet's files go into train/n01440764/.*.JPEG and val/n01440764/.*.JPEG, and so on"),
    ([f"train/{id}/1.png" for id in IDS], "data has no folder val; ImageNet's files go into"),
    ([f"train/{id}/1.png" for id in IDS[3:]] + ["val/1.png"], "data/train lacks 3 of ImageNet's 1000 classes, the first "
     "n01440764; its files go into .*, and a folder with some of the classes is used by its path instead"),
    ([f"train/{id}/1.png" for id in [*IDS, "n00000001"]], "data/train has 1 folders that are not .*, the first n00000001"),
    ([*(f"train/{id}/1.png" for id in IDS), "val/ILSVRC2012_val_00000001.JPEG"],
     "the images of .*/data/val lie side by side; sort them into a folder for each class first: train/n01440764"),
], ids=["nothing", "no validation", "too few", "too many", "flat"])
def test_what_is_not_all_of_imagenet_is_told_where_it_goes(names: list[str], sentence: str) -> None:
    for name in names:
        Path("data", name).parent.mkdir(parents=True, exist_ok=True)
        Path("data", name).touch()
    Path("data").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=sentence) as error:
        imagenet_folders(Path("data"), 4)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_folder_that_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    root = pictures("a/1.png", "a/2.png", "b/3.png")
    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(UserError, match="/data: Permission denied"):
        class_folders(root, 4)
