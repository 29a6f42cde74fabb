"""How a sampling run goes on after it was stopped."""
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
from PIL import Image

from tests.commands import assert_refused, contents, run, sample


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
        assert_refused(run(*again), message)
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert not list(Path("out").glob(".*.tmp"))
    result = run(*again)
    assert result.exit_code == 0 and "3/3" in result.output, result.output
    assert contents(Path("out")) == whole


def test_killed_and_run_again_equals_uninterrupted(denoiser_folder):
    arguments = ["--model", str(denoiser_folder), "--num-samples", "12", "--batch-size", "2", "--steps", "20", "--out"]
    assert run(*arguments, "whole").exit_code == 0
    for images in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", "from guided_sample.cli.sample import guided_sample; guided_sample()",
                                    *arguments, "out"], stderr=subprocess.DEVNULL)
        while len(list(Path("out").glob("0*.png"))) < images and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open("out/samples.1-of-1.jsonl", "a") as file:
        file.write('{"index": 11, "cla')  # torn
    assert run(*arguments, "out").exit_code == 0
    assert contents(Path("out")) == contents(Path("whole"))


def test_more_samples_are_added_and_the_old_ones_stay(denoiser_folder):
    out = sample(denoiser_folder)
    before = (out / "000005.png").stat().st_mtime_ns
    result = run("--model", denoiser_folder, "--num-samples", 9, "--out", "out")
    assert result.exit_code == 0 and "3/3" in result.output
    assert len(np.load("out/samples.npz")["arr_0"]) == 9 and (out / "000005.png").stat().st_mtime_ns == before
    whole = contents(out)
    fewer = run("--model", denoiser_folder, "--num-samples", 2, "--out", "out")
    assert "9 images in out, of which 2 were asked for: look at out/grid.png" in fewer.output and contents(out) == whole
    assert "0/0" in run("--model", denoiser_folder, "--num-samples", 9, "--out", "out").output


def test_the_same_run_by_other_words_goes_on(denoiser_folder):
    before = contents(sample(denoiser_folder, "--class", "0,2"))
    finished = json.loads(Path("out/manifest.json").read_text())
    shutil.copytree(denoiser_folder, "moved")
    result = run("--model", "moved/", "--num-samples", 6, "--out", "out", "--class", "apple", "--class", "plum")
    assert result.exit_code == 0 and "0/0" in result.output, result.output
    assert contents(Path("out")) == before
    moved = {"request": finished["request"] | {"model": "moved/"}}
    assert json.loads(Path("out/manifest.json").read_text()) == finished | moved  # the speed of the drawing stays


def test_what_is_no_line_of_a_sample_is_passed_over(denoiser_folder):
    before = contents(sample(denoiser_folder))
    with open("out/samples.jsonl", "ab") as file:
        file.write(b'3\n[]\nnull\n{}\n{"index": "a", "class": 0}\n{"index": 1}\n{"index": 2, "class": "x"}\n\xff\x00\n')
        file.write(b'{"index": 1, "class": 2}\n{"index": 1, "class": true}\n{"index": 2, "class": null}\n')  # others' classes
        file.write(b"[" * 100_000)
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out")
    assert result.exit_code == 0 and "0/0" in result.output, result.output
    assert contents(Path("out")) == before


@pytest.mark.parametrize("damage", [b"", b"text", slice(60)])
def test_a_damaged_picture_is_named_and_made_again_once_removed(denoiser_folder, damage):
    out = sample(denoiser_folder)
    picture = out / "000001.png"
    picture.write_bytes(picture.read_bytes()[damage] if isinstance(damage, slice) else damage)
    assert_refused(run("--model", denoiser_folder, "--num-samples", 6, "--out", "out"),
                   "out/000001.png is damaged", "remove it")
    picture.unlink()
    assert "1/1" in run("--model", denoiser_folder, "--num-samples", 6, "--out", "out").output


def test_a_folder_where_nothing_was_finished_takes_other_options(denoiser_folder):
    Path("out").mkdir()
    Path("out/.manifest.json.tmp").write_text("{")  # killed while it claimed the folder
    assert_refused(run("--model", denoiser_folder, "--num-samples", 3, "--out", "out", "--scale", "1e38"),
                   "try a smaller scale")
    assert run("--model", denoiser_folder, "--num-samples", 3, "--out", "out", "--scale", "1").exit_code == 0
