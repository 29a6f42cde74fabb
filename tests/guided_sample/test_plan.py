"""Plans: samples in memory, a classifier of one's own."""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from guided_sample.plan import Plan, from_pixels
from guided_sample.request import Request
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from tests.commands import assert_refused, contents, run, sample
from tests.conftest import NAMES, SCHEDULE, stored, tiny_classifier, tiny_denoiser


def test_a_request_a_plan_and_images_without_a_disk(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch):
    out = sample(denoiser_folder, "--class", "pear,0", "--seed", 5)
    plan = Plan.of(Request(model=str(denoiser_folder), classes=("pear", 0), num_samples=6, seed=5), "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_, **__: pytest.fail("a file was opened"))
        patch.setattr("builtins.open", lambda *_, **__: pytest.fail("a file was opened"))
        batch = plan.draw(range(6))
    assert batch.images.dtype == np.uint8 and batch.images.shape == (6, 8, 8, 1) and batch.x_0.abs().max() <= 1
    for i, image in enumerate(batch.images):
        assert np.array_equal(np.asarray(Image.open(out / f"{i:06d}.png")), image[:, :, 0])
    assert batch.lines == [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    alone = plan.draw([4])
    assert np.abs(alone.images[0].astype(int) - batch.images[4]).max() <= 1
    assert alone.lines[0] == batch.lines[4] | {"log_prob": pytest.approx(batch.lines[4]["log_prob"], abs=1e-3)}


def test_what_goes_to_a_second_stage_is_what_a_folder_keeps():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = from_pixels(levels)
    assert x.shape == (1, 1, 16, 16) and x.min() == -1 and x.max() == 1
    torch.testing.assert_close((x[0, 0].flatten() + 1) * 127.5, torch.arange(256.0), rtol=0, atol=1e-4)


class Own(nn.Module):
    """A classifier of somebody's: no NoisyClassifier."""

    class_names = NAMES

    def __init__(self, schedule: NoiseSchedule = SCHEDULE) -> None:
        super().__init__()
        self.space, self.inner = Space(schedule, 8, 1), tiny_classifier()

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.inner(x_t, t)


def test_any_module_that_keeps_the_protocol_guides(denoiser_folder: Path):
    request = Request(model=str(denoiser_folder), classes=("plum",), scale=4.0, num_samples=2)
    own, named = Plan.of(request, "cpu", classifier=Own()).draw(range(2)), Plan.of(request, "cpu").draw(range(2))
    assert np.array_equal(own.images, named.images) and own.lines == named.lines
    with pytest.raises(UserError, match="the classifier learned on another noise schedule"):
        Plan.of(request, "cpu", classifier=Own(NoiseSchedule.named("linear", 50)))
    with pytest.raises(UserError, match=r"the classifier cannot guide as a classifier: it lacks space, a noisy_clf.space"):
        Plan.of(request, "cpu", classifier=tiny_classifier().network)  # type: ignore[arg-type]


OWN = """
import torch
from noisy_clf.loaders import load_classifier
from noisy_clf.space import Space

class Mine(torch.nn.Module):
    class_names = ("apple", "pear", "plum")

    def __init__(self):
        super().__init__()
        self.inner = load_classifier({folder!r})
        self.space = Space(self.inner.schedule, 8, 1)

    def forward(self, x_t, t):
        return self.inner(x_t, t)

mine = Mine()

def bare():
    return torch.nn.Identity()
"""


@pytest.mark.parametrize("name", ["mine", "Mine"])
def test_a_module_in_a_python_file_guides_from_the_command_line(denoiser_folder: Path, classifier_folder: Path, name: str):
    Path("own.py").write_text(OWN.format(folder=str(classifier_folder)))
    arguments = ["--class", "plum", "--scale", 4]
    expected = sample(denoiser_folder, *arguments)
    expected.rename("expected")
    out = sample(denoiser_folder, "--classifier", f"own.py:{name}", *arguments)
    theirs, ours = contents(Path("expected")), contents(out)
    assert {key: value for key, value in ours.items() if key != "manifest"} == {
        key: value for key, value in theirs.items() if key != "manifest"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["request"]["classifier"] == f"own.py:{name}" and len(manifest["digests"]["classifier"]) == 64
    Path("own.py").write_text(OWN.format(folder=str(classifier_folder)) + "\n# changed\n")
    again = ["--classifier", f"own.py:{name}", *arguments, "--num-samples", 6, "--out", "out"]
    assert_refused(run("--model", denoiser_folder, *again), "out holds another run's results (digests.classifier")


@pytest.mark.parametrize("classifier, words", [
    ("own.py:bare", ["own.py:bare cannot guide as a classifier: it lacks space, a noisy_clf.space.Space and class_names"]),
    ("own.py:Minee", ["own.py has no 'Minee'; did you mean Mine?"]),
    ("own.py", ["own.py is a Python file, not a classifier's; a classifier of your own is given as own.py:NAME"]),
    ("nowhere.py:Mine", ["there is no file 'nowhere.py'; a classifier of your own is given as FILE.py:NAME"]),
])
def test_what_is_no_classifier_is_refused(denoiser_folder: Path, classifier_folder: Path, classifier: str,
                                          words: list[str]):
    Path("own.py").write_text(OWN.format(folder=str(classifier_folder)))
    assert_refused(run("--model", denoiser_folder, "--classifier", classifier, "--class", "1"), *words)


def test_what_names_tell_is_refused_before_weights_are_read(classifier_folder: Path):
    lost = stored(tiny_denoiser(), Path("lost"), sampling={"classifier": str(classifier_folder)})
    (lost / "model.safetensors").unlink()
    assert_refused(run("--model", lost, "--class", "pare"), "no class 'pare'; did you mean pear?")
    assert_refused(run("--model", lost, "--steps", "51"), "steps '51' cannot be made")
    assert_refused(run("--model", lost, "--class", "none", "--classifier", classifier_folder),
                   "--class none asks for no class, and --classifier", "leave out one of the two")
    assert_refused(run("--model", lost, "--class", "none", "--scale", 2), "--class none asks for no class, and --scale 2")
    assert_refused(run("--model", lost, "--class", "pear"), "lost/model.safetensors is missing")


ODD = """
import torch
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space


class Property(torch.nn.Module):
    class_names = ("apple", "pear", "plum")

    @property
    def space(self):
        return Space(NoiseSchedule.named("cosine", 50), 8, 1)

    def forward(self, x_t, t):
        return x_t.flatten(1)[:, :3]


class Few(Property):
    def forward(self, x_t, t):
        return x_t.flatten(1)[:, :2]


class Numbered(Property):
    class_names = (1, 2, 3)


class Stumbles(Property):
    def forward(self, x_t, t):
        return x_t @ torch.ones(3)


def fails():
    raise RuntimeError("no weights")
"""


@pytest.mark.parametrize("name, words", [
    ("Property", []), ("Few", ["the classifier gave logits shaped [2, 2] for 2 samples of 3 classes"]),
    ("Numbered", ["odd.py:Numbered cannot guide as a classifier: it lacks class_names, a tuple of names"]),
    ("Stumbles", ["odd.py:Stumbles failed at t = 49: RuntimeError ("]),
    ("fails", ["odd.py:fails fails when it makes the classifier: RuntimeError (no weights) in line 33"])])
def test_odd_classifiers_of_ones_own(denoiser_folder: Path, name: str, words: list[str]):
    Path("odd.py").write_text(ODD)
    arguments = ["--classifier", f"odd.py:{name}", "--class", "1", "--num-samples", 2, "--out", "out"]
    result = run("--model", denoiser_folder, *arguments)
    if words:
        assert_refused(result, *words)
    else:
        assert result.exit_code == 0, result.output
