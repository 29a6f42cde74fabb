"""Small CIFARs and MNISTs in the real formats, from a server on this machine, whole or not."""
from __future__ import annotations

import gzip
import hashlib
import io
import multiprocessing
import pickle
import shutil
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import datasets
from tqdm import tqdm

from noisy_clf import download
from noisy_clf.datasets.images import Dataset, as_array, as_picture
from noisy_clf.datasets.preprocessing import centre_crop
from noisy_clf.datasets.torchvision_sets import SETS, read_idx, torchvision_dataset
from noisy_clf.errors import UserError
from tests.noisy_clf.conftest import TouchesAFile, snapshot

CIFARS, MNISTS = ("cifar10", "cifar100"), ("mnist", "fashion-mnist")
COUNTS = {"cifar10": (20, 4), "cifar100": (7, 3), "mnist": (11, 5), "fashion-mnist": (11, 5)}
FOLDER = Path("data")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def raw(name: str, test: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N,C,H,W] and labels of a set."""
    rng, count = np.random.default_rng(list(SETS).index(name) * 2 + test), COUNTS[name][test]
    shape = (3, 32, 32) if name in CIFARS else (1, 28, 28)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 100 if name == "cifar100" else 10, count)


def cifar_files(name: str) -> dict[str, bytes]:
    source, files = getattr(datasets, SETS[name]), {}
    key = "labels" if name == "cifar10" else "fine_labels"
    for listed, test in ((source.train_list, False), (source.test_list, True)):
        images, labels = raw(name, test)
        for (file, _), part, of_part in zip(listed, np.split(images, len(listed)), np.split(labels, len(listed))):
            batch = {"data": part.reshape(len(part), -1), key: of_part.tolist(), "coarse_labels": [0] * len(part)}
            files[file] = pickle.dumps(batch, protocol=2)
    names = [f"class {i}" for i in range(100 if name == "cifar100" else 10)]
    files[source.meta["filename"]] = pickle.dumps({source.meta["key"]: names}, protocol=2)
    return files


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes(), mtime=0)


def publish(name: str, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes] | None = None) -> None:
    """Puts a small set into the server's folder, and makes torchvision think that it is the real one."""
    source = getattr(datasets, SETS[name])
    if name in CIFARS:
        files = files or cifar_files(name)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for file, content in files.items():
                member = tarfile.TarInfo(f"{source.base_folder}/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (folder / source.filename).write_bytes(packed.getvalue())
        monkeypatch.setattr(source, "url", f"{url}/{source.filename}")
        monkeypatch.setattr(source, "tgz_md5", md5(packed.getvalue()))
        for listed in ("train_list", "test_list"):
            monkeypatch.setattr(source, listed, [[file, md5(files[file])] for file, _ in getattr(source, listed)])
        monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(files[source.meta["filename"]])})
    else:
        arrays = [images[:, 0] if images.ndim == 4 else images for test in (False, True) for images in raw(name, test)]
        for (file, _), array in zip(source.resources, arrays):
            (folder / file).write_bytes(idx(array))
        monkeypatch.setattr(source, "mirrors", [f"{url}/gone/", f"{url}/"])  # the first one has nothing
        monkeypatch.setattr(source, "resources", [(file, md5((folder / file).read_bytes())) for file, _ in source.resources])


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/gone/" not in self.path:
            self.server.seen.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, list[str]()
        super().__init__(("127.0.0.1", 0), lambda *request: Handler(*request, directory=str(folder)))  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With all four sets on it."""
    monkeypatch.setattr(download, "BACKOFF", 0)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server(tmp_path_factory.mktemp("served")) as server:
        for name in SETS:
            (server.folder / name).mkdir()
            publish(name, server.folder / name, f"{server.url}/{name}", monkeypatch)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def refused(name: str, *words: str) -> None:
    """One sentence that has these words in it."""
    with pytest.raises(UserError) as caught:
        torchvision_dataset(name, FOLDER, None)
    told = str(caught.value)
    assert told.endswith(".") and "\n" not in told and ". " not in told, told
    for word in words:
        assert word in told, told


def assert_is(data: Dataset, name: str) -> None:
    for part, test in ((data.train, False), (data.validation, True)):
        images, y = part.whole()
        assert images.dtype == torch.uint8 and y.dtype == torch.int64
        np.testing.assert_array_equal(images.numpy(), raw(name, test)[0])
        np.testing.assert_array_equal(y.numpy(), raw(name, test)[1])


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_downloaded_once_and_read(name: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    data = torchvision_dataset(name, FOLDER, None)
    assert (data.name, data.image_size, data.channels) == ((name, 32, 3) if name in CIFARS else (name, 28, 1))
    assert_is(data, name)
    before, asked = snapshot(FOLDER), len(server.seen)
    assert_is(torchvision_dataset(name, FOLDER, None), name)
    assert len(server.seen) == asked > 0 and snapshot(FOLDER) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name, first, count", [
    ("cifar10", "class 0", 10), ("cifar100", "class 0", 100), ("mnist", "zero", 10), ("fashion-mnist", "T-shirt/top", 10)])
def test_classes_have_names(name: str, first: str, count: int) -> None:
    names = torchvision_dataset(name, FOLDER, None).class_names
    assert names[0] == first and len(names) == len(set(names)) == count
    if name == "mnist":
        assert names == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.parametrize("name", SETS)
def test_it_is_what_torchvision_itself_reads(name: str) -> None:
    data = torchvision_dataset(name, FOLDER, None)
    for part, train in ((data.train, True), (data.validation, False)):
        theirs = getattr(datasets, SETS[name])(FOLDER, train=train, download=name in MNISTS)  # it unpacks MNIST
        for i, (picture, label) in enumerate(theirs):
            image, y = part.batch(torch.tensor([i]))
            array = np.asarray(picture)
            assert (image[0].numpy() == (array[None] if array.ndim == 2 else array.transpose(2, 0, 1))).all() and y == label


@pytest.mark.parametrize("image_size", [8, 14, 16, 28, 32, 40, 64])
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_another_image_size_is_resized_to(name: str, image_size: int) -> None:
    own, other = torchvision_dataset(name, FOLDER, None), torchvision_dataset(name, FOLDER, image_size)
    assert other.image_size == image_size and torch.equal(other.train.labels, own.train.labels)
    for part, small in ((other.train, own.train), (other.validation, own.validation)):
        images, originals = part.whole()[0], small.whole()[0]
        assert images.shape == (len(small), own.channels, image_size, image_size) and images.dtype == torch.uint8
        for image, original in zip(images.numpy(), originals.numpy()):
            assert (image == as_array(centre_crop(as_picture(original), image_size))).all()
        if 2 * image_size == own.image_size:
            assert (images - F.avg_pool2d(originals.float(), 2)).abs().max() <= 1  # rounded twice


@pytest.mark.parametrize("image_size", [7, 0, -32, 257])
def test_sizes_that_make_no_sense_are_refused(image_size: int) -> None:
    with pytest.raises(UserError, match=f"mnist can be 8 to 256 pixels a side, best 32, not {image_size}."):
        torchvision_dataset("mnist", FOLDER, image_size)


# what goes wrong


@pytest.mark.parametrize("name", SETS)
def test_without_a_network_it_is_told_what_goes_where(
        name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = getattr(datasets, SETS[name])
    monkeypatch.setattr(*(source, "url", "http://127.0.0.1:9/a.tar.gz") if name in CIFARS
                        else (source, "mirrors", ["http://127.0.0.1:9/", "http://no.such.host.invalid/"]))
    where = FOLDER / source.filename if name in CIFARS else FOLDER / SETS[name] / "raw" / source.resources[0][0]
    refused(name, f"{name} could not be downloaded (", "Connection refused", "by hand: download http://127.0.0.1:9/",
            f"put it at {where} as it is.")
    for file in (server.folder / name).iterdir():
        shutil.copy(file, where.with_name(file.name))
    assert_is(torchvision_dataset(name, FOLDER, None), name)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("spoil, why", [
    (lambda held: held[:-9], "gives a corrupted or another file"), (lambda held: b"<html>Sign in</html>", "gives a corrupted"),
    (lambda held: b"", "the connection broke before the end")], ids=["torn", "page", "empty"])
def test_a_damaged_download_is_told_and_the_next_command_mends_it(name: str, spoil: Any, why: str, server: Server) -> None:
    served = sorted((server.folder / name).iterdir())[0]
    whole = served.read_bytes()
    served.write_bytes(spoil(whole))
    refused(name, f"{name} could not be downloaded (", why, served.name)
    served.write_bytes(whole)
    assert_is(torchvision_dataset(name, FOLDER, None), name)


@pytest.mark.parametrize("name", SETS)
def test_what_is_damaged_on_the_disk_is_downloaded_again(name: str, server: Server) -> None:
    torchvision_dataset(name, FOLDER, None)
    asked = len(server.seen)
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            path.write_bytes(path.read_bytes()[:-5])
    assert_is(torchvision_dataset(name, FOLDER, None), name)
    assert len(server.seen) == 2 * asked


@pytest.mark.parametrize("name", CIFARS)
def test_the_archive_may_be_deleted_once_unpacked(name: str, server: Server) -> None:
    torchvision_dataset(name, FOLDER, None)
    (FOLDER / getattr(datasets, SETS[name]).filename).unlink()
    server.seen.clear()
    assert_is(torchvision_dataset(name, FOLDER, None), name)
    assert server.seen == []


@pytest.mark.parametrize("name", CIFARS)
def test_code_is_not_run_even_with_the_right_digest(name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = pickle.dumps({"data": TouchesAFile(Path("touched"))})
    files = cifar_files(name)
    for file in files:
        publish(name, server.folder / name, f"{server.url}/{name}", monkeypatch, files | {file: evil})
        shutil.rmtree(FOLDER, ignore_errors=True)
        refused(name, f"{file} carries code (", "is not opened")
        assert not Path("touched").exists()


@pytest.mark.parametrize("name", SETS)
def test_a_folder_that_cannot_be_made_is_told(name: str) -> None:
    FOLDER.write_text("")
    refused(name, "data: File exists, and something has to be written there")


def test_a_silent_server_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=True) as mute:  # it listens, and never answers
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{mute.server_port}/cifar-10-python.tar.gz")
        monkeypatch.setattr(download, "SILENCE", 0.1)
        refused("cifar10", "timed out")


def test_a_full_disk_is_told(server: Server) -> None:
    place = FOLDER / "MNIST" / "raw"
    place.mkdir(parents=True)
    (place / "train-images-idx3-ubyte.gz.part").symlink_to("/dev/full")
    refused("mnist", "the disk is full: data/MNIST/raw/train-images-idx3-ubyte.gz.part could not be written; free some space")


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_several_processes_at_once_download_once(name: str, server: Server) -> None:
    def work() -> None:
        tqdm.set_lock(threading.RLock())  # a lock of its own
        assert_is(torchvision_dataset(name, FOLDER, None), name)

    torchvision_dataset(name, Path("elsewhere"), None)
    asked = len(server.seen)
    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(server.seen) == 2 * asked


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (2, 3, 4)])
def test_idx_files_are_read(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Path("file.gz").write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(Path("file.gz")), array)
