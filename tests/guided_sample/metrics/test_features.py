"""Features on the disk: extracted once, whatever interrupts it, and whatever becomes of their files."""
from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guided_sample.metrics import features
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.extractors import extractor_named, refuse_unknown
from guided_sample.metrics.features import Features, features_of
from guided_sample.metrics.pictures import Pictures
from noisy_clf.errors import UserError

N = 23  # images: five whole chunks of four, and three images


class Counting:
    """An extractor of each image's mean and first pixel, that notes what it has seen, and fails at an image if told so."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.fails_at: int | None = None
        self.extractor = Extractor("timm:a/b.c", "d" * 64, ("pool", "spatial"), self.extract, batch_size=3)

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        numbers = images[:, 0, 0, 0].tolist()
        if self.fails_at in numbers:
            raise KeyboardInterrupt
        self.seen += numbers
        flat = images.reshape(len(images), -1).astype(np.float32)
        return {"pool": flat[:, :2], "spatial": flat.mean(axis=1, keepdims=True)}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(features, "CHUNK", 4)
    return Counting()


def pictures_in(cache: Path) -> Pictures:
    images = np.random.RandomState(0).randint(0, 255, (N, 4, 4, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = range(N)
    return Pictures(name="some", shape=(4, 4, 1), labels=None, class_names=(), read=lambda part: images[part.start:part.stop],
                    digest="e" * 64, cache=cache, N=N)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def test_they_are_in_the_images_order(counting: Counting, tmp_path: Path) -> None:
    pictures = pictures_in(tmp_path)
    found, images = features_of(pictures, counting.extractor), pictures.read(range(N))
    assert [len(chunk) for chunk in found.chunks("pool")] == [4, 4, 4, 4, 4, 3]
    assert np.array_equal(found.whole("pool"), images.reshape(N, -1)[:, :2])
    assert np.array_equal(found.whole("spatial"), images.reshape(N, -1).astype(np.float32).mean(axis=1, keepdims=True))


def test_a_second_metric_costs_nothing(counting: Counting, tmp_path: Path) -> None:
    features_of(pictures_in(tmp_path), counting.extractor)
    features_of(pictures_in(tmp_path), counting.extractor)
    assert counting.seen == list(range(N))


@pytest.mark.parametrize("fails_at", [0, 8, 14, N - 1])
def test_a_killed_run_goes_on(counting: Counting, tmp_path: Path, fails_at: int) -> None:
    """No image of a finished chunk is extracted twice, and the files are those of an uninterrupted run."""
    counting.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        features_of(pictures_in(tmp_path / "killed"), counting.extractor)
    before = counting.seen
    counting.fails_at, counting.seen = None, []
    found = features_of(pictures_in(tmp_path / "killed"), counting.extractor)
    assert counting.seen == list(range(fails_at // 4 * 4, N)) and before == list(range(len(before)))
    whole = features_of(pictures_in(tmp_path / "whole"), counting.extractor)
    assert contents(found.folder) == contents(whole.folder)


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b""), lambda path: path.unlink(),
    lambda path: path.write_bytes(b"\x93NUMPY damaged"), lambda path: np.save(path, np.zeros((3, 1), np.float32)),
    lambda path: np.save(path, np.array([{}] * 4), allow_pickle=True)],
    ids=["truncated", "empty", "gone", "header", "other", "pickle"])
def test_a_damaged_chunk_is_made_again_alone(counting: Counting, tmp_path: Path, damage) -> None:
    found = features_of(pictures_in(tmp_path), counting.extractor)
    before, counting.seen = contents(found.folder), []
    damage(found.folder / "spatial-0000008.npy")
    features_of(pictures_in(tmp_path), counting.extractor)
    assert counting.seen == [8, 9, 10, 11] and contents(found.folder) == before


def test_a_chunk_that_vanishes_while_it_is_needed_is_told(counting: Counting, tmp_path: Path) -> None:
    found = features_of(pictures_in(tmp_path), counting.extractor)
    found.path("pool", range(4, 8)).unlink()
    with pytest.raises(UserError, match="pool-0000004.npy was changed or removed"):
        found.whole("pool")


def test_other_weights_and_other_images_have_other_files(counting: Counting, tmp_path: Path) -> None:
    pictures, extractor = pictures_in(tmp_path), counting.extractor
    folders = {features_of(*pair).folder for pair in (
        (pictures, extractor), (replace(pictures, digest="f" * 64), extractor),
        (pictures, replace(extractor, digest="f" * 64)), (pictures, replace(extractor, name="inception")))}
    assert len(folders) == 4 and all(folder.parent == tmp_path for folder in folders)


def test_where_nothing_can_be_written_the_cache_is_used(
        counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    for _ in range(2):
        found = features_of(pictures_in(tmp_path / "file" / "inside"), counting.extractor)
        assert found.folder.parent == tmp_path / "cache" / "features" and counting.seen == list(range(N))


def test_two_at_once_extract_once(counting: Counting, tmp_path: Path) -> None:
    threads = [threading.Thread(target=features_of, args=(pictures_in(tmp_path), counting.extractor)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counting.seen == list(range(N))


def test_one_chunk_is_mapped_to_its_file(tmp_path: Path) -> None:
    found = features_of(pictures_in(tmp_path), Counting().extractor).whole("pool")
    assert isinstance(found, np.memmap) and len(found) == N


def test_features_that_are_no_numbers_are_refused(counting: Counting, tmp_path: Path) -> None:
    damaged = replace(counting.extractor, kinds=("pool",), extract=lambda images: {"pool": np.full((len(images), 2), np.nan)})
    with pytest.raises(UserError, match="no numbers in image 0 to 2 of some"):
        features_of(pictures_in(tmp_path), damaged)
    assert not any(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("name", ["", "incepton", "timm:", "dinov2x", "inception@FILE", "judge:x"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown features"):
        refuse_unknown(name)


def test_weights_are_inceptions_alone() -> None:
    with pytest.raises(UserError, match="give theirs as dinov2@FILE"):
        extractor_named("dinov2", None, Path("file"))  # type: ignore[arg-type]


def test_chunks_that_were_never_made_are_missing(tmp_path: Path) -> None:
    assert Features(tmp_path / "none", 1001, ("pool",)).missing() == [range(1000), range(1000, 1001)]
