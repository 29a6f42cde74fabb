"""--fast: fifteen steps by the best known settings, told in full."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from guided_sample.advice import FAST, Advice
from guided_sample.evaluations import evaluations
from guided_sample.plan import Plan
from guided_sample.request import Request, read_request
from tests.commands import assert_refused, run
from tests.conftest import stored, tiny_denoiser


def drawn(*arguments: Any) -> dict[str, Any]:
    """The manifest of a run."""
    result = run(*arguments, "--num-samples", 2, "--out", "out", "--no-check")
    assert result.exit_code == 0, result.output
    return json.loads(Path("out/manifest.json").read_text())


def test_fast_is_told_in_full_and_drawn_again_from_its_manifest(denoiser_folder: Path):
    manifest = drawn("--model", denoiser_folder, "--fast")
    assert {key: manifest["request"][key] for key in FAST} == FAST
    assert "fast" not in manifest["request"] and manifest["evaluations"]["denoiser"] == 15
    assert run("--request", "out/manifest.json", "--out", "again", "--no-check").exit_code == 0
    for name in ("000000.png", "000001.png"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()


def test_flags_beside_fast_come_first_and_files_behind_it(denoiser_folder: Path):
    assert drawn("--model", denoiser_folder, "--fast", "--steps", "uniform4", "--threshold", "dynamic")["request"].items() >= {
        "sampler": "unipc", "steps": "uniform4", "threshold": "dynamic:0.995"}.items()
    Path("mine.toml").write_text(f'model = "{denoiser_folder}"\nsampler = "ddim"\neta = 0.5\nsteps = "ddim5"\nseed = 3\n')
    shutil.rmtree("out")
    request = drawn("--request", "mine.toml", "--fast", "--seed", 4)["request"]
    assert request["sampler"] == "unipc" and request["steps"] == "logsnr15" and request["seed"] == 4 and "eta" not in request


def test_a_models_own_fast_settings_come_before_the_usual(tmp_path: Path):
    folder = stored(tiny_denoiser(), tmp_path / "own", sampling={"fast": {"order": 3, "steps": "uniform6"}})
    request = drawn("--model", folder, "--class", "none", "--fast")["request"]
    assert (request["sampler"], request["order"], request["steps"]) == ("unipc", 3, "uniform6")


def test_without_fast_the_defaults_are_adms(denoiser_folder: Path):
    request = Request(model=str(denoiser_folder))
    assert (request.sampler, request.threshold, request.fractional_t) == ("ddpm", "static", False)
    plan = Plan.of(request, "cpu")
    assert evaluations(plan)["denoiser"].run == 5 and len(plan.steps) == 5


@pytest.mark.parametrize("scale, sampler, expected", [
    (3.0, "dpm++", 3.0), ({"ddpm": 1.0, "ddim": 2.0}, "dpm++", 2.0), ({"ddpm": 1.0, "ddim": 2.0}, "unipc", 2.0),
    ({"ddpm": 1.0, "ddim": 2.0}, "dpm++sde", 1.0), ({"ddpm": 1.0, "dpm++": 4.0}, "dpm++", 4.0), ({"ddpm": 1.5}, "ddim", 1.5),
    ({}, "ddpm", 1.0)])
def test_a_samplers_scale_is_that_of_the_nearest_that_is_advised(scale: Any, sampler: str, expected: float):
    assert Advice(scale=scale).scale_for(sampler) == expected


def test_a_file_may_say_what_fast_would(denoiser_folder: Path):
    Path("fast.json").write_text(json.dumps({"model": str(denoiser_folder), **FAST}))
    assert read_request(Path("fast.json"))[0].items() >= FAST.items()


def test_fast_with_what_its_solver_cannot_is_refused(denoiser_folder: Path):
    assert_refused(run("--model", denoiser_folder, "--fast", "--recur", 2, "--no-check"),
                   "--recur changes what unipc remembers of the steps before; give --sampler ddim or ddpm.")
    assert_refused(run("--model", denoiser_folder, "--fast", "--particles", 2, "--no-check"), "--sampler ddpm")
