from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_sample.cli.eval_ddpm import eval_ddpm
from guided_sample.likelihood import bound, subject
from noisy_clf.datasets.digits import digits
from tests.commands import assert_refused, invoke
from tests.conftest import NAMES, stored, tiny_denoiser


@pytest.fixture
def model() -> Path:
    return stored(tiny_denoiser(), Path("mine"), training={"dataset": "digits"})


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(subject, "draw", lambda found, path: None)


@pytest.fixture
def drawn() -> None:
    """Pictures are drawn, which takes long."""


def evaluated(*arguments: object, out: str = "out") -> tuple[dict[str, Any], str]:
    """(evaluation.json, what was printed)."""
    result = invoke(eval_ddpm, *arguments, "--device=cpu", f"--out={out}")
    assert result.exit_code == 0, result.output
    return json.loads(Path(out, "evaluation.json").read_text()), result.output


def test_what_is_told_is_what_is_written(model: Path, drawn: None) -> None:
    result = invoke(eval_ddpm, model, "--images=12", "--device=cpu", "--batch-size=8")
    assert result.exit_code == 0, result.output
    out = Path("evaluations/mine-likelihood")
    content = json.loads((out / "evaluation.json").read_text())
    terms = np.load(out / content["terms"])
    assert terms.shape == (12, 50, 2) and not np.isnan(terms).any()
    bits = content["bits_per_dim"]
    assert bits["total"] == pytest.approx(terms[..., 0].sum(axis=1).mean() + bits["prior"], rel=1e-5)
    assert bits["total"] == pytest.approx(bits["prior"] + bits["L_0"] + bits["steps"])
    assert (content["dataset"], content["images"], content["of_images"], content["steps"]) == ("digits", 12, 364, 50)
    assert content["by_t"]["t"] == list(range(50)) and content["by_t"]["bits_per_dim"][0] == bits["L_0"]
    assert "12 images at 50 steps each, of which 600 are to be done: about " in result.output
    assert "\n".join([f"{model}, on 12 validation images of digits:", *content["verdict"]]) in result.output
    with Image.open(out / "evaluation.png") as image:
        image.load()
        assert image.format == "PNG"


def test_the_same_command_measures_nothing_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = evaluated(model, "--images=4", "--steps=5")
    more, _ = evaluated(model, "--images=6", "--steps=5")
    monkeypatch.setattr(bound, "terms_at", lambda *arguments: pytest.fail("measured again"))
    again, output = evaluated(model, "--images=4", "--steps=5")
    assert again == first and "to be done" not in output and more["terms"] != first["terms"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_one_tells_of_the_images_that_are_done_and_goes_on(
        model: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    flags = ("--images=6", "--steps=5", "--batch-size=2")
    whole, _ = evaluated(model, *flags, out="whole")
    real, calls = bound.terms_at, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) in (3, 10):
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(bound, "terms_at", interrupted)
    first = invoke(eval_ddpm, model, *flags, "--device=cpu", "--out=out")
    assert_refused(first, "stopped before the first images were done", "the same command goes on from here.")
    second = invoke(eval_ddpm, model, *flags, "--device=cpu", "--out=out")
    assert_refused(second, "stopped: the above is of 4 of 6 images; all that was measured is in out")
    assert f"{model}, on 4 validation images of digits:" in second.output and not Path("out/evaluation.json").exists()
    assert evaluated(model, *flags)[0] == whole and len(calls) == 15


def test_a_class_conditional_one_sees_its_own_numbers_of_the_classes() -> None:
    names = digits(8).class_names
    for name, order in (("one", names), ("other", names[::-1])):
        stored(tiny_denoiser(class_names=order), Path(name))
    found = [evaluated(name, "--dataset=digits", "--images=3", "--steps=3", out=name)[0]["bits_per_dim"]["total"]
             for name in ("one", "other")]
    assert found[0] != pytest.approx(found[1], rel=1e-6)  # they number the classes otherwise, and have the same weights


def test_bf16_is_near_float32(model: Path) -> None:
    exact, rough = (evaluated(model, "--images=8", "--steps=5", f"--precision={precision}")[0]["bits_per_dim"]["total"]
                    for precision in ("float32", "bf16"))
    assert 0 < abs(exact - rough) < 0.05 * exact


@pytest.mark.parametrize("arguments, sentence", [
    ("nosuch", "there is no denoiser 'nosuch'"),
    ("imagenet64-256", "imagenet64-256 is an upsampler, whose likelihood is not measured here"),
    ("lsun-cat", "lsun-cat does not tell what it learned from; give --dataset."),
    ("digits --steps=2000", "steps '2000' cannot be made"),
    ("digits --dataset=nosuch", "there is no dataset 'nosuch'"),
    ("digits --data=there", "'digits' is in scikit-learn; leave it out"),
    ("digits --model-config=nosuch.toml", "there is no file 'nosuch.toml'"),
    ("digits --device=tpu", "device 'tpu' is not there")])
def test_what_cannot_be_is_refused(arguments: str, sentence: str) -> None:
    assert_refused(invoke(eval_ddpm, *arguments.split()), sentence)
    assert list(Path().iterdir()) == []


def test_images_of_another_kind_are_refused() -> None:
    stored(tiny_denoiser(in_channels=3, out_channels=6), Path("colour"))
    assert_refused(invoke(eval_ddpm, "colour", "--dataset=digits"),
                   "colour makes images of 8 pixels a side and 3 channels; digits has 8 and 1; give the --dataset")
    stored(tiny_denoiser(class_names=NAMES), Path("fruit"))
    assert_refused(invoke(eval_ddpm, "fruit", "--dataset=digits"), "fruit is asked for one of 3 classes (apple, pear, plum,")


def test_what_it_learned_from_may_have_gone() -> None:
    stored(tiny_denoiser(), Path("mine"), training={"dataset": "photos"})
    assert_refused(invoke(eval_ddpm, "mine"), "mine learned from 'photos', which is not here; give its path now, or another")


def test_a_damaged_file_of_terms_is_refused(model: Path) -> None:
    content, _ = evaluated(model, "--images=2", "--steps=2")
    file = Path("out", content["terms"])
    file.write_bytes(file.read_bytes()[:140])
    assert_refused(invoke(eval_ddpm, model, "--images=2", "--steps=2", "--out=out"), f"{file} is damaged; remove it")
