"""Whatever happens on the way, the arrays hold each image of the files once, in order, with its class as models number it."""
from __future__ import annotations

import errno
import json
import mmap
import multiprocessing
import os
import pickle
import zipfile
import random
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from noisy_clf import imagenet
from noisy_clf.datasets import downsampled_imagenet as subject
from noisy_clf.datasets.downsampled_imagenet import FILES, downsampled_imagenet, models_order
from noisy_clf.datasets.images import ArrayImages, Augmentation, Dataset
from noisy_clf.errors import UserError
from tests.noisy_clf.conftest import TouchesAFile, snapshot

SIZE = 32
NAMES = [name for names in FILES.values() for name in names]
FOLDER = Path("data")
CONVERTED = FOLDER / f"converted-{SIZE}"


def content(name: str, size: int = SIZE) -> dict[str, Any]:
    """What a file of image-net.org's holds, but for the number of images: 5 to 15."""
    rng = np.random.default_rng(NAMES.index(name))
    count = 5 + NAMES.index(name)
    data = rng.integers(0, 256, (count, 3 * size ** 2), np.uint8)
    return {"data": data, "labels": rng.integers(1, 1001, count), "mean": data.mean(axis=0)}


def write(path: Path, held: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **held)
    else:
        path.write_bytes(pickle.dumps({**held, "labels": held["labels"].tolist()}, protocol=2 + NAMES.index(path.name) % 4))


def write_all(where: Callable[[str], str] = "{}".format, size: int = SIZE) -> None:
    for name in NAMES:
        write(FOLDER / where(name), content(name, size))


def load() -> Dataset:
    return downsampled_imagenet(SIZE, FOLDER)


def arrays() -> dict[str, bytes]:
    return {name: held for name, held in snapshot(CONVERTED).items() if name.endswith(".npy")}


def refused(*words: str, size: int = SIZE) -> str:
    """One sentence that has these words in it."""
    with pytest.raises(UserError) as caught:
        downsampled_imagenet(size, FOLDER)
    told = str(caught.value)
    assert told.endswith(".") and "\n" not in told and ". " not in told, told
    for word in words:
        assert word in told, told
    return told


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, not the machine: what is written is there."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def files() -> None:
    write_all()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The arrays as numpy writes them, and the record aside."""
    folder = tmp_path_factory.mktemp("expected")
    ids = [id for id, _ in imagenet.synsets()]
    order = (Path(subject.__file__).parent / "imagenet_downsampled_order.txt").read_text().split()
    for split, names in FILES.items():
        held = [content(name) for name in names]
        np.save(folder / f"{split}_images.npy", np.concatenate([part["data"] for part in held]).reshape(-1, 3, SIZE, SIZE))
        np.save(folder / f"{split}_labels.npy",
                np.array([ids.index(order[label - 1]) for part in held for label in part["labels"]], np.int64))
    return snapshot(folder)


def test_the_files_order_has_each_of_imagenets_classes_once() -> None:
    order = (Path(subject.__file__).parent / "imagenet_downsampled_order.txt").read_text().split("\n")
    assert order.pop() == "" and len(order) == 1000
    assert set(order) == {id for id, _ in imagenet.synsets()}


@pytest.mark.parametrize("id, index, name", [
    ("n02099601", 207, "golden retriever"), ("n01440764", 0, "tench"), ("n15075141", 999, "toilet tissue")])
def test_labels_of_the_files_become_the_models(id: str, index: int, name: str) -> None:
    order = (Path(subject.__file__).parent / "imagenet_downsampled_order.txt").read_text().split()
    assert models_order()[order.index(id) + 1] == index
    assert imagenet.synsets()[index][0] == id and imagenet.class_names()[index] == name
    assert sorted(models_order()[1:]) == list(range(1000))


def test_the_dataset_is_that_of_the_files(files: None) -> None:
    data, held = load(), content("train_data_batch_2")
    assert (data.name, data.image_size, data.channels, data.class_names) == ("imagenet32", 32, 3, imagenet.class_names())
    assert (len(data.train), len(data.validation)) == (95, 15)
    images, y = data.train.batch(torch.tensor([5, 10, 6]))
    assert images.dtype == torch.uint8 and y.dtype == torch.int64
    assert images.numpy().reshape(3, -1).tolist() == held["data"][[0, 5, 1]].tolist()
    assert y.tolist() == models_order()[held["labels"][[0, 5, 1]]].tolist()
    assert torch.equal(data.validation.whole()[0].flatten(1), torch.from_numpy(content("val_data")["data"]))


def owner(array: Any) -> Any:
    """Of the memory that an array is a view of."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def test_images_stay_on_the_disk_and_can_be_augmented(files: None) -> None:
    train = load().train
    assert isinstance(train.images, ArrayImages) and isinstance(owner(train.images.array), mmap.mmap)
    before, generators = arrays(), [np.random.default_rng(i) for i in range(8)]
    images, _ = train.augmented(torch.arange(8), Augmentation(random_flip=True), generators)
    for image, original in zip(images.numpy(), train.batch(torch.arange(8))[0].numpy()):
        assert (image == original).all() or (image == original[..., ::-1]).all()
    assert arrays() == before


@pytest.mark.parametrize("where", [
    "{}".format, "{}.npz".format, lambda name: name + (".npz" if name.endswith(("2", "7", "val_data")) else ""),
    lambda name: f"Imagenet32_{name.partition('_')[0]}/{name}",
    lambda name: f"Imagenet32_{name.partition('_')[0]}_npz/{name}.npz",
    lambda name: f"Imagenet32_train_part{1 + NAMES.index(name) // 5}/{name}" if "train" in name else f"val/{name}.npz"],
    ids=["pickles", "npz", "both", "folders", "folders of npz", "parts"])
def test_every_form_and_place_of_the_files_gives_the_same_arrays(
        where: Callable[[str], str], expected: dict[str, bytes]) -> None:
    write_all(where)
    source = load().source
    assert arrays() == expected
    shutil.rmtree(FOLDER)
    write_all()
    assert load().source == source


def test_files_of_another_size_beside_them_are_left_alone(expected: dict[str, bytes]) -> None:
    write_all(lambda name: f"Imagenet32_all/{name}")
    write_all(lambda name: f"Imagenet64_all/{name}.npz", size=8)
    load()
    assert arrays() == expected


@pytest.mark.parametrize("size", [8, 16])
def test_other_sizes_are_read_too(size: int) -> None:
    write_all(size=size)
    data = downsampled_imagenet(size, FOLDER)
    assert (data.name, data.image_size) == (f"imagenet{size}", size)


def test_a_million_rows_need_no_longer_header() -> None:
    path, count = Path("labels.npy"), 10 ** 7
    subject.append(path, np.array([1]), 0)
    subject.append(path, np.array([2]), count)  # a hole of 80 MB that takes no space
    labels = np.load(path, mmap_mode="r")
    assert labels.shape == (count + 1,) and labels[[0, 1, count]].tolist() == [1, 0, 2]


# stopped on the way


def forked(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """A process that does it, and that may be killed: what it holds of tqdm's locks is its own."""
    def alone() -> None:
        tqdm.set_lock(threading.RLock())
        work()

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def die(work: Callable[[], object]) -> None:
    process = forked(work)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def load_until(owner: Any, function: str, call: int) -> None:
    """Kills its own process in the middle of that call."""
    whole, left = getattr(owner, function), iter(range(call, -1, -1))

    def fatal(*arguments: Any, **more: Any) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **more)

    setattr(owner, function, fatal)
    subject.CHUNK = 2
    load()


@pytest.mark.parametrize("owner, function, calls", [
    (os, "fsync", (0, 1, 2, 3, 17, 29, 32)), (os, "replace", (0, 1, 10)), (zlib, "crc32", (0, 1, 4, 30, 62, 77)),
    (subject, "write_json", (0, 3, 10)), (subject, "read_file", (0, 6))],
    ids=["fsync", "replace", "crc32", "write_json", "read_file"])
def test_killed_at_certain_moments_twice_it_goes_on_to_the_same_bytes(
        files: None, expected: dict[str, bytes], owner: Any, function: str, calls: tuple[int, ...]) -> None:
    load()
    record = (CONVERTED / "converted.json").read_bytes()
    for call in calls:
        shutil.rmtree(CONVERTED)
        die(lambda: load_until(owner, function, call))
        parts = subject.read_record(CONVERTED)
        checks = 2 * sum(map(len, parts.values()))
        if subject.missing(parts):  # killed before the last file was recorded
            die(lambda: load_until(zlib, "crc32", checks + 1))  # in the middle of writing the next file
        load()
        assert arrays() == expected and (CONVERTED / "converted.json").read_bytes() == record


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(files: None, expected: dict[str, bytes]) -> None:
    source, kills = random.Random(0), 0
    while kills < 8:
        process = forked(load)
        time.sleep(source.uniform(0, 0.04))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if (CONVERTED / "converted.json").exists() and not subject.missing(subject.read_record(CONVERTED)):
            assert arrays() == expected
            shutil.rmtree(CONVERTED)
    load()
    assert arrays() == expected


def test_several_processes_at_once_convert_once(
        files: None, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    read = subject.read_file

    def slow(path: Path, size: int) -> Any:
        with open("readers", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.01)
        return read(path, size)

    monkeypatch.setattr(subject, "read_file", slow)
    processes = [forked(load) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    readers = Path("readers").read_text().split()
    assert len(readers) == len(NAMES) and len(set(readers)) == 1
    assert arrays() == expected


def test_stopped_by_hand_it_tells_how_to_go_on(
        files: None, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = subject.read_file, []

    def stopped(path: Path, size: int) -> Any:
        seen.append(path.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(path, size)

    monkeypatch.setattr(subject, "read_file", stopped)
    refused("stopped: all but 8 files are converted, and the same command goes on from there.")
    load()
    assert seen == [*NAMES[:4], *NAMES[3:]] and arrays() == expected  # only the fourth was read twice


# trouble with the files


def replaced(**values: Any) -> dict[str, Any]:
    return content(NAMES[3]) | values


COUNT = len(content(NAMES[3])["labels"])


@pytest.mark.parametrize("suffix", ["", ".npz"])
@pytest.mark.parametrize("held, words", [
    (content(NAMES[3], 16), ("holds images of 16 pixels a side, not of 32; choose imagenet16",)),
    (content(NAMES[3], 64), ("holds images of 64 pixels a side, not of 32",)),
    (replaced(data=np.zeros((COUNT, 3071), np.uint8)), ("holds images of 31 pixels",)),
    (replaced(labels=np.arange(COUNT)), ("labels are not whole numbers from 1 to 1000",)),
    (replaced(labels=np.arange(COUNT) + 1000), ("labels are not whole numbers from 1 to 1000",)),
    (replaced(labels=np.arange(COUNT) + 1.0), ("labels are not whole numbers",)),
    (replaced(labels=np.arange(COUNT - 1) + 1), (f"labels [{COUNT - 1}]",)),
    (replaced(labels=np.ones((COUNT, 1), int)), (f"labels [{COUNT}, 1]",)),
    (replaced(data=np.zeros((COUNT, 3072), np.int16)), ("data int16",)),
    (replaced(data=np.zeros((COUNT, 3, 32, 32), np.uint8)), ("[8, 3, 32, 32]",)),
    (replaced(data=np.zeros((0, 3072), np.uint8), labels=np.ones(0, int)), ("data uint8 [0, 3072]",)),
    ({"data": content(NAMES[3])["data"], "labels": np.array([None] * COUNT)}, ()),
    ({"images": np.zeros(3), "labels": np.ones(3, int)}, ("is not a whole file of down-sampled ImageNet",)),
])
def test_a_wrong_file_is_told_and_those_before_it_stay_converted(
        expected: dict[str, bytes], held: dict[str, Any], words: tuple[str, ...], suffix: str) -> None:
    write_all(f"{{}}{suffix}".format)
    wrong = FOLDER / f"{NAMES[3]}{suffix}"
    write(wrong, held)
    refused(str(wrong), *words)
    if (CONVERTED / "converted.json").exists():
        assert [part.name for part in subject.read_record(CONVERTED)["train"]] == [f"{name}{suffix}" for name in NAMES[:3]]
    write(wrong, content(NAMES[3]))
    load()
    assert arrays() == expected


@pytest.mark.parametrize("suffix, spoil", [
    *((suffix, spoil) for suffix in ("", ".npz") for spoil in (
        lambda held: b"", lambda held: held[:-1], lambda held: held[:len(held) // 2], lambda held: b"<html>Sign in</html>")),
    (".npz", lambda held: held[:9000] + bytes([held[9000] ^ 1]) + held[9001:])])  # a pickle has no checksum
def test_a_damaged_file_is_told(files: None, suffix: str, spoil: Callable[[bytes], bytes]) -> None:
    path = FOLDER / f"{NAMES[0]}{suffix}"
    write(path, content(NAMES[0]))
    path.write_bytes(spoil(path.read_bytes()))
    refused(str(path), "is not a whole", "copy or download it again")


def test_code_in_a_file_is_not_run(files: None) -> None:
    (FOLDER / "val_data").write_bytes(pickle.dumps({"data": TouchesAFile(Path("touched"))}))
    refused("val_data carries code", "is not opened")
    assert not Path("touched").exists() and subject.missing(subject.read_record(CONVERTED)) == ["val_data"]


def test_code_in_an_npz_is_not_run() -> None:
    write_all("{}.npz".format)
    write(FOLDER / "val_data.npz", content("val_data") | {"labels": np.array([TouchesAFile(Path("touched"))] * 15, object)})
    refused("val_data.npz is not a whole file")
    assert not Path("touched").exists()


def test_missing_files_are_named_with_what_to_do(files: None) -> None:
    for name in (NAMES[1], NAMES[9], "val_data"):
        (FOLDER / name).unlink()
    refused("data lacks train_data_batch_2, train_data_batch_10, val_data (or the same with .npz)", "image-net.org")
    assert not CONVERTED.exists()


@pytest.mark.parametrize("there", [True, False])
def test_no_file_at_all_is_answered_with_what_goes_where(there: bool) -> None:
    if there:
        write(FOLDER / "Imagenet64_val" / "val_data", content("val_data", 8))
    refused("data has none of the files", "train_data_batch_1 to 10 and val_data", "register at image-net.org",
            "Imagenet32_train", "unpack them there")
    assert not CONVERTED.exists()


# afterwards


def test_the_files_may_be_deleted_before_and_after_the_end(expected: dict[str, bytes], files: None) -> None:
    held = (FOLDER / "val_data").read_bytes()
    (FOLDER / "val_data").write_bytes(held[:-9])
    refused("val_data is not a whole")
    for name in NAMES:
        (FOLDER / name).unlink()
    refused("data lacks val_data")
    (FOLDER / "val_data").write_bytes(held)
    load()
    (FOLDER / "val_data").unlink()
    assert len(load().train) == 95 and arrays() == expected


def test_the_end_is_told_and_later_commands_neither_write_nor_talk(
        files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    load()
    told = capsys.readouterr()
    assert told.out == "" and "may be deleted" in told.err and "converting imagenet32" in told.err
    before = snapshot(FOLDER)
    monkeypatch.setattr(subject, "alone", None)  # a folder that cannot be written to has no lock
    load()
    assert snapshot(FOLDER) == before and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("change", [
    lambda path: write(path, content(NAMES[4], 16)), lambda path: os.utime(path, (0, 0)), lambda path: path.write_bytes(b"")])
def test_a_file_that_changes_later_is_told(files: None, change: Callable[[Path], object]) -> None:
    load()
    change(FOLDER / NAMES[4])
    refused(f"data/{NAMES[4]} has changed since data/converted-32 was made of it; remove that folder")


def test_a_copy_with_rounded_times_is_no_change(files: None) -> None:
    load()
    for name in NAMES:
        os.utime(FOLDER / name, ns=(0, (FOLDER / name).stat().st_mtime_ns // 10 ** 9 * 10 ** 9))
    load()


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "val_images.npy", "val_labels.npy"])
@pytest.mark.parametrize("spoil", [
    lambda held: b"", lambda held: held[:100], lambda held: held[:-1], lambda held: held[:128],
    lambda held: bytes(128) + held[128:], lambda held: held[:128] + bytes(len(held) - 128),
    lambda held: held.replace(b"(95,", b"(90,", 1).replace(b"(15,", b"(14,", 1),
    lambda held: held.replace(b"<i8", b"<u8").replace(b"|u1", b"|i1"), lambda held: held[:-1] + bytes([held[-1] ^ 255]), None])
def test_damaged_arrays_are_told(files: None, name: str, spoil: Callable[[bytes], bytes] | None) -> None:
    load()
    if spoil is None:
        (CONVERTED / name).unlink()
    else:
        (CONVERTED / name).write_bytes(spoil((CONVERTED / name).read_bytes()))
    refused("data/converted-32 is damaged (", "remove that folder, and the same command converts the files anew")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"train": [], "val": [{"name": "val_data"}]}', '{"train": 1, "val": 2}',
                                  '{"train": [1], "val": []}'])
def test_a_damaged_record_is_told(files: None, text: str) -> None:
    load()
    (CONVERTED / "converted.json").write_text(text)
    refused("data/converted-32 is damaged (converted.json is not whole)")


@pytest.mark.parametrize("field, value", [
    ("rows", -5), ("rows", 6), ("rows", "5"), ("rows", 0), ("images", 1), ("few_crc32", None), ("name", 3)])
def test_a_wrong_record_is_told(files: None, field: str, value: object) -> None:
    load()
    record = json.loads((CONVERTED / "converted.json").read_text())
    record["train"][0][field] = value
    (CONVERTED / "converted.json").write_text(json.dumps(record))
    refused("data/converted-32 is damaged (")


# trouble with the disk


def test_too_little_space_is_told_before_anything_is_written(files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 ** 6, 10 ** 6, 200_000))  # type: ignore
    refused("converting data takes 678kB and data/converted-32 has 200kB left; free some space")
    assert arrays() == {}


def test_a_full_disk_is_told_and_what_is_converted_stays(files: None, expected: dict[str, bytes]) -> None:
    CONVERTED.mkdir()
    (CONVERTED / "val_images.npy").symlink_to("/dev/full")
    refused("the disk is full: data/converted-32/val_images.npy could not be written; free some space")
    assert subject.missing(subject.read_record(CONVERTED)) == ["val_data"]
    (CONVERTED / "val_images.npy").unlink()
    load()
    assert arrays() == expected


def test_a_folder_that_cannot_be_written_to_is_told(files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused("data/converted-32: Read-only file system, and something has to be written there; use a folder of your own")


def test_a_file_in_the_arrays_place_is_told(files: None) -> None:
    CONVERTED.write_text("")
    refused("data/converted-32: File exists")


def npy(shape: tuple[int, ...], descr: str = "|u1", held: bytes = bytes(30)) -> bytes:
    """An array's file, whatever its header says of what it holds."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + held


@pytest.mark.parametrize("data", [
    npy((10 ** 12, 3072)), npy((2 ** 40, 2 ** 40)), npy((-1, 3072)), npy((-5, -3072), held=bytes(5 * 3072)), npy((15, 3072)),
    npy((0, 3072)), npy((10 ** 30,)), npy((15,), "|O"), npy((3,), "<U10"), npy((3,), "|V10"), b"\x93NUMPY\x07\x00", b"text"])
def test_an_npz_whose_header_lies_is_told_before_memory_is_asked_for(data: bytes) -> None:
    write_all("{}.npz".format)
    with zipfile.ZipFile(FOLDER / "val_data.npz", "w") as archive:
        archive.writestr("data.npy", data)
        archive.writestr("labels.npy", npy((15,), held=bytes(15)))
    refused("val_data.npz is not a whole file", "copy or download it again")


@pytest.mark.parametrize("spoil", [
    lambda held: held.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),  # encrypted
    lambda held: held.replace(b"PK\1\2\x14\3\x14\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0c"),  # compressed in no known way
    lambda held: held.replace(b"data.npy", b"data.txt")])
def test_an_archive_that_zipfile_stumbles_over_is_told(spoil: Callable[[bytes], bytes]) -> None:
    write_all("{}.npz".format)
    path = FOLDER / "val_data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", npy((1, 3072), held=bytes(3072)))
        archive.writestr("labels.npy", npy((1,), held=b"1"))
    path.write_bytes(spoil(path.read_bytes()))
    refused("val_data.npz is not a whole file")


@pytest.mark.parametrize("shape", [(10 ** 12, 3, 32, 32), (-1, 3, 32, 32), (2 ** 70, 1), (2 ** 40, 2 ** 40)])
def test_a_converted_array_whose_header_lies_is_told(files: None, shape: tuple[int, ...]) -> None:
    load()
    (CONVERTED / "val_images.npy").write_bytes(npy(shape))
    refused("is damaged (val_images.npy is ")
