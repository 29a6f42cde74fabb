"""train-ddpm, and sampling from what it made."""
from __future__ import annotations

import errno
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_sample.cli.train_ddpm import train_ddpm
from guided_sample.loaders import load_denoiser
from noisy_clf.datasets import load_dataset
from tests.commands import assert_refused, invoke, run

NETWORK = ["--image-size", 8, "--channels", 32, "--channel-mult", "1", "--attention-at", ""]
TINY = [*NETWORK, "--iterations", 4, "--batch-size", 4, "--validate-every", 4, "--T", 20]


def trained(*arguments: object) -> str:
    """What the command printed."""
    result = invoke(train_ddpm, "--out", "ddpm", *TINY, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def pictures(folder: Path, count: int, size: tuple[int, int] = (12, 9)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("variance, outputs", [("learned_range", 2), ("learned", 2), ("fixed_small", 1)])
def test_train_a_ddpm_then_sample_from_it(variance: str, outputs: int) -> None:
    trained("--variance", variance, "--predicts", "velocity")
    config = json.loads(Path("ddpm/best/config.json").read_text())
    assert config["variance"] == variance and config["network"]["out_channels"] == outputs
    assert config["schedule"] == {"name": "cosine", "T": 20} and config["training"]["dataset"] == "digits"
    assert config["predicts"] == load_denoiser("ddpm").predicts == "velocity"
    result = run("--model", "ddpm", "--class", "none", "--steps", 3, "--num-samples", 2)
    assert result.exit_code == 0 and Path("samples/ddpm-class-none-scale-0-ddpm-3-seed-0/grid.png").exists(), result.output


def test_class_conditional_ddpm_is_sampled_by_class() -> None:
    trained("--class-conditional")
    result = run("--model", "ddpm", "--class", "seven", "--scale", 0, "--steps", 3, "--num-samples", 2, "--out", "out")
    assert result.exit_code == 0 and np.load("out/samples.npz")["arr_1"].tolist() == [7, 7], result.output
    assert_refused(run("--model", "ddpm", "--class", "none"), "class-conditional and cannot be sampled without a class")


def test_with_dropped_labels_it_knows_the_null_class() -> None:
    trained("--class-conditional", "--drop-labels", 0.5)
    denoiser = load_denoiser("ddpm")
    assert denoiser.null_class and denoiser.K == 10 and denoiser.network.config.num_classes == 11
    result = run("--model", "ddpm", "--class", "none", "--steps", 3, "--num-samples", 2, "--out", "out")
    assert result.exit_code == 0 and np.load("out/samples.npz")["arr_1"].tolist() == [-1, -1], result.output
    config = Path("ddpm/best/config.json")
    config.write_text(config.read_text().replace('"null_class": true', '"null_class": false'))
    assert_refused(run("--model", "ddpm", "--class", "none"), "cannot be sampled without a class")
    assert_refused(run("--model", "ddpm", "--class", 3, "--scale", 0), "has 11 classes but 10 class names")


def test_labels_are_dropped_only_where_they_are_shown() -> None:
    assert_refused(invoke(train_ddpm, *TINY, "--drop-labels", 0.1), "--class-conditional", "give both, or leave it out")


@pytest.mark.parametrize("flags, plainly", [
    ([], "--class none"), (["--class-conditional"], "--scale 0"),
    (["--class-conditional", "--drop-labels", 0.1], "--cfg 2")])
def test_the_command_that_it_ends_with_draws(flags: list[object], plainly: str) -> None:
    told = trained(*flags)
    command = shlex.split(told.strip().split("sample from it with: ")[1])
    assert command[0] == "guided-sample" and " ".join(command).endswith(plainly) and "--weak" not in told
    result = run(*command[1:], "--steps", 2, "--num-samples", 2)
    assert result.exit_code == 0, result.output


def test_the_earlier_state_that_it_ends_with_guides() -> None:
    weak = re.search(r"--weak ddpm@step-2(?=\))", trained("--save-every", 2))
    assert weak
    result = run("--model", "ddpm", *weak[0].split(), "--weak-scale", 2, "--class", "none", "--steps", 2, "--num-samples", 2)
    assert result.exit_code == 0, result.output


def test_each_validation_draws_a_preview() -> None:
    flags = ["--class-conditional", "--iterations", 6, "--validate-every", 3, "--ema", 0, "--lr", 0.02]
    trained(*flags)
    found = sorted(Path("ddpm/previews").iterdir())
    assert [path.name for path in found] == ["step-0000003.png", "step-0000006.png"]
    assert Image.open(found[0]).size == (8 * (64 + 4) + 4, 2 * (64 + 4) + 4)  # two rows of eight classes
    first, second = (path.read_bytes() for path in found)
    assert first != second
    found[1].unlink()
    Path("ddpm/states/step-0000006.pt").unlink()
    trained(*flags)  # goes on from step 3
    assert found[1].read_bytes() == second


def test_a_disk_that_fills_in_the_middle_of_previews_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        def full(self: Image.Image, path: Path, **how: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        patched.setattr(Image.Image, "save", full)
        result = invoke(train_ddpm, "--out", "ddpm", *TINY)
    assert_refused(result, "the disk is full", "previews")
    assert [path.name for path in Path("ddpm/states").iterdir()] == ["step-0000004.pt"] and Path("ddpm/best").exists()
    trained()
    assert [path.name for path in Path("ddpm/previews").iterdir()] == ["step-0000004.png"]


@pytest.mark.parametrize("layout", ["flat", "one class", "mixed", "splits", "csv"])
def test_images_of_ones_own_need_no_classes(layout: str) -> None:
    data = Path("photos")
    if layout in ("flat", "mixed", "csv"):
        pictures(data, 12)
    if layout in ("one class", "mixed"):
        pictures(data / "cats" / "old", 12)
    if layout == "splits":
        pictures(data / "train", 11)
        pictures(data / "val" / "cats", 3)
    if layout == "csv":
        data = Path("photos.csv")
        data.write_text("file\n" + "".join(f"photos/{i:03}.png\n" for i in range(12)))
    told = trained("--dataset", data)
    seen = {"flat": 10, "one class": 10, "mixed": 21, "splits": 11, "csv": 10}[layout]
    assert json.loads(Path("ddpm/best/config.json").read_text())["training"]["images"] == seen, told
    assert load_denoiser("ddpm").channels == 3
    result = invoke(train_ddpm, "--dataset", data, *TINY, "--class-conditional", "--out", "cond")
    assert_refused(result, "photos")  # for classes there must be classes


def test_folders_of_one_picture_each_and_labels_without_sense_are_no_matter() -> None:
    for i in range(12):
        pictures(Path("photos") / str(i), 1)
    Path("photos.csv").write_text("file,label\n" + "".join(f"photos/{i}/000.png,\n" for i in range(12)))
    for data in ("photos", "photos.csv"):
        found = load_dataset(data, 8, classes=False)
        assert (len(found.train), len(found.validation), found.class_names) == (10, 2, ())


def test_images_that_are_too_small_are_enlarged_and_told() -> None:
    told = trained("--dataset", pictures(Path("photos"), 12, (6, 7)))
    assert "000.png has 7 x 6 pixels; it is enlarged to 8, and so are all others that are smaller" in told.replace("001", "000")
    assert "enlarged" not in trained("--dataset", pictures(Path("larger"), 12), "--out", "other")


def test_fewer_images_than_a_batch_are_refused() -> None:
    result = invoke(train_ddpm, "--dataset", pictures(Path("photos"), 4), *TINY, "--out", "ddpm")
    assert_refused(result, "photos has 3 images to train on, fewer than the 4 of a batch; give --batch-size 3 or less")
    assert invoke(train_ddpm, "--dataset", "photos", *TINY, "--batch-size", 3, "--out", "ddpm").exit_code == 0


def test_folders_without_images_are_refused() -> None:
    Path("photos/empty").mkdir(parents=True)
    assert_refused(invoke(train_ddpm, "--dataset", "photos", *TINY), "photos holds no images")


def test_help_shows_examples() -> None:
    assert "guided-sample --class 207 --scale 10" in run("--help").output
    assert "train-ddpm --dataset digits" in invoke(train_ddpm, "--help").output
