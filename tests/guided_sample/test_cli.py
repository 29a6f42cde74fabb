"""guided-sample and train-ddpm as people type them: what they write, how they go on, and what bad input gets."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from guided_sample.cli import guided_sample, train_ddpm
from guided_sample.loaders import load_denoiser
from guided_sample.output import OutputFolder, to_pixels
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser


def run(*arguments, command=guided_sample):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def sample(denoiser_folder, *arguments):
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", *arguments)
    assert result.exit_code == 0, result.output
    return Path("out")


def contents(folder):
    """Everything of a run but what a clock tells; log-probabilities to 3 digits, as they vary in the last one by the batch."""
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    with np.load(folder / "samples.npz") as archive:
        arrays = {name: archive[name].tolist() for name in archive.files}
    return {path.name: path.read_bytes() for path in folder.glob("*.png")} | arrays | {
        "options": json.loads((folder / "manifest.json").read_text())["options"],
        "lines": [line | {"log_prob": pytest.approx(line["log_prob"], abs=1e-3)} for line in lines]}


def refused(result, *words):
    """One sentence with these words in it, exit status 1 or 2, no traceback."""
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), result.output
    message = result.output[result.output.index("Error: "):]
    assert "Traceback" not in result.output and message.count("\n") == 1, result.output
    for word in words:
        assert word in message, message


# ------------------------------------------------------------------------------------------------ what it writes

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
    assert Image.open(out / "grid.png").size == (2 * 68 + 4, 3 * 68 + 4)  # a column for each class
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["options"]["scale"] == 2.0 and manifest["options"]["timesteps"] == [0, 12, 24, 37, 49]
    assert len(manifest["options"]["model_digest"]) == 64 and manifest["num_samples"] == 6
    assert manifest["last_run"]["images_per_second"] > 0 and {"torch", "numpy"} <= set(manifest["versions"])


@pytest.mark.parametrize("clip", ["--clip", "--no-clip"])
def test_log_prob_is_the_classifiers_of_the_picture_at_t_0(denoiser_folder, clip):
    out = sample(denoiser_folder, "--class", "2", clip)
    for line in map(json.loads, (out / "samples.jsonl").read_text().splitlines()):
        x_0 = torch.from_numpy(np.array(Image.open(out / f"{line['index']:06d}.png"))).float()[None, None] / 127.5 - 1
        exact = tiny_classifier().log_prob(x_0, torch.tensor([0]), torch.tensor([2])).item()
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
    ("ddpm", ["--seed", 1], "seed"), ("ddpm", ["--grad-at", "mean"], "grad_at"), ("ddpm", ["--no-clip"], "clip"),
    ("ddpm", ["--precision", "bf16"], "precision"), ("ddpm", ["--class", "random"], "class"),
    ("ddim", ["--scale", 5], "scale"), ("ddim", ["--no-clip"], "clip"), ("ddim", ["--eta", 1], "eta"),
])
def test_every_option_changes_the_images_and_the_run(denoiser_folder, sampler, option, name):
    out = sample(denoiser_folder, "--sampler", sampler)
    arguments = ["--model", denoiser_folder, "--num-samples", 6, "--sampler", sampler, *option, "--out"]
    refused(run(*arguments, out), f"out holds another run's results ({name} ")
    assert run(*arguments, "other").exit_code == 0
    assert not np.array_equal(np.load("out/samples.npz")["arr_0"], np.load("other/samples.npz")["arr_0"])


def test_colour_images():
    model = stored(tiny_denoiser(in_channels=3, out_channels=6), Path("colour"))
    assert run("--model", model, "--class", "none", "--steps", 2, "--num-samples", 3, "--out", "out").exit_code == 0
    images = np.load("out/samples.npz")["arr_0"]
    assert images.shape == (3, 8, 8, 3) and np.array_equal(np.asarray(Image.open("out/000001.png")), images[1])
    assert np.array_equal(np.asarray(Image.open("out/grid.png"))[4:68:8, 4:68:8], images[0])


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
    refused(run(*arguments, "--class", "none"), "class-conditional", "--class random")
    refused(run(*arguments, "--class", "plum"), "comes with no classifier", "--classifier", "--scale 0")


def test_bf16_is_close_to_float32(denoiser_folder):
    steps = ["--model", denoiser_folder, "--num-samples", 4, "--class", "1", "--sampler", "ddim", "--steps", "ddim10"]
    for precision in ("float32", "bf16"):
        assert run(*steps, "--precision", precision, "--out", precision).exit_code == 0
    exact, rough = (np.load(f"{p}/samples.npz")["arr_0"].astype(float) for p in ("float32", "bf16"))
    assert 0 < np.abs(exact - rough).mean() < 8


# ------------------------------------------------------------------------------------------------ how it goes on

@pytest.mark.parametrize("trouble, message", [
    (KeyboardInterrupt(), "stopped with 3 of 6 images finished in out; the same command makes the others"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: out/000003.png could not be written"),
])
def test_stopped_and_run_again_equals_uninterrupted(denoiser_folder, monkeypatch, trouble, message):
    whole = contents(sample(denoiser_folder, "--batch-size", 2))
    save, saved = Image.Image.save, []

    def fail_at_the_fourth(image, file, **options):
        if len(saved) == 3:
            Path(file).write_bytes(b"half a picture")
            raise trouble
        saved.append(save(image, file, **options))

    again = ["--model", denoiser_folder, "--num-samples", 6, "--batch-size", 2, "--out", "out"]
    os.rename("out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail_at_the_fourth)
        refused(run(*again), message)
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert not list(Path("out").glob(".*"))
    result = run(*again)
    assert result.exit_code == 0 and "3/3" in result.output, result.output
    assert contents(Path("out")) == whole


def test_killed_and_run_again_equals_uninterrupted(denoiser_folder):
    arguments = ["--model", str(denoiser_folder), "--num-samples", "12", "--batch-size", "2", "--steps", "20", "--out"]
    assert run(*arguments, "whole").exit_code == 0
    for images in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", "from guided_sample.cli import guided_sample; guided_sample()",
                                    *arguments, "out"], stderr=subprocess.DEVNULL)
        while len(list(Path("out").glob("0*.png"))) < images and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open("out/samples.jsonl", "a") as file:
        file.write('{"index": 11, "cla')  # torn
    assert run(*arguments, "out").exit_code == 0
    assert contents(Path("out")) == contents(Path("whole"))


def test_more_samples_are_added_and_the_old_ones_stay(denoiser_folder):
    out = sample(denoiser_folder)
    before = (out / "000005.png").stat().st_mtime_ns
    result = run("--model", denoiser_folder, "--num-samples", 9, "--out", "out")
    assert result.exit_code == 0 and "3/3" in result.output
    assert len(np.load("out/samples.npz")["arr_0"]) == 9 and (out / "000005.png").stat().st_mtime_ns == before
    assert run("--model", denoiser_folder, "--num-samples", 2, "--out", "out").exit_code == 0  # fewer: none is lost
    assert len(np.load("out/samples.npz")["arr_0"]) == 2
    assert "0/0" in run("--model", denoiser_folder, "--num-samples", 9, "--out", "out").output


def test_the_same_run_by_other_words_goes_on(denoiser_folder):
    before = contents(sample(denoiser_folder, "--class", "0,2"))
    finished = json.loads(Path("out/manifest.json").read_text())
    shutil.copytree(denoiser_folder, "moved")
    result = run("--model", "moved/", "--num-samples", 6, "--out", "out", "--class", "apple", "--class", "plum")
    assert result.exit_code == 0 and "0/0" in result.output, result.output
    assert contents(Path("out")) == before
    assert json.loads(Path("out/manifest.json").read_text()) == finished | {"model": "moved/"}  # the speed of the drawing stays


def test_what_is_no_line_of_a_sample_is_passed_over(denoiser_folder):
    before = contents(sample(denoiser_folder))
    with open("out/samples.jsonl", "ab") as file:
        file.write(b'3\n[]\nnull\n{}\n{"index": "a", "class": 0}\n{"index": 1}\n{"index": 2, "class": "x"}\n\xff\x00\n')
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out")
    assert result.exit_code == 0 and "0/0" in result.output, result.output
    assert contents(Path("out")) == before


@pytest.mark.parametrize("damage", [b"", b"text", slice(60)])
def test_a_damaged_picture_is_named_and_made_again_once_removed(denoiser_folder, damage):
    out = sample(denoiser_folder)
    picture = out / "000001.png"
    picture.write_bytes(picture.read_bytes()[damage] if isinstance(damage, slice) else damage)
    refused(run("--model", denoiser_folder, "--num-samples", 6, "--out", "out"), "out/000001.png is damaged", "remove it")
    picture.unlink()
    assert "1/1" in run("--model", denoiser_folder, "--num-samples", 6, "--out", "out").output


def test_a_folder_where_nothing_was_finished_takes_other_options(denoiser_folder):
    Path("out").mkdir()
    Path("out/.manifest.json.tmp").write_text("{")  # killed while it claimed the folder
    refused(run("--model", denoiser_folder, "--num-samples", 3, "--out", "out", "--scale", "1e38"), "try a smaller --scale")
    assert run("--model", denoiser_folder, "--num-samples", 3, "--out", "out", "--scale", "1").exit_code == 0


# ------------------------------------------------------------------------------------------------ what bad input gets

@pytest.mark.parametrize("arguments, words", [
    (["--class", "3"], ["there is no class 3; the classes are 0 to 2 (apple, pear, plum)."]),
    (["--class", "-1"], ["there is no class -1; the classes are 0 to 2"]),
    (["--class", "pare"], ["no class 'pare'; did you mean pear?"]),
    (["--class", "submarine"], ["no class 'submarine'; the classes are apple, pear, plum, or 0 to 2."]),
    (["--scale", "nan"], ["nan is not a finite number"]),
    (["--scale", "inf"], ["inf is not a finite number"]),
    (["--scale", "much"], ["'much' is not a valid float"]),
    (["--steps", "51"], ["steps '51' cannot be made", "1 to 50"]),
    (["--sampler", "ddim", "--steps", "ddim30"], ["the nearest that can", "ddim25"]),
    (["--steps", ""], ["steps '' cannot be read"]),
    (["--class", "all,1"], ["--class all goes with no other"]),
    (["--class", "1", "--class", "none"], ["--class none goes with no other"]),
    (["--sampler", "ddim", "--eta", "nan"], ["nan is not a finite number"]),
    (["--classifier", ""], ["give a classifier's folder, or one of the names"]),
    (["--sampler", "euler"], ["'euler' is not one of 'ddpm', 'ddim'"]),
    (["--eta", "0.5"], ["eta belongs to --sampler ddim"]),
    (["--sampler", "ddim", "--grad-at", "mean"], ["mean belongs to --sampler ddpm"]),
    (["--batch-size", "0"], ["--batch-size", "0 is not in the range x>=1"]),
    (["--num-samples", "0"], ["0 is not in the range x>=1"]),
    (["--device", "cuda:9"], ["device 'cuda:9' is not there; this machine has: cpu"]),
    (["--device", "abacus"], ["device 'abacus' is not there"]),
    (["--precision", "int4"], ["'int4' is not one of"]),
    (["--model", "digitz"], ["there is no denoiser 'digitz'; the names are:", "a path to a denoiser's folder works too"]),
    (["--classifier", "nowhere"], ["there is no classifier 'nowhere'"]),
])
def test_bad_options_end_in_a_sentence(denoiser_folder, arguments, words):
    refused(run("--model", denoiser_folder, "--out", "out", *arguments), *words)
    assert not Path("out").exists()


def test_a_folder_with_another_runs_results_is_refused_and_stays(denoiser_folder):
    before = contents(sample(denoiser_folder, "--class", "1"))
    refused(run("--model", denoiser_folder, "--out", "out", "--class", "1", "--seed", "1", "--eta", "0"),
            "out holds another run's results (seed 0 there, 1 now)", "another --out")
    refused(run("--model", denoiser_folder, "--out", "out", "--class", "2"), "class [1] there, [2] now")
    assert contents(Path("out")) == before
    Path("out/samples.jsonl").write_text("")  # its lines lost, it still has the images
    refused(run("--model", denoiser_folder, "--out", "out", "--class", "2"), "class [1] there, [2] now")
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("text")
    refused(run("--model", denoiser_folder, "--out", "mine"), "mine is there already and is not a sampling run's folder")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]
    Path("app").mkdir()
    Path("app/manifest.json").write_text('{"name": "a web page"}')
    refused(run("--model", denoiser_folder, "--out", "app"), "app/manifest.json is not that of a run of this toolkit")


def test_a_loaded_denoiser_is_frozen_and_in_evaluation_mode(denoiser_folder):
    network = load_denoiser(denoiser_folder).network
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_models_that_do_not_fit_or_are_damaged(denoiser_folder, classifier_folder):
    linear = stored(tiny_classifier(NoiseSchedule.named("linear", 50)), Path("linear"))
    refused(run("--model", denoiser_folder, "--classifier", linear),
            "another noise schedule (linear, T = 50", "--schedule-from")
    refused(run("--model", denoiser_folder, "--classifier", denoiser_folder), "holds a denoiser, and a classifier is wanted")
    refused(run("--model", classifier_folder), "holds a classifier, and a denoiser is wanted")
    Path("empty").mkdir()
    refused(run("--model", "empty"), "empty is a folder without a config.json")
    Path("file.pt").write_bytes(b"x")
    refused(run("--model", "file.pt"), "file.pt is a file, but a denoiser is a folder")
    torn = stored(tiny_denoiser(), Path("torn"))
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:5000])
    refused(run("--model", torn, "--class", "none"), "torn/model.safetensors is not a whole safetensors file")


@pytest.mark.parametrize("network, more, message", [
    ({"cleverness": 9}, {}, "foreign: unknown setting cleverness"),
    ({"in_channels": "1"}, {}, "foreign: in_channels must be a whole number of at least 1, not '1'"),
    ({"out_channels": 2.0}, {}, "foreign: out_channels must be a whole number of at least 1, not 2.0"),
    ({}, {"class_names": ["a"]}, "foreign: the denoiser has 0 classes but 1 class names"),
    ({}, {"class_names": 3}, "foreign/config.json: class_names is not a list of names"),
    ({}, {"class_names": [3]}, "foreign/config.json: class_names is not a list of names"),
    ({}, {"sampling": 3}, "foreign: "),
    ({}, {"sampling": {"scale": "five"}}, "foreign: \"sampling\" must hold a classifier's name, a scale and"),
    ({}, {"sampling": {"classifier": 3}}, "foreign: \"sampling\" must hold a classifier's name"),
    ({}, {"sampling": {"steps": {"ddpm": 5}}}, "foreign: \"sampling\" must hold"),
])
def test_a_foreign_configuration_is_refused(network, more, message):
    foreign = stored(tiny_denoiser(), Path("foreign"))
    config = json.loads((foreign / "config.json").read_text())
    config["network"] |= network
    (foreign / "config.json").write_text(json.dumps(config | more))
    refused(run("--model", foreign, "--class", "none"), message)


def test_a_denoiser_that_draws_nan_ends_in_a_sentence_and_stores_nothing():
    broken = tiny_denoiser()
    broken.network.out[2].bias.data.fill_(float("nan"))
    stored(broken, Path("broken"))
    refused(run("--model", "broken", "--class", "none", "--steps", 2, "--num-samples", 2, "--out", "out"),
            "sample 0, 1 came out as NaN: the model is damaged")
    assert not list(Path("out").glob("*.png"))


def test_many_classes_make_a_name_that_a_folder_can_have(denoiser_folder):
    assert run("--model", denoiser_folder, "--num-samples", 1, *["--class", "apple"] * 60).exit_code == 0


def test_nan_in_the_gradient_names_t_and_samples(denoiser_folder):
    broken = tiny_classifier()
    broken.network.out[2].c_proj.weight.data.fill_(float("nan"))
    stored(broken, Path("broken"))
    result = run("--model", denoiser_folder, "--classifier", "broken", "--num-samples", 3, "--out", "out")
    refused(result, "the guidance gradient is not finite at t = 49 for sample 0, 1, 2")
    assert not list(Path("out").glob("*.png"))


def test_nan_in_the_gradient_of_a_later_batch_names_the_sample_and_keeps_the_earlier_ones(denoiser_folder, monkeypatch):
    log_prob = NoisyClassifier.log_prob
    monkeypatch.setattr(NoisyClassifier, "log_prob", lambda self, x, t, y: (
        log_prob(self, x, t, y) * torch.where(y == 2, float("nan"), 1.0)))
    refused(run("--model", denoiser_folder, "--class", "0,1,2", "--num-samples", 6, "--batch-size", 2, "--out", "out"),
            "not finite at t = 49 for sample 2;")
    assert len(list(Path("out").glob("0*.png"))) == 2


def test_a_full_disk_at_the_very_end_keeps_the_images(denoiser_folder, monkeypatch):
    monkeypatch.setattr(OutputFolder, "_write_npz", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full", "out/x")))
    refused(run("--model", denoiser_folder, "--num-samples", 2, "--out", "out"), "the disk is full: out/x")
    assert len(list(Path("out").glob("0*.png"))) == 2


# ------------------------------------------------------------------------------------------------ train-ddpm

TINY = ["--image-size", 8, "--channels", 32, "--channel-mult", "1", "--attention-at", "", "--iterations", 4, "--batch-size", 4,
        "--validate-every", 4, "--timesteps", 20]


@pytest.mark.parametrize("variance, outputs", [("learned_range", 2), ("fixed_small", 1)])
def test_train_a_ddpm_then_sample_from_it(variance, outputs):
    result = run("--out", "ddpm", "--variance", variance, *TINY, command=train_ddpm)
    assert result.exit_code == 0, result.output
    config = json.loads(Path("ddpm/best/config.json").read_text())
    assert config["variance"] == variance and config["network"]["out_channels"] == outputs
    assert config["schedule"] == {"name": "cosine", "T": 20} and config["training"]["dataset"] == "digits"
    result = run("--model", "ddpm", "--class", "none", "--steps", 3, "--num-samples", 2)
    assert result.exit_code == 0 and Path("samples/ddpm-class-none-scale-1-ddpm-3-seed-0/grid.png").exists(), result.output


def test_class_conditional_ddpm_is_sampled_by_class():
    assert run("--out", "ddpm", "--class-conditional", *TINY, command=train_ddpm).exit_code == 0
    result = run("--model", "ddpm", "--class", "seven", "--scale", 0, "--steps", 3, "--num-samples", 2, "--out", "out")
    assert result.exit_code == 0 and np.load("out/samples.npz")["arr_1"].tolist() == [7, 7], result.output


def test_help_shows_examples():
    assert "guided-sample --model digits --class 3 --scale 5" in run("--help").output
    assert "train-ddpm --dataset digits" in run("--help", command=train_ddpm).output
