"""Images to be measured: every format read as it lies, by parts, and each bad one refused in a sentence."""
from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.metrics.pictures import Pictures, pictures_at, pictures_of
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import ArrayImages, LabelledImages
from tests.commands import sample
from tests.conftest import stored, tiny_classifier
from tests.noisy_clf.checkpoints.mirror import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 6, 8, 3), np.uint8)
LABELS = np.arange(23) % 4


def whole(pictures: Pictures, size: int = 5) -> np.ndarray:
    batches = list(pictures.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    return np.concatenate(batches)


def archive(path: Path = Path("images.npz"), compressed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def saved(images: np.ndarray, *places: str, form: str = "png") -> Path:
    for place, image in zip(places, images):
        path = Path("folder") / f"{place}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
    return Path("folder")


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_read_by_parts_is_what_numpy_loads(compressed: bool) -> None:
    found = pictures_at(archive(compressed=compressed, arr_0=IMAGES, arr_1=LABELS))
    assert (len(found), found.shape, found.manifest, found.class_names) == (23, (6, 8, 3), None, ())
    assert found.cache == Path(".features")
    np.testing.assert_array_equal(whole(found), IMAGES)
    np.testing.assert_array_equal(found.read(range(19, 23)), IMAGES[19:])  # forward, and back
    np.testing.assert_array_equal(found.read(range(2, 4)), IMAGES[2:4])
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_is_never_in_memory_as_a_whole(compressed: bool) -> None:
    path = archive(compressed=compressed, arr_0=np.zeros((3000, 64, 64, 3), np.uint8))  # 37 MB
    tracemalloc.start()
    found = pictures_at(path)
    assert sum(len(batch) for batch in found.batches(50)) == 3000
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


def test_other_images_labels_or_order_have_another_digest() -> None:
    other = IMAGES.copy()
    other[3, 2, 1, 0] ^= 1
    digests = [pictures_at(archive(**arrays)).digest for arrays in (
        dict(arr_0=IMAGES), dict(arr_0=IMAGES), dict(arr_0=other), dict(arr_0=IMAGES, arr_1=LABELS))]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    names = [f"{i:03d}" for i in range(23)]
    first = pictures_at(saved(IMAGES, *names)).digest
    assert pictures_at(saved(IMAGES, *names)).digest == first
    assert pictures_at(saved(IMAGES, *reversed(names))).digest != first
    assert pictures_at(saved(other, *names)).digest != first
    saved(IMAGES, *names)
    Path("folder/022.png").rename("folder/023.png")
    assert pictures_at(Path("folder")).digest != first


def test_images_without_a_label_have_minus_one_and_none_where_no_image_has_one() -> None:
    assert pictures_at(archive(arr_0=IMAGES)).labels is None
    assert pictures_at(archive(arr_0=IMAGES, arr_1=np.full_like(LABELS, -1))).labels is None
    found = pictures_at(archive(arr_0=IMAGES, arr_1=np.where(LABELS == 3, -7, LABELS)))
    np.testing.assert_array_equal(found.labels, np.where(LABELS == 3, -1, LABELS))


@pytest.mark.parametrize("arrays, words", [
    (dict(images=IMAGES), ["no arr_0 but images", "uint8 [N,H,W,C]"]),
    (dict(arr_0=IMAGES / 255), ["float64 [23, 6, 8, 3]", "convert them first"]),
    (dict(arr_0=IMAGES.transpose(0, 3, 1, 2).copy()), ["[23, 3, 6, 8]", "transpose them by (0, 2, 3, 1)"]),
    (dict(arr_0=IMAGES[..., 0]), ["uint8 [23, 6, 8]", "1 or 3 channels the last"]),
    (dict(arr_0=IMAGES[:1]), ["1 image;", "at least 2"]),
    (dict(arr_0=IMAGES[:0]), ["0 images", "at least 2"]),
    (dict(arr_0=IMAGES, arr_1=LABELS[:9]), ["arr_1 int64 [9]", "one for each of its 23 images"]),
    (dict(arr_0=IMAGES, arr_1=np.eye(4)[LABELS]), ["arr_1 float64 [23, 4]", "whole numbers"]),
    (dict(arr_0=np.asfortranarray(IMAGES)), ["column by column", "np.ascontiguousarray"]),
    (dict(arr_0=np.array([None] * 23)), ["bytes follow it"])])
def test_an_archive_of_something_else_is_refused(arrays: dict[str, Any], words: list[str]) -> None:
    path = archive(**arrays)
    with refused("images.npz", *words):
        pictures_at(path)


def with_header(shape: tuple[int, ...], compression: int) -> Path:
    """An archive whose arr_0 tells of images that are not there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile("lying.npz", "w", compression) as file:
        file.writestr("arr_0.npy", header.getvalue() + bytes(600))
    return Path("lying.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(10 ** 12, 10, 10, 3), (1, 10, 10, 3), (-2, -1, 300, 1)])
def test_a_header_that_lies_is_refused_before_anything_is_read(shape: tuple[int, ...], compression: int) -> None:
    path = with_header(shape, compression)
    with refused("lying.npz", "the header of arr_0.npy tells of uint8", "and 600 bytes follow it"):
        pictures_at(path)


@pytest.mark.parametrize("fields, words", [((24,), "two lengths"), ((20, 24), "longer than the file")])
def test_a_directory_that_lies_is_refused_before_anything_is_read(fields: tuple[int, ...], words: str) -> None:
    path = with_header((10 ** 6, 10, 10, 3), zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    for field in fields:  # of the archive's directory: the member's length in the file, and decompressed
        content[entry + field:entry + field + 4] = (128 + 3 * 10 ** 8).to_bytes(4, "little")
    path.write_bytes(content)
    with refused("lying.npz", words):
        pictures_at(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_torn_archive_is_refused(compressed: bool) -> None:
    path = archive(compressed=compressed, arr_0=IMAGES, arr_1=LABELS)
    content = path.read_bytes()
    path.write_bytes(content[:2000])
    with refused("images.npz is not a whole .npz"):
        pictures_at(path)
    path.write_bytes(content)
    found = pictures_at(path)
    path.write_bytes(content[:1000])
    with refused("images.npz is not a whole .npz"):
        whole(found)
    path.write_text("no archive")
    with refused("images.npz is not a whole .npz"):
        pictures_at(path)


def test_damage_within_compressed_images_is_found() -> None:
    path = archive(compressed=True, arr_0=np.repeat(IMAGES, 9, axis=0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xff
    path.write_bytes(content)
    with refused("images.npz is not a whole .npz"):
        whole(pictures_at(path))


# folders


def test_a_folder_is_read_by_name_and_in_its_own_channels() -> None:
    found = pictures_at(saved(IMAGES[:4], "b", "a", "d", "c"))
    np.testing.assert_array_equal(whole(found), IMAGES[[1, 0, 3, 2]])
    assert (found.labels, found.class_names, found.cache) == (None, (), Path("folder/.features"))


def test_grey_pictures_have_one_channel_and_beside_coloured_ones_three() -> None:
    grey = IMAGES[..., :1]
    found = pictures_at(saved(grey[:3], "0", "1", "2"))
    np.testing.assert_array_equal(whole(found), grey[:3])
    found = pictures_at(saved(IMAGES[3:5], "3", "4"))
    np.testing.assert_array_equal(whole(found), np.concatenate([grey[:3].repeat(3, axis=3), IMAGES[3:5]]))


def test_class_folders_become_labels_in_their_order() -> None:
    found = pictures_at(saved(IMAGES[:5], "10/x", "2/y", "2/x", "10/z", "2/deeper/a"))
    assert found.class_names == ("2", "10")
    np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(whole(found), IMAGES[[4, 2, 1, 0, 3]])


def test_a_folder_that_cannot_be_measured_is_refused() -> None:
    with refused("there is nothing at nowhere", "a folder of pictures"):
        pictures_at(Path("nowhere"))
    Path("folder").mkdir()
    with refused("folder holds no images and is no sampling run's folder"):
        pictures_at(Path("folder"))
    with refused("folder has 1 image;", "at least 2"):
        pictures_at(saved(IMAGES, "a"))
    with refused("different sizes, 8 x 6 (a.png) and 4 x 6 (b.png)", "all of one size"):
        pictures_at(saved(IMAGES[:1, :, :4], "b"))
    Path("folder/b.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with refused("b.png cannot be read as a picture"):
        pictures_at(Path("folder"))
    Path("folder/b.png").unlink()
    with refused("side by side with folders of pictures, the first c"):
        pictures_at(saved(IMAGES, "c/d"))


def test_splits_are_no_classes() -> None:
    with refused("train, val, which are no classes", "folder/train"):
        pictures_at(saved(IMAGES, "train/a/0", "val/a/0"))


def test_another_kind_of_file_is_refused() -> None:
    Path("images.tar").write_bytes(b"1")
    with refused("images.tar is no .npz file"):
        pictures_at(Path("images.tar"))


# runs


def test_a_run_is_its_samples_with_the_names_of_all_its_classes(denoiser_folder: Path) -> None:
    out = sample(denoiser_folder, "--class", "pear,apple")
    found = pictures_at(out)
    with np.load(out / "samples.npz") as stored_arrays:
        np.testing.assert_array_equal(whole(found), stored_arrays["arr_0"])
    np.testing.assert_array_equal(found.labels, [1, 0] * 3)
    assert (found.name, found.shape, found.cache) == ("out", (8, 8, 1), out / ".features")
    assert found.class_names == ("apple", "pear", "plum")
    assert found.manifest is not None and found.manifest.request["num_samples"] == 6


def test_names_of_models_that_have_moved_are_those_of_the_samples(denoiser_folder: Path) -> None:
    moved = stored(tiny_classifier(), Path("classifier"))
    out = sample(denoiser_folder, "--classifier", moved)
    stored(tiny_classifier(names=("fig", "lime", "kiwi")), moved)
    assert pictures_at(out).class_names == ("apple", "pear", "plum")
    (out / "samples.jsonl").write_text((out / "samples.jsonl").read_text().splitlines()[0])
    assert pictures_at(out).class_names == ()  # plum and pear are not told, and it is no longer the classifier that guided


def test_samples_without_classes_have_no_labels(denoiser_folder: Path) -> None:
    found = pictures_at(sample(denoiser_folder, "--class", "none"))
    assert (found.labels, found.class_names) == (None, ())


def test_names_of_a_run_with_wishes(denoiser_folder: Path) -> None:
    found = pictures_at(sample(denoiser_folder, "--class", "apple=1,plum=-0.5", "--class", "apple=1,pear=1"))
    assert found.class_names == ("apple", "pear", "plum")
    np.testing.assert_array_equal(found.labels, [0, -1] * 3)


def test_an_unfinished_run_is_told_how_to_finish(denoiser_folder: Path) -> None:
    out = sample(denoiser_folder)
    content = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(content | {"num_samples": 7}))
    with refused("has 6 samples, but its run made 7", "--request out/manifest.json --out out"):
        pictures_at(out)
    (out / "samples.npz").unlink()
    (out / "000003.png").unlink()
    with refused("unfinished run (5 of 6 samples)", "guided-sample --request out/manifest.json --out out"):
        pictures_at(out)


def test_a_foreign_manifest_is_refused() -> None:
    saved(IMAGES, "a", "b")
    Path("folder/manifest.json").write_text("{}")
    with refused("folder/manifest.json is not that of a run of this toolkit"):
        pictures_at(Path("folder"))


# datasets


def test_a_dataset_is_its_images_with_channels_last() -> None:
    data = digits(8)
    found = pictures_of(replace(data, train=data.validation))
    images, labels = data.validation.whole()
    np.testing.assert_array_equal(whole(found, 100), images.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(found.labels, labels.numpy())
    assert (found.shape, found.class_names[7], found.name) == ((8, 8, 1), "seven", "digits")


def test_of_a_dataset_so_many_are_drawn_once_and_for_all() -> None:
    data = digits(8)
    few, again = pictures_of(data, 300), pictures_of(data, 300)
    np.testing.assert_array_equal(whole(few), whole(again))
    everything = {image.tobytes(): label for image, label in zip(whole(pictures_of(data), 100), data.train.labels)}
    assert len(few) == 300 and len(np.unique(few.labels)) == 10 and few.labels is not None
    assert all(everything[image.tobytes()] == label for image, label in zip(whole(few), few.labels))
    with refused("1433 images, and 1434 are asked for"):
        pictures_of(data, 1434)


def test_a_datasets_digest_is_that_of_its_images(tmp_path: Path) -> None:
    assert len({pictures_of(digits(size), count).digest for size, count in ((8, None), (8, 300), (9, None))}) == 3
    images, data = IMAGES.transpose(0, 3, 1, 2).copy(), digits(8)
    one, other = (LabelledImages(ArrayImages(array), torch.from_numpy(LABELS)) for array in (images, images ^ 1))
    assert pictures_of(replace(data, train=one)).digest != pictures_of(replace(data, train=other)).digest

    def of_folder(shape: tuple[int, int] = (8, 6)) -> str:
        return pictures_of(load_dataset(str(Path("folder")), shape[0])).digest

    names = [f"{label}/{i}" for label in "ab" for i in range(3)]
    saved(IMAGES, *names)
    first = of_folder()
    assert of_folder() == first and of_folder((4, 4)) != first
    saved(IMAGES[1:], *names)
    assert of_folder() != first
    saved(IMAGES, *names)
    Path("folder").rename("elsewhere")
    assert pictures_of(load_dataset("elsewhere", 8)).digest == first
