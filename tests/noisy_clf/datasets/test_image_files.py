from __future__ import annotations

import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisy_clf.datasets import image_files
from noisy_clf.datasets.folders import class_folders, images_below
from noisy_clf.datasets.image_files import ImageFiles, Refused, decoded, silence_pillow, why_unusable
from noisy_clf.datasets.images import Generators, as_array
from noisy_clf.datasets.preprocessing import centre_crop, random_crop
from noisy_clf.errors import UserError
from tests.noisy_clf.datasets.odd_files import COLOUR, IGNORED, PNG, READ, REFUSED, encoded, noise, plain, turned

PAUSES = image_files.PAUSES
BY_NAME = {odd.name: odd for odd in READ + REFUSED + IGNORED}


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: `odd` with all the odd files, `plain` with two."""
    root = tmp_path_factory.mktemp("pictures")
    for odd in BY_NAME.values():
        odd.write(root / "odd")
    for name in ("plain/1.png", "plain/2.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_files, "PAUSES", (0.0, 0.0))


def crops(size: int) -> Generators:
    return [np.random.default_rng([size, i]) for i in range(size)]


def test_of_a_hundred_odd_files_each_is_read_or_refused_as_it_must_be(odd_folder: Path) -> None:
    paths = images_below(odd_folder, "odd")
    assert len(BY_NAME) > 130 and {path.removeprefix("odd/") for path in paths} == {odd.name for odd in READ + REFUSED}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        silence_pillow()
        refused = {path.removeprefix("odd/"): reason for path in paths if (reason := why_unusable([str(odd_folder / path)]))}
    assert not told
    assert set(refused) == {odd.name for odd in REFUSED}
    for name, reason in refused.items():
        words = BY_NAME[name].outcome
        assert isinstance(words, str) and re.search(words, reason) and "\n" not in reason, (name, reason)
        assert len(reason) < 150 + len(str(odd_folder / "odd" / name)), reason


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("random", [False, True])
def test_all_that_are_read_have_their_colour_in_every_crop(odd_folder: Path, size: int, random: bool) -> None:
    files = ImageFiles([str(odd_folder / "odd" / odd.name) for odd in READ], size)
    images, read = files.read(np.arange(len(READ)), crops(len(READ)) if random else None)
    assert images.shape == (len(READ), 3, size, size) and images.dtype == np.uint8 and read.tolist() == list(range(len(READ)))
    for odd, image in zip(READ, images):
        assert np.abs(image.reshape(3, -1).T - np.array(odd.outcome)).max() <= 4, odd.name


def test_in_their_dataset_others_stand_in_whatever_the_order_and_each_is_told_once(
        odd_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, again = class_folders(odd_folder, 8), class_folders(odd_folder, 8)
    assert len(data.train) + len(data.validation) == len(READ + REFUSED) + 2 and data.class_names == ("odd", "plain")
    capfd.readouterr()
    for part in (data.train, data.validation):
        images, y = part.whole()
        for before, now in zip((images, y), part.whole()):
            assert torch.equal(before, now)
    told = [line for line in capfd.readouterr().err.splitlines() if line.endswith("; other images stand in for it")]
    assert len(told) == len(REFUSED)
    backwards = [again.validation.batch(torch.tensor([i]))[0] for i in reversed(range(len(again.validation)))]
    assert torch.equal(torch.cat(backwards[::-1]), images)


def test_grey_is_luminance() -> None:
    Path("a.png").write_bytes(PNG)
    Path("b.png").write_bytes(encoded(plain("L"), "PNG"))
    images, _ = ImageFiles(["a.png", "b.png"], 8, channels=1).read(np.arange(2), None)
    assert images.shape == (2, 1, 8, 8) and np.array_equal(np.unique(images), [124])


def test_deep_pixels_keep_their_order_and_range() -> None:
    ramp = np.linspace(0, 65535, 400).round().reshape(20, 20)
    Image.fromarray(ramp.astype(np.uint16)).save("16.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save("32.tif")
    for file in ("16.png", "32.tif"):
        assert np.array_equal(np.asarray(decoded(file))[..., 0], (ramp / 257).round())


def test_exif_orientation_is_not_applied() -> None:
    noise().save("plain.jpg")
    noise().save("turned.jpg", exif=turned())
    assert np.array_equal(np.asarray(decoded("plain.jpg")), np.asarray(decoded("turned.jpg")))


@pytest.fixture
def files() -> ImageFiles:
    """Five files of noise, of 64 x 48 pixels."""
    for i in range(5):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(f"{i}.png")
    return ImageFiles([f"{i}.png" for i in range(5)], 16)


def test_reading_is_decoding_and_cropping_each_by_its_own_generator(files: ImageFiles) -> None:
    pictures = [Image.open(path) for path in files.paths]
    indices = np.array([3, 0, 3])
    images, _ = files.read(indices, None)
    assert np.array_equal(images, [as_array(centre_crop(pictures[i], 16)) for i in indices])
    images, _ = files.read(indices, crops(3))
    assert np.array_equal(images, [as_array(random_crop(pictures[i], 16, crop)) for i, crop in zip(indices, crops(3))])


def test_several_threads_read_what_one_reads(files: ImageFiles) -> None:
    indices = np.random.default_rng(0).integers(5, size=(60, 4))
    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(map(lambda i: files.read(i, crops(4))[0], indices),
                                   pool.map(lambda i: files.read(i, crops(4))[0], indices)):
            assert np.array_equal(expected, found)


def test_an_image_that_becomes_unreadable_is_replaced_by_the_next_and_told_once(
        files: ImageFiles, capfd: pytest.CaptureFixture[str]) -> None:
    before, _ = files.read(np.array([0, 0]), crops(2))
    Path("3.png").unlink()
    Path("4.png").write_bytes(b"")
    for _ in range(2):
        images, read = files.read(np.array([3, 4]), crops(2))
        assert read.tolist() == [0, 0] and np.array_equal(images, before)  # cropped by the generators of those asked for
    assert capfd.readouterr().err.splitlines() == [
        "3.png: No such file or directory; other images stand in for it", "4.png: it is empty; other images stand in for it"]


def test_however_many_damaged_files_lie_in_a_row_they_are_passed_without_a_wait(
        files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "PATIENCE", 2)
    monkeypatch.setattr(image_files.time, "sleep", None)
    for i in range(4):
        Path(f"{i}.png").write_bytes(b"text")
    assert files.read(np.arange(5), None)[1].tolist() == [4] * 5
    Path("4.png").write_bytes(b"")
    with pytest.raises(UserError, match="5 images in a row cannot be read, the last 1.png: it is not a whole picture"):
        files.read(np.array([2]), None)


@pytest.mark.parametrize("failures", range(4))
def test_a_file_is_tried_three_times_with_growing_pauses(
        files: ImageFiles, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    pauses, left = [], [failures]

    def unsteady(path: str) -> Image.Image:
        if path == "1.png" and left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return decoded(path)

    monkeypatch.setattr(image_files, "PAUSES", PAUSES)
    monkeypatch.setattr(image_files, "decoded", unsteady)
    monkeypatch.setattr(image_files.time, "sleep", pauses.append)
    assert files.read(np.array([1]), None)[1].tolist() == [1 if failures < 3 else 2]
    assert pauses == list(PAUSES[:failures]) and sorted(pauses) == pauses


def test_a_disk_that_is_gone_ends_the_run_in_one_sentence(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files.paths:
        Path(path).unlink()
    with pytest.raises(UserError, match="5 images in a row cannot be read, the last 1.png: No such file or directory; see"):
        files.read(np.array([2]), None)
    monkeypatch.setattr(image_files, "PATIENCE", 3)
    with pytest.raises(UserError, match="3 images in a row cannot be read, the last 4.png"):
        files.read(np.array([2]), None)


def test_too_little_memory_is_not_the_files_fault(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*size: int) -> None:
        raise MemoryError

    monkeypatch.setattr(image_files, "refuse_extremes", no_memory)
    with pytest.raises(OSError, match="not enough memory"):
        decoded("0.png")


def test_a_bomb_is_refused_even_where_pillow_is_told_to_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = next(odd for odd in REFUSED if odd.name == "bomb.png")
    bomb.write(Path())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(Refused, match="30000 x 30000 pixels, more than 89 million"):
        decoded("bomb.png")


def test_a_file_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MOST_BYTES", 2_000_000_000)
    with open("large.tif", "wb") as file:
        file.truncate(2_100_000_000)
    with pytest.raises(Refused, match="it has 2.1 GB"):
        decoded("large.tif")


def test_a_pipe_that_somebody_writes_to_is_refused_too() -> None:
    next(odd for odd in REFUSED if odd.name == "pipe.png").write(Path())
    with open("pipe.png", "r+b", buffering=0) as pipe, pytest.raises(Refused, match="not a plain file"):
        pipe.write(PNG)
        decoded("pipe.png")


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_a_file_that_may_not_be_read_is_told_as_such(files: ImageFiles) -> None:
    Path("0.png").chmod(0)
    try:
        decoded("0.png")
    except OSError as error:
        assert image_files.why(error) == "Permission denied"
    else:
        pytest.skip("root may read all")


def test_a_name_is_printable_in_one_line() -> None:
    assert image_files.printable("a\nb\x1b[31mü漢\udcff") == "a\\nb\\x1b[31mü漢\\udcff"


def test_the_grey_of_the_odd_files_is_that_of_their_colour() -> None:
    assert plain("L").getpixel((0, 0)) == 124 and COLOUR == plain().getpixel((0, 0))
