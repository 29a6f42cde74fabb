"""A model that names no classifier takes the one beside it that fits."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guided_sample.plan import Plan
from guided_sample.request import Request
from noisy_clf.checkpoints.by_name import denoiser_record
from noisy_clf.files import tomllib
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, contents, run
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser

RUN = Path("runs/photos-ddpm")
FAST = ["--steps", "4", "--num-samples", 3]


def denoiser(folder: Path = RUN, **settings: Any) -> Path:
    """A training run's folder."""
    stored(tiny_denoiser(**settings), folder / "best")
    return folder


def classifier(name: str, of: Path | None = None, **settings: Any) -> Path:
    """One trained for that denoiser, or for nobody knows which."""
    training = {"dataset": "photos"} | ({"schedule_from": denoiser_record(of)} if of else {})
    stored(tiny_classifier(**settings), Path("runs", name, "best"), training=training)
    return Path("runs", name)


def told(*arguments: object) -> dict[str, Any]:
    """The request as --dry-run tells it."""
    result = run("--model", *arguments, *FAST, "--dry-run", "--out", "x")
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout) | {"stderr": result.stderr}


def test_the_only_one_that_fits_is_taken_told_and_kept_in_the_manifest():
    classifier("a", denoiser())
    result = run("--model", RUN, *FAST, "--class", "pear", "--scale", 3, "--out", "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Guided by runs/a, the only classifier beside runs/photos-ddpm that fits it; for another: "
                                    "--classifier, for none: --class none.\n")
    assert json.loads(Path("out/manifest.json").read_text())["request"]["classifier"] == "runs/a"
    explicit = run("--model", RUN, "--classifier", "runs/a", *FAST, "--class", "pear", "--scale", 3, "--out", "explicit")
    assert explicit.exit_code == 0 and "Guided by" not in explicit.stderr
    assert contents(Path("explicit")) == contents(Path("out"))
    classifier("b", RUN)  # another one that fits, too late for the manifest to care
    again = run("--request", "out/manifest.json", "--out", "again")
    assert again.exit_code == 0 and "Guided by" not in again.stderr, again.output
    assert contents(Path("again")) == contents(Path("out"))


def test_in_python_it_is_the_same():
    classifier("a", denoiser())
    plan = Plan.of(Request(str(RUN), steps="4", classes=("plum",)), "cpu")
    assert plan.request.classifier == "runs/a" and plan.classifier is not None and plan.request.scale == 1.0
    assert plan.notes[0].startswith("Guided by runs/a") and plan.draw([0]).lines[0]["log_prob"] is not None


def test_several_that_fit_are_named_the_newest_first_and_one_must_be_chosen():
    denoiser()
    for i in range(7):
        weights = classifier(f"c{i}", RUN) / "best/model.safetensors"
        os.utime(weights, (1e9 + i % 4, 1e9 + i % 4))
    assert_refused(run("--model", RUN, *FAST), "7 classifiers beside runs/photos-ddpm fit it, the newest first: runs/c3, "
                   "runs/c2, runs/c6, runs/c1, runs/c5, ...; choose one with --classifier, or none with --class none.")


def test_one_that_tells_its_denoiser_comes_before_one_that_does_not_and_anothers_never():
    denoiser(), denoiser(Path("runs/other"), channels=64)
    classifier("silent")
    assert told(RUN)["classifier"] == "runs/silent"
    classifier("others", Path("runs/other"))
    assert told(RUN)["classifier"] == "runs/silent" and told("runs/other")["classifier"] == "runs/others"
    classifier("mine", RUN)
    assert told(RUN)["classifier"] == "runs/mine"
    shutil.rmtree("runs/mine"), shutil.rmtree("runs/silent")
    assert_refused(run("--model", RUN, *FAST, "--class", 1), "runs/photos-ddpm knows no classes and comes with no classifier; "
                   "give --classifier, or --class none; train one with: train-noisy-clf --dataset DATASET --schedule-from "
                   "runs/photos-ddpm.")


def test_a_run_that_trained_on_is_known_by_its_name_and_one_that_was_renamed_by_its_weights():
    classifier("a", denoiser())
    shutil.copytree(RUN, "runs/renamed")
    assert told("runs/renamed")["classifier"] == told("runs/renamed/best")["classifier"] == "runs/a"
    moved_on = tiny_denoiser()
    moved_on.network.out[2].bias.data += 0.1
    for folder in (RUN, Path("runs/renamed")):
        stored(moved_on, folder / "best")
    assert told(RUN)["classifier"] == told(RUN / "best")["classifier"] == "runs/a"
    assert_refused(run("--model", "runs/renamed", "--class", 1, *FAST), "comes with no classifier")


@pytest.mark.parametrize("model, expected", [("photos-ddpm", "./digits"), ("./photos-ddpm/best/", "./digits")])
def test_beside_a_run_in_this_very_folder_a_path_is_no_models_name(monkeypatch: pytest.MonkeyPatch, model: str, expected: str):
    classifier("digits", denoiser())  # a bundled one is called so
    monkeypatch.chdir("runs")
    assert told(model)["classifier"] == expected
    assert told(Path(model).absolute())["classifier"] == str(Path("digits").absolute())
    monkeypatch.chdir("photos-ddpm")
    assert told(".")["classifier"] == told("best")["classifier"] == "../digits"


@pytest.mark.parametrize("settings", [{"schedule": NoiseSchedule.named("linear", 50)}, {"image_size": 16}, {"in_channels": 3}])
def test_one_of_another_space_does_not_fit(settings: dict[str, Any]):
    denoiser()
    classifier("a", **settings)
    assert told(RUN)["class"] == ["none"]


def test_one_of_other_classes_than_a_conditional_models_does_not_fit():
    denoiser(class_names=NAMES)
    classifier("a", RUN, names=("cat", "dog", "cow")), classifier("b", RUN, names=("x", "y"))
    assert_refused(run("--model", RUN, *FAST), "comes with no classifier; give --classifier, or --scale 0 to sample without "
                   "guidance; train one with: train-noisy-clf --dataset DATASET --schedule-from runs/photos-ddpm.")
    classifier("c", RUN)
    assert told(RUN)["classifier"] == "runs/c" and "for none: --scale 0." in told(RUN)["stderr"]
    assert told(RUN, "--scale", 0)["scale"] == 0
    classifier("d", RUN)
    assert_refused(run("--model", RUN, *FAST), "runs/d", "choose one with --classifier, or none with --scale 0.")


def test_where_no_guidance_is_asked_for_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    classifier("a", denoiser()), classifier("b", RUN)  # two: a search would end in a refusal
    Path("mine.py").write_text("def darker(look):\n    return -look.x_t.mean(dim=(1, 2, 3))\n")
    for arguments in (["--class", "none"], ["--scale", 0], ["--guide", "mine.py:darker"], ["--class", "word:none"]):
        assert told(RUN, *arguments)["class"] == ["none"]
    advice = {"classifier": str(Path("runs/b").absolute())}
    stored(tiny_denoiser(), RUN / "best", sampling=advice)
    assert told(RUN)["classifier"] == advice["classifier"]


def test_alone_a_model_is_sampled_without_guidance_as_ever():
    denoiser(), denoiser(Path("runs/another"))
    Path("runs/broken/best").mkdir(parents=True)
    Path("runs/broken/best/config.json").write_text("{"), Path("runs/notes.txt").write_text("x")
    (classifier("lost") / "best/model.safetensors").unlink()
    assert run("--model", RUN, *FAST, "--out", "out").exit_code == 0
    assert np.load("out/samples.npz")["arr_1"].tolist() == [-1] * 3


def test_it_is_found_by_names_alone():
    classifier("a", denoiser())
    Path("runs/a/best/model.safetensors").write_bytes(b"no weights")
    assert_refused(run("--model", RUN, "--class", "pare"), "no class 'pare'; did you mean pear?")
    classifier("b", RUN)
    (RUN / "best/model.safetensors").write_bytes(b"no weights")
    assert_refused(run("--model", RUN), "2 classifiers beside runs/photos-ddpm fit it")
