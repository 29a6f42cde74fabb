"""One request, whether it comes as flags, as a file, as a manifest or in Python."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest

from guided_sample.cli.sample import guided_sample
from guided_sample.request import KEYS, Request, with_flags, read_request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import kept_timesteps
from noisy_clf.errors import UserError
from tests.commands import assert_refused, contents, run
from tests.conftest import SCHEDULE, stored, tiny_denoiser

if __import__("sys").version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN_ONLY = {"request", "dry_run", "batch_size", "share", "out", "device", "check", "list_models", "clip", "help", "fast",
            "compiles"}
FLAGS = ["--class", "pear", "--class", "0", "--scale", "3.5", "--sampler", "ddim", "--steps", "ddim5", "--eta", "0.5",
         "--no-clip", "--num-samples", "4", "--seed", "9"]
VALUES = {"class": ["pear", 0], "scale": 3.5, "sampler": "ddim", "steps": "ddim5", "eta": 0.5, "threshold": "none",
          "num_samples": 4, "seed": 9}


def toml(values: dict[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def drawn(*arguments: object, out: str) -> dict[str, object]:
    result = run(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return contents(Path(out))


def test_the_keys_are_the_flags_names():
    assert isinstance(guided_sample, click.Command)
    flags = {param.name for param in guided_sample.params} - RUN_ONLY
    assert flags == set(KEYS) - {"digests"}


def test_flags_a_file_and_a_manifest_draw_the_same_images(denoiser_folder: Path):
    by_flags = drawn("--model", denoiser_folder, *FLAGS, out="flags")
    values = {"model": str(denoiser_folder), **VALUES}
    Path("request.toml").write_text(toml(values))
    Path("request.json").write_text(json.dumps(values))
    assert drawn("--request", "request.toml", out="toml") == by_flags
    assert drawn("--request", "request.json", out="json") == by_flags
    assert drawn("--request", "flags/manifest.json", out="manifest") == by_flags
    assert drawn("--request", "manifest/manifest.json", out="again") == by_flags


def test_a_manifests_images_go_beside_the_first_ones_and_the_same_command_goes_on(denoiser_folder: Path):
    assert run("--model", denoiser_folder, *FLAGS, "--batch-size", 3).exit_code == 0
    first, = Path("samples").iterdir()
    result = run("--request", first / "manifest.json")
    assert result.exit_code == 0, result.output
    again = first.with_name(first.name.replace("pear_0", "1+0").replace("pear+0", "1+0") + "-again")
    assert contents(again) == contents(first)
    assert json.loads((again / "manifest.json").read_text())["batch_size"] == 3  # to the last bit
    assert "0/0" in run("--request", first / "manifest.json").output


def test_what_differs_in_guidance_goes_into_another_folder(denoiser_folder: Path, classifier_folder: Path):
    Path("mine.py").write_text("def darker(look):\n    return -look.x_t.mean(dim=(1, 2, 3))\n")
    other = Path("other")
    other.symlink_to(classifier_folder)
    flags: list[list[object]] = [
        [], ["--classifier", other], ["--guide", "mine.py:darker"], ["--guide", "mine.py:darker,scale=2"], ["--recur", 2],
        ["--class", "apple=2,pear=1"], ["--class", "0,2,1,1"], ["--scale-interval", "0:1"], ["--particles", 2]]
    for count, given in enumerate(flags, 1):
        result = run("--model", denoiser_folder, "--num-samples", 1, "--steps", 2, "--no-check", *given)
        assert result.exit_code == 0 and len(list(Path("samples").iterdir())) == count, result.output


def test_flags_beside_a_file_override_single_fields(denoiser_folder: Path):
    Path("request.toml").write_text(toml({"model": str(denoiser_folder), **VALUES}))
    expected = drawn("--model", denoiser_folder, *FLAGS[:-1], "10", out="flags")
    assert drawn("--request", "request.toml", "--seed", 10, out="file") == expected
    result = run("--request", "file/manifest.json", "--class", "none", "--out", "none")  # needs no classifier any more
    assert result.exit_code == 0, result.output
    request = json.loads(Path("none/manifest.json").read_text())["request"]
    assert request["class"] == ["none"] and request["scale"] == 0 and "classifier" not in request


def test_a_flag_that_means_nothing_with_the_resulting_request_is_refused(denoiser_folder: Path):
    Path("request.toml").write_text(toml({"model": str(denoiser_folder), "sampler": "ddpm"}))
    assert_refused(run("--request", "request.toml", "--eta", 0.5), "eta belongs to --sampler ddim, not to ddpm; leave it out")
    assert_refused(run("--request", "request.toml", "--sampler", "ddim", "--grad-at", "mean"),
                   "grad-at mean belongs to --sampler ddpm; ddim shifts eps at x_t")
    Path("request.toml").write_text(toml({"model": str(denoiser_folder), **VALUES}))
    assert_refused(run("--request", "request.toml", "--upsample-steps", 3), "--upsample-steps is given and --upsample is not")


def test_a_manifest_is_drawn_by_models_of_the_same_digests_or_refused(denoiser_folder: Path, classifier_folder: Path):
    drawn("--model", denoiser_folder, "--num-samples", 2, out="first")
    shutil.copytree(denoiser_folder, "moved")
    assert drawn("--request", "first/manifest.json", "--model", "moved", out="by-another-path")
    other = tiny_denoiser()
    other.network.out[2].bias.data += 0.01
    stored(other, Path("other"), sampling={"classifier": str(classifier_folder)})
    result = run("--request", "first/manifest.json", "--model", "other", "--out", "by-another-model")  # as the flag says
    assert result.exit_code == 0, result.output
    manifest = json.loads(Path("first/manifest.json").read_text())
    manifest["request"]["model"] = "other"
    Path("edited.json").write_text(json.dumps(manifest))
    assert_refused(run("--request", "edited.json", "--out", "x"), "the request is of a run whose model had the SHA-256",
                   "give the one that it was drawn with")
    assert not Path("x").exists()


@pytest.mark.parametrize("text, message", [
    ("stepps = 3", "request.toml: unknown key 'stepps'; did you mean steps?"),
    ("qqq = 3", "request.toml: unknown key 'qqq'; this version knows: model, model_config"),
    ("scale = \"much\"", "request.toml: scale: 'much' is not a valid float"),
    ("scale = nan", "request.toml: scale: nan is not a finite number"),
    ("scale = true", "request.toml: scale: True is not a number"),
    ("seed = 1.5", "request.toml: seed: 1.5 is not a whole number"),
    ("seed = -1", "request.toml: seed: -1 is not in the range x>=0"),
    ("model = 3", "request.toml: model: 3 is not text in quotes"),
    ("steps = 1.5", "request.toml: steps: 1.5 are no steps such as"),
    ("class = [1.5]", "request.toml: class: [1.5] is neither text nor a list of it"),
    ("sampler = \"euler\"", "request.toml: sampler: 'euler' is not one of 'ddpm', 'ddim'"),
    ("sampler = \"ddim\"\neta = 2", "request.toml: eta: 2 is not in the range 0<=x<=1"),
    ("eta = 0.5", "request.toml: eta belongs to --sampler ddim, not to ddpm"),
    ("digests = 3", "request.toml: digests: 3 is no table of SHA-256"),
    ("sampler = ddim", "request.toml cannot be read as TOML"),
    ("grad-at = \"nowhere\"", "request.toml: grad_at: 'nowhere' is not one of 'x_t', 'mean'"),
    (f"scale = 1{'0' * 400}", "request.toml: scale: inf is not a finite number"),
])
def test_a_request_file_that_is_none_is_told_by_its_key(text: str, message: str):
    Path("request.toml").write_text(text)
    assert_refused(run("--request", "request.toml"), message)


def test_other_files_that_are_no_requests():
    assert_refused(run("--request", "nowhere.toml"), "there is no file 'nowhere.toml' with a request")
    Path("list.json").write_text("[]")
    assert_refused(run("--request", "list.json"), "list.json holds a list where a JSON object with settings by name is wanted")
    Path("torn.json").write_text("{")
    assert_refused(run("--request", "torn.json"), "torn.json cannot be read as JSON")


def test_a_request_goes_through_toml_and_back(denoiser_folder: Path):
    request = Request.of({"model": "digits", "class": ["three", 8], "guide": "mine.py:f,scale=2", "steps": [0, 500, 999],
                          "sampler": "ddim", "eta": 0.25, "upsample": "", "threshold": "none"})
    assert Request.of(tomllib.loads(request.to_toml())) == request
    assert Request.of(request.to_dict()) == request
    assert request.steps == (0, 500, 999) and request.guide == ("mine.py:f,scale=2",)
    assert Request(knobs={"eta": 0.0}).knobs == {}  # a default of another sampler's is no setting


def test_every_entry_of_the_table_of_samplers_can_be_loaded_and_takes_its_knobs():
    from inspect import signature
    for sampler in SAMPLERS.values():
        arguments = signature(sampler.load()).parameters
        assert list(arguments)[:4] == ["model", "x_T", "steps", "noise"]
        assert {name: arguments[name].default for name in sampler.knobs} == {
            name: knob.default for name, knob in sampler.knobs.items()}


def test_a_key_of_a_newer_version_is_refused_by_name(denoiser_folder: Path):
    drawn("--model", denoiser_folder, "--num-samples", 2, out="out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    again = ["--model", denoiser_folder, "--num-samples", 2, "--out", "out"]
    for changed, name in ((manifest | {"request": manifest["request"] | {"churn": 3}}, "churn"),
                          (manifest | {"codec": {}}, "codec")):
        Path("out/manifest.json").write_text(json.dumps(changed))
        assert_refused(run(*again), f"out/manifest.json was made by a newer version: it has the setting {name}, which")
        with pytest.raises(UserError, match=name):
            read_request(Path("out/manifest.json"))
    manifest["configs"]["model"]["codec"] = "vae"
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert_refused(run(*again), "it has the setting configs.model.codec, which this version does not know")


def test_a_setting_that_an_older_manifest_lacks_counts_as_the_default(denoiser_folder: Path):
    drawn("--model", denoiser_folder, "--num-samples", 2, out="out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    for key in ("guide", "threshold", "grad_at", "precision", "seed"):
        del manifest["request"][key]
    for key in ("dropout", "attention_order"):
        del manifest["configs"]["model"]["network"][key]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    result = run("--model", denoiser_folder, "--num-samples", 3, "--out", "out")
    assert result.exit_code == 0 and "1/1" in result.output, result.output
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert_refused(run("--model", denoiser_folder, "--num-samples", 3, "--out", "out", "--seed", 1), "seed 0 there, 1 now")


def test_dry_run_tells_the_request_in_full_the_evaluations_the_time_and_the_disk(denoiser_folder: Path):
    Path("mine.py").write_text("def darker(look):\n    return -look.x_t.mean(dim=(1, 2, 3))\n")
    arguments = ["--model", denoiser_folder, "--num-samples", 6, "--batch-size", 4, "--class", "pear", "--guide",
                 "mine.py:darker,interval=0:1", "--dry-run", "--out", "out"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    told = tomllib.loads(result.output)
    assert told["steps"] == "5" and told["scale"] == 2.0 and told["class"] == [1] and told["seed"] == 0
    assert "5 steps of 6 samples in batches of 4: 30 evaluations of the denoiser, 30 of the classifier" in result.output
    sigmas = [(1 / SCHEDULE.alpha_bar[t] - 1) ** 0.5 for t in kept_timesteps("5", SCHEDULE)]
    run_at = 6 * sum(sigma <= 1 for sigma in sigmas)
    assert f", {run_at} of mine.py:darker ({30 - run_at} saved)\n" in result.output
    assert " on cpu (" in result.output and "at most 1.07MB in out" in result.output
    assert not Path("out").exists()
    Path("request.toml").write_text(result.output)
    full = drawn("--request", "request.toml", out="out")
    assert full == drawn(*arguments[:-3], out="flags")


def test_dry_run_downloads_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    result = run("--class", 207, "--dry-run")
    assert result.exit_code == 0 and 'steps = "250"' in result.output and "class = [207]" in result.output
    assert "256x256_diffusion_uncond.pt, 256x256_classifier.pt would be downloaded first" in result.output
    assert not Path("cache").exists()


def test_a_file_is_overridden_key_by_key_and_a_digest_goes_with_its_name():
    values = {"model": "a", "classifier": "b", "guide": ["g.py:f"], "digests": {"model": "1", "classifier": "2", "g.py:f": "3"}}
    assert with_flags(values, {})["digests"] == values["digests"]
    assert with_flags(values, {"model": "c"})["digests"] == {"classifier": "2", "g.py:f": "3"}
    assert with_flags(values, {"guide": ("h.py:f",)})["digests"] == {"model": "1", "classifier": "2"}
    assert with_flags(values, {"class": ("none",)})["digests"] == {"model": "1", "g.py:f": "3"}


def test_flags_make_a_files_settings_meaningless_that_nobody_means(denoiser_folder: Path):
    """Another class than none has its scale, another sampler its knobs, no class no classifier."""
    drawn("--model", denoiser_folder, "--class", "none", "--num-samples", 2, "--sampler", "ddim", "--eta", 0.5, out="none")
    guided = drawn("--request", "none/manifest.json", "--class", "pear", out="pear")
    request = json.loads(Path("pear/manifest.json").read_text())["request"]
    assert request["scale"] == 2.0 and guided["000000.png"] != contents(Path("none"))["000000.png"]
    drawn("--request", "none/manifest.json", "--sampler", "ddpm", out="ddpm")
    assert "eta" not in json.loads(Path("ddpm/manifest.json").read_text())["request"]
    drawn("--model", denoiser_folder, "--num-samples", 2, "--grad-at", "mean", out="mean")
    drawn("--request", "mean/manifest.json", "--sampler", "ddim", out="ddim")
    assert json.loads(Path("ddim/manifest.json").read_text())["request"]["grad_at"] == "x_t"


def test_clip_and_threshold_that_contradict_each_other_are_refused(denoiser_folder: Path):
    assert_refused(run("--model", denoiser_folder, "--threshold", "none", "--clip"), "--clip and --threshold say two things")


def test_odd_manifests(denoiser_folder: Path):
    drawn("--model", denoiser_folder, "--num-samples", 2, out="out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    for change in ({"batch_size": -3}, {"batch_size": "x"}, {"digests": {}}):
        Path("odd.json").write_text(json.dumps(manifest | change))
        drawn("--request", "odd.json", out=f"odd{len(list(Path().iterdir()))}")
    del manifest["request"]["steps"]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert_refused(run("--model", denoiser_folder, "--num-samples", 2, "--out", "out"), "holds another run's results (steps ")
    Path("null.json").write_text(json.dumps({"model": str(denoiser_folder), "digests": None, "scale": None, "num_samples": 1}))
    drawn("--request", "null.json", out="null")
