"""What guided-sample writes."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.folder import lettered
from guided_sample.guides.classifier import log_prob
from guided_sample.plan import to_pixels
from tests.commands import assert_refused, run, sample
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser


def test_a_runs_folder(denoiser_folder):
    out = sample(denoiser_folder, "--class", "pear,0", "--seed", 5)
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(6))
    assert [line["class"] for line in lines] == [1, 0] * 3
    assert [line["class_name"] for line in lines[:2]] == ["pear", "apple"] and lines[0]["seed"] == 5
    with np.load(out / "samples.npz") as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8 and labels.tolist() == [1, 0] * 3
    for index in range(6):
        assert np.array_equal(np.asarray(Image.open(out / f"{index:06d}.png")), images[index, :, :, 0])
    assert Image.open(out / "grid.png").size == (2 * 68 + 4, 20 + 3 * 68 + 4)  # a column for each class, below its name
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["request"]["scale"] == 2.0 and manifest["request"]["steps"] == "5"
    assert len(manifest["digests"]["model"]) == 64 and manifest["num_samples"] == 6
    assert manifest["last_run"]["images_per_second"] > 0 and {"torch", "numpy"} <= set(manifest["versions"])


@pytest.mark.parametrize("clip", ["--clip", "--no-clip"])
def test_log_prob_is_the_classifiers_of_the_picture_at_t_0(denoiser_folder, clip):
    out = sample(denoiser_folder, "--class", "2", clip)
    for line in map(json.loads, (out / "samples.jsonl").read_text().splitlines()):
        x_0 = torch.from_numpy(np.array(Image.open(out / f"{line['index']:06d}.png"))).float()[None, None] / 127.5 - 1
        exact = log_prob(tiny_classifier(), x_0, torch.tensor([0]), torch.tensor([2])).item()
        assert line["log_prob"] == pytest.approx(exact, abs=1e-3)  # the PNG is rounded to grey levels


def test_pixels_are_cut_off_as_in_adms_program():
    x = torch.tensor([-1.5, -1.0, -0.9999, 0.0, 0.9999, 1.0, 1.5]).view(1, 1, 1, 7)
    assert to_pixels(x).flatten().tolist() == [0, 0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("sampler", [("ddpm",), ("ddim", "--eta", "0.5")])
def test_an_image_is_the_same_for_any_batch_size(denoiser_folder, sampler):
    sampler = ["--sampler", *sampler, "--class", "all"]
    images = []
    for batch_size in (1, 4, 6):
        result = run("--model", denoiser_folder, "--num-samples", 6, "--batch-size", batch_size, "--out", f"by{batch_size}",
                     *sampler)
        assert result.exit_code == 0, result.output
        images.append(np.load(f"by{batch_size}/samples.npz")["arr_0"].astype(int))
    assert max(np.abs(images[0] - other).max() for other in images[1:]) <= 1  # float32 rounding, at a grey level's edge


def test_one_image_can_be_made_again_alone(denoiser_folder):
    out = sample(denoiser_folder, "--class", "all")
    first = np.asarray(Image.open(out / "000004.png")).astype(int)
    (out / "000004.png").unlink()
    assert "1/1" in run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", "--class", "all").output
    assert np.abs(np.asarray(Image.open(out / "000004.png")).astype(int) - first).max() <= 1  # alone in its batch this time


def test_scale_0_and_class_none_are_the_same_unguided_images(denoiser_folder):
    zero = sample(denoiser_folder, "--scale", 0, "--class", 1)
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "none", "--class", "none")
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.load(zero / "samples.npz")["arr_0"], np.load("none/samples.npz")["arr_0"])
    assert np.load("none/samples.npz")["arr_1"].tolist() == [-1] * 6
    guided = run("--model", denoiser_folder, "--num-samples", 6, "--out", "guided", "--class", "1")
    assert guided.exit_code == 0
    assert not np.array_equal(np.load("guided/samples.npz")["arr_0"], np.load("none/samples.npz")["arr_0"])


@pytest.mark.parametrize("sampler, option, name", [
    ("ddpm", ["--seed", 1], "seed"), ("ddpm", ["--grad-at", "mean"], "grad_at"), ("ddpm", ["--no-clip"], "threshold"),
    ("ddpm", ["--precision", "bf16"], "precision"), ("ddpm", ["--class", "random"], "class"),
    ("ddim", ["--scale", 5], "scale"), ("ddim", ["--threshold", "none"], "threshold"), ("ddim", ["--eta", 1], "eta"),
])
def test_every_option_changes_the_images_and_the_run(denoiser_folder, sampler, option, name):
    out = sample(denoiser_folder, "--sampler", sampler)
    arguments = ["--model", denoiser_folder, "--num-samples", 6, "--sampler", sampler, *option, "--out"]
    assert_refused(run(*arguments, out), f"out holds another run's results ({name} ")
    assert run(*arguments, "other").exit_code == 0
    assert not np.array_equal(np.load("out/samples.npz")["arr_0"], np.load("other/samples.npz")["arr_0"])


def test_colour_images():
    model = stored(tiny_denoiser(in_channels=3, out_channels=6), Path("colour"))
    assert run("--model", model, "--class", "none", "--steps", 2, "--num-samples", 3, "--out", "out").exit_code == 0
    images = np.load("out/samples.npz")["arr_0"]
    assert images.shape == (3, 8, 8, 3) and np.array_equal(np.asarray(Image.open("out/000001.png")), images[1])
    assert np.array_equal(np.asarray(Image.open("out/grid.png"))[4:68:8, 4:68:8], images[0])


def test_the_grid_names_the_class_of_each_column():
    names = ("Küken", "a class with a long name", "ox")
    stored(tiny_classifier(names=names), Path("guides"))
    model = stored(tiny_denoiser(), Path("model"))
    arguments = ["--model", model, "--classifier", "guides", "--scale", 1, "--steps", 2, "--no-check"]
    for out, more in (("out", ["--class", "2,1", "--num-samples", 5]), ("one", ["--class", "2,0,1", "--num-samples", 1]),
                      ("two", ["--class", "2,0,1", "--num-samples", 2]), ("random", ["--class", "random"]),
                      ("none", ["--class", 2])):
        assert run(*arguments, *more, "--out", out).exit_code == 0
    sheet = np.asarray(Image.open("out/grid.png"))
    assert sheet.shape == (20 + 3 * 68 + 4, 2 * 68 + 4)
    for left, heading in ((4, "ox"), (72, names[1])):
        assert np.array_equal(sheet[4:20, left:left + 64], lettered(heading, 64, 16))
    assert np.array_equal(sheet[24:88:8, 72:136:8], np.asarray(Image.open("out/000001.png")))
    second = np.asarray(Image.open("two/grid.png"))[4:20, 72:136]
    assert np.array_equal(second, lettered("0", 64, 16))  # its number: the font has no such letter
    assert Image.open("one/grid.png").size == (72, 92) and Image.open("random/grid.png").size == (276, 276)
    assert Image.open("none/grid.png").size == (276, 276)  # all of one class


def test_a_long_heading_is_shortened():
    whole, shortened = (lettered("a class with a long name", width, 16) for width in (200, 64))
    left = (whole != 96).any(axis=0).argmax()
    inked = (shortened != 96).any(axis=0).nonzero()[0]
    assert 0 < inked[0] and inked[-1] < 63 and inked[-1] - inked[0] > 40
    assert np.array_equal(whole[:, left:left + 30], shortened[:, inked[0]:inked[0] + 30])  # the same letters


def test_random_labels_repeat_with_the_seed(denoiser_folder):
    for out in ("a", "b"):
        assert run("--model", denoiser_folder, "--num-samples", 12, "--out", out, "--class", "random").exit_code == 0
    labels = np.load("a/samples.npz")["arr_1"]
    assert np.array_equal(labels, np.load("b/samples.npz")["arr_1"]) and set(labels) == {0, 1, 2}
    run("--model", denoiser_folder, "--num-samples", 12, "--out", "c", "--class", "random", "--seed", 1)
    assert not np.array_equal(labels, np.load("c/samples.npz")["arr_1"])


def test_class_conditional_model_without_classifier(classifier_folder):
    model = stored(tiny_denoiser(class_names=NAMES), Path("conditional"))
    arguments = ["--model", model, "--steps", 5, "--num-samples", 3]
    assert run(*arguments, "--scale", 0, "--class", "plum", "--out", "plum").exit_code == 0
    assert np.load("plum/samples.npz")["arr_1"].tolist() == [2, 2, 2]
    assert run(*arguments, "--scale", 0, "--class", "pear", "--out", "pear").exit_code == 0
    assert not np.array_equal(np.load("plum/samples.npz")["arr_0"], np.load("pear/samples.npz")["arr_0"])
    assert_refused(run(*arguments, "--class", "none"), "class-conditional", "--class random")
    assert_refused(run(*arguments, "--class", "plum"), "comes with no classifier", "--classifier", "--scale 0")


def test_bf16_is_close_to_float32(denoiser_folder):
    steps = ["--model", denoiser_folder, "--num-samples", 4, "--class", "1", "--sampler", "ddim", "--steps", "ddim10"]
    for precision in ("float32", "bf16"):
        assert run(*steps, "--precision", precision, "--out", precision).exit_code == 0
    exact, rough = (np.load(f"{p}/samples.npz")["arr_0"].astype(float) for p in ("float32", "bf16"))
    assert 0 < np.abs(exact - rough).mean() < 8


def test_a_picture_that_was_replaced_is_told(denoiser_folder):
    out = sample(denoiser_folder, "--class", "1")
    Image.new("RGB", (9, 9)).save(out / "000002.png")
    assert_refused(run("--model", denoiser_folder, "--num-samples", 7, "--out", "out", "--class", "1"),
                   "000002.png is no picture of 8 x 8 pixels and 1 channels, as it was drawn; remove it")
    (out / "000002.png").unlink()
    assert run("--model", denoiser_folder, "--num-samples", 7, "--out", "out", "--class", "1").exit_code == 0


def test_a_seed_of_more_than_32_bits_repeats_no_image_of_a_smaller_one(denoiser_folder):
    small = np.load(sample(denoiser_folder, "--class", "none") / "samples.npz")["arr_0"]
    result = run("--model", denoiser_folder, "--class", "none", "--num-samples", 2, "--seed", 2 ** 32, "--out", "x")
    assert result.exit_code == 0, result.output
    large = np.load("x/samples.npz")["arr_0"]
    assert all((one != other).mean() > 0.5 for one in large for other in small)
