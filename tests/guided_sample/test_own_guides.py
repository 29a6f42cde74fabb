"""Guides of one's own from the command line: a function of a look in a Python file."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guided_sample.guides import GuideSpec
from noisy_clf.errors import UserError
from tests.commands import assert_refused, contents, run, sample

GUIDES = '''
import torch

CALLS = []


def darker(look):
    return -look.x_t.mean(dim=(1, 2, 3))


def like_a_target(look):
    """The plain torch loss, through the denoiser."""
    target = torch.zeros_like(look.x0_hat)
    return -torch.nn.functional.mse_loss(look.x0_hat, target, reduction="none").flatten(1).sum(dim=1)


def noted(look):
    with open("sigmas.txt", "a") as file:
        file.write(f"{look.step.sigma}\\\\n")
    return darker(look)


def summed(look):
    return look.x_t.sum()


def typed(look):
    return look.x_t.flatten(1).sum(dim=1).long()


def cut(look):
    return look.x_t.detach().flatten(1).sum(dim=1)


def torn(look):
    return look.x_t.flatten(1).sum(dim=1).log()


def stumbling(look):
    return look.x_t.flatten(1) @ torch.ones(3)


number = 3
'''.replace("\\\\n", "\\n")
UNGUIDED = ["--class", "none"]


@pytest.fixture(autouse=True)
def guides() -> None:
    Path("mine.py").write_text(GUIDES)


def images(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as archive:
        return archive["arr_0"].astype(int)


def test_a_guide_instead_of_the_classifier_and_beside_it(denoiser_folder: Path):
    plain = images(sample(denoiser_folder, *UNGUIDED))
    Path("out").rename("plain")
    dark = images(sample(denoiser_folder, *UNGUIDED, "--guide", "mine.py:darker,scale=100"))
    Path("out").rename("dark")
    assert dark.mean() < plain.mean() - 10 and (dark.mean(axis=(1, 2, 3)) < plain.mean(axis=(1, 2, 3))).all()
    both = images(sample(denoiser_folder, "--class", "pear", "--guide", "mine.py:darker,scale=100"))
    Path("out").rename("both")
    guided = images(sample(denoiser_folder, "--class", "pear"))
    assert both.mean() < guided.mean() - 10 and not np.array_equal(both, dark)
    line = json.loads(Path("both/samples.jsonl").read_text().splitlines()[0])
    assert line["class_name"] == "pear" and line["log_prob"] < 0


def test_a_guide_through_the_denoiser_brings_x0_hat_to_its_target():
    digits = ["--model", "digits", *UNGUIDED, "--num-samples", 4, "--steps", 25, "--no-check", "--out"]
    assert run(*digits, "plain").exit_code == run(*digits, "grey", "--guide", "mine.py:like_a_target,scale=3").exit_code == 0
    plain, grey = images(Path("plain")), images(Path("grey"))
    assert np.abs(grey - 127).mean() < 0.8 * np.abs(plain - 127).mean()


def test_outside_its_interval_a_guide_is_not_run(denoiser_folder: Path):
    sample(denoiser_folder, *UNGUIDED, "--guide", "mine.py:noted,scale=1,interval=0.2:3")
    found = [float(line) for line in Path("sigmas.txt").read_text().split()]
    Path("out").rename("within")
    Path("sigmas.txt").unlink()
    sample(denoiser_folder, *UNGUIDED, "--guide", "mine.py:noted")
    everywhere = [float(line) for line in Path("sigmas.txt").read_text().split()]
    assert len(everywhere) == 5 and found == [sigma for sigma in everywhere if 0.2 < sigma <= 3] and 0 < len(found) < 5


def test_scale_0_does_not_run_it(denoiser_folder: Path):
    plain = contents(sample(denoiser_folder, *UNGUIDED))
    Path("out").rename("plain")
    asleep = contents(sample(denoiser_folder, *UNGUIDED, "--guide", "mine.py:noted,scale=0"))
    assert not Path("sigmas.txt").exists() and asleep["000000.png"] == plain["000000.png"]


def test_guides_go_on_over_batches_and_stops_and_their_files_digest_is_kept(denoiser_folder: Path):
    guide = ["--guide", "mine.py:darker,scale=300", "--guide", "mine.py:like_a_target,scale=2,interval=0:5"]
    whole = contents(sample(denoiser_folder, *guide, "--batch-size", 2))
    manifest = json.loads(Path("out/manifest.json").read_text())
    digest = hashlib.sha256(GUIDES.encode()).hexdigest()
    assert manifest["request"]["guide"] == guide[1::2]
    assert manifest["digests"]["mine.py:darker"] == manifest["digests"]["mine.py:like_a_target"] == digest
    for index in (1, 4, 5):
        Path(f"out/{index:06d}.png").unlink()
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", "--batch-size", 3, *guide)
    assert result.exit_code == 0 and "3/3" in result.output, result.output
    again = contents(Path("out"))
    assert again["lines"] == whole["lines"] and np.abs(np.array(again["arr_0"]) - np.array(whole["arr_0"])).max() <= 1
    result = run("--request", "out/manifest.json", "--out", "again", "--batch-size", 2)
    assert result.exit_code == 0 and contents(Path("again")) == whole
    Path("mine.py").write_text(GUIDES + "\n# changed\n")
    assert_refused(run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", *guide),
                   "out holds another run's results (digests.mine.py:darker")
    assert_refused(run("--request", "out/manifest.json", "--out", "x"),
                   "the request is of a run whose mine.py:darker had the SHA-256")
    assert_refused(run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", *guide[2:]),
                   "out holds another run's results (guide ")


@pytest.mark.parametrize("function, words", [
    ("summed", ["mine.py:summed gave torch.float32 [] at t = 49 for samples 0 to 2 of the batch", "one number for each"]),
    ("typed", ["mine.py:typed gave torch.int64 [3] at t = 49", "floating-point tensor [3]"]),
    ("cut", ["mine.py:cut gave a log-density without a gradient at t = 49 for samples 0 to 2"]),
    ("torn", ["the log-density of mine.py:torn, or its gradient, is not finite at t = ", "for sample"]),
    ("stumbling", ["mine.py:stumbling failed at t = 49 for samples 0 to 2 of the batch: RuntimeError (", "in line 40."]),
    ("number", ["mine.py:number is a int; a guide is a function of a Look"]),
    ("drker", ["mine.py has no 'drker'; did you mean darker?"]),
    ("qqqqq", ["mine.py has no 'qqqqq'; it defines: darker, like_a_target, noted"]),
])
def test_a_guide_that_cannot_be_is_told_in_a_sentence(denoiser_folder: Path, function: str, words: list[str]):
    arguments = ["--num-samples", 3, "--guide", f"mine.py:{function}", "--out", "out"]
    assert_refused(run("--model", denoiser_folder, *UNGUIDED, *arguments), *words)
    assert not list(Path().glob("out/*.png"))


@pytest.mark.parametrize("text, words", [
    ("import nothing_of_that_name", ["mine.py fails when it is imported: ModuleNotFoundError (No module named", "in line 1."]),
    ("def darker(look)\n  pass", ["mine.py fails when it is imported: SyntaxError", "in line 1."]),
    ("\n1 / 0", ["mine.py fails when it is imported: ZeroDivisionError (division by zero) in line 2"]),
    ("", ["mine.py has no 'darker'; it defines no function"]),
])
def test_a_file_that_fails_is_told_before_a_model_is_loaded(text: str, words: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", "http://127.0.0.1:9")
    Path("mine.py").write_text(text)
    assert_refused(run("--class", "none", "--guide", "mine.py:darker"), *words)
    assert not Path("cache").exists()


@pytest.mark.parametrize("spec, words", [
    ("mine.py", ["the guide 'mine.py' cannot be read; write FILE.py:FUNCTION"]),
    ("mine.py:", ["cannot be read; write FILE.py:FUNCTION"]),
    ("mine.py:darker,", ["has the unknown setting ''; there are: scale, interval"]),
    ("mine.py:darker,scal=3", ["unknown setting 'scal'; did you mean scale?"]),
    ("mine.py:darker,scale=much", ["has 'much' as scale where a number must stand"]),
    ("mine.py:darker,scale=inf", ["has 'inf' as scale where a number must stand"]),
    ("mine.py:darker,scale=1,scale=2", ["gives scale twice"]),
    ("mine.py:darker,interval=3", ["has '3' as interval where two numbers of sigma, the lower first, as in 0.2:3, must stand"]),
    ("mine.py:darker,interval=3:1", ["has '3:1' as interval where two numbers of sigma, the lower first"]),
    ("other.py:darker", ["the guide darker is to be found in other.py, and there is no such file"]),
])
def test_the_grammar_of_guides(denoiser_folder: Path, spec: str, words: list[str]):
    assert_refused(run("--model", denoiser_folder, *UNGUIDED, "--guide", spec), *words)


def test_a_spec_is_read_as_it_is_written():
    assert GuideSpec.parse("a/b.py:f") == GuideSpec("function", "a/b.py", "f", {})
    assert GuideSpec.parse("a.py:f,interval=0.2:inf,scale=-2") == GuideSpec(
        "function", "a.py", "f", {"scale": -2.0, "interval": (0.2, float("inf"))})
    with pytest.raises(UserError):
        GuideSpec.parse("")


def test_a_guide_at_the_mean_looks_at_x_t_alone(denoiser_folder: Path):
    arguments: list[Any] = ["--model", denoiser_folder, *UNGUIDED, "--num-samples", 2, "--grad-at", "mean", "--out", "out",
                            "--guide"]
    assert_refused(run(*arguments, "mine.py:like_a_target"), "at the mean of a step there is no x0_hat to look at")
    assert run(*arguments, "mine.py:darker").exit_code == 0


def test_a_guides_file_may_import_its_neighbours(denoiser_folder: Path):
    Path("sub").mkdir()
    Path("sub/wishes_of_mine.py").write_text("def dark(x):\n    return -x.mean(dim=(1, 2, 3))\n")
    Path("sub/guide.py").write_text("from wishes_of_mine import dark\n\n\ndef darker(look):\n    return dark(look.x_t)\n")
    assert sample(denoiser_folder, *UNGUIDED, "--guide", "sub/guide.py:darker").exists()


def test_two_files_of_one_name_are_refused(denoiser_folder: Path):
    for folder, sign in (("a", ""), ("b", "-")):
        Path(folder).mkdir()
        Path(folder, "g.py").write_text(f"def f(look):\n    return {sign}look.x_t.mean(dim=(1, 2, 3))\n")
    both = ["--guide", "a/g.py:f,scale=5", "--guide", "b/g.py:f,scale=5"]
    assert_refused(run("--model", denoiser_folder, *UNGUIDED, *both), "two guides are called g.py:f, from two files")
    twice = ["--guide", "a/g.py:f,scale=5", "--guide", "a/g.py:f,scale=7,interval=0:1"]
    assert sample(denoiser_folder, *UNGUIDED, *twice).exists()


def test_a_file_with_a_dataclass_or_an_exit_in_it(denoiser_folder: Path):
    Path("wish.py").write_text("""from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Wish:
    weight: float

    def __call__(self, look):
        import neighbour_of_wish
        return neighbour_of_wish.dark(look.x_t) * self.weight

dark = Wish(3.0)
""")
    Path("neighbour_of_wish.py").write_text("def dark(x):\n    return -x.mean(dim=(1, 2, 3))\n")
    assert sample(denoiser_folder, *UNGUIDED, "--guide", "wish.py:dark").exists()
    Path("leaves.py").write_text("import sys\nsys.exit(0)\n")
    leaves = run("--model", denoiser_folder, *UNGUIDED, "--guide", "leaves.py:f")
    assert_refused(leaves, "leaves.py fails when it is imported: SystemExit")
