"""What an older release left goes on today: tests/data/README.md says how it was made."""
from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from guided_sample.cli.train_ddpm import train_ddpm
from guided_sample.loaders import load_denoiser
from noisy_clf import renamed
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from tests.commands import assert_refused, contents, invoke, run

DATA = Path(__file__).parent / "data" / "release_3d14213"
FLAGS = ("--dataset=digits --image-size=8 --channels=32 --channel-mult=1 --res-blocks=1 --attention-at= --head-channels=32 "
         "--dropout=0.1 --timesteps=40 --iterations=4 --batch-size=8 --lr=1e-5 --ema=0 --validate-every=4 --seed=3 --keep=1 "
         "--device=cpu").split()
RUNS: dict[str, tuple[click.Command, list[str]]] = {
    "train-noisy-clf": (train_noisy_clf, [*FLAGS, "--pool=adaptive", "--t-sampling=importance", "--random-crop"]),
    "train-ddpm": (train_ddpm, [*FLAGS, "--noise-schedule=linear", "--warmup=2"])}


def half_finished(name: str) -> Path:
    """A run's folder as the release left it at step 2 of 4."""
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall("half", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # since Python 3.11.4
    return Path("half")


@pytest.mark.parametrize("name", RUNS)
def test_a_half_finished_run_goes_on_as_if_nothing_had_happened(name: str) -> None:
    command, flags = RUNS[name]
    half = half_finished(name)
    went_on, whole = (invoke(command, *flags, f"--out={folder}") for folder in (half, "whole"))
    assert went_on.exit_code == whole.exit_code == 0, went_on.output + whole.output
    assert "2/4 [00:00<?" in went_on.output and "0/4 [00:00<?" in whole.output
    for model in ("best", "last"):
        weights, expected = (load_file(folder / model / "model.safetensors") for folder in (half, Path("whole")))
        assert weights.keys() == expected.keys()
        for tensor in expected:
            assert_close(weights[tensor], expected[tensor], rtol=0, atol=1e-6)  # a lost Adam's state would make it 1e-5
    loss, expected_loss = (json.loads((folder / "metrics.jsonl").read_text())["train_loss"] for folder in (half, Path("whole")))
    assert loss == pytest.approx(expected_loss, rel=1e-5)


def edited(change: Callable[[dict[str, Any]], object]) -> Path:
    """The classifier's half-finished run, its options changed."""
    folder = half_finished("train-noisy-clf")
    record = json.loads((folder / "options.json").read_text())
    change(record["options"])
    (folder / "options.json").write_text(json.dumps(record))
    return folder


def go_on(folder: Path, *flags: str) -> Any:
    return invoke(train_noisy_clf, *RUNS["train-noisy-clf"][1], f"--out={folder}", *flags)


@pytest.mark.parametrize("lacking", [
    ("training", "mixup"), ("training", "grad_clip"), ("training", "precision"), ("source",),
    ("model", "network", "scale_shift")])
def test_a_setting_that_the_record_lacks_counts_as_its_default(lacking: tuple[str, ...]) -> None:
    def drop(options: dict[str, Any]) -> None:
        for part in lacking[:-1]:
            options = options[part]
        del options[lacking[-1]]

    result = go_on(edited(drop))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("lacking, flag, told", [
    ("mixup", "--mixup=0.2", "training.mixup 0.0 there, 0.2 now"), ("lr", "--lr=1e-5", "training.lr None there, 1e-05 now")])
def test_another_value_than_the_default_or_no_default_is_another_run(lacking: str, flag: str, told: str) -> None:
    folder = edited(lambda options: options["training"].pop(lacking))
    assert_refused(go_on(folder, flag), f"half holds another run's results ({told})")


@pytest.mark.parametrize("place, told", [("training", "training.lookahead"), ("model", "model.lookahead")])
def test_a_setting_of_a_newer_version_is_refused_by_name(place: str, told: str) -> None:
    folder = edited(lambda options: options[place].update(lookahead=5))
    assert_refused(go_on(folder), "half/options.json was made by a newer version", f"has the setting {told}, which", "update")
    assert_refused(go_on(folder, "--seed=4"), "holds another run's results (", "training.seed 3 there, 4 now")


def test_a_renamed_setting_is_known_by_its_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = edited(lambda options: options["training"].update(rate=options["training"].pop("lr")))
    assert_refused(go_on(folder), "holds another run's results (training.rate 1e-05 there, None now; training.lr None there")
    monkeypatch.setitem(renamed.OPTIONS, "training.rate", "training.lr")
    result = go_on(folder)
    assert result.exit_code == 0, result.output


def edited_config(model: Path, lacking: list[str], **more: Any) -> str:
    """A copy of the model's folder, its config.json changed."""
    shutil.copytree(model, "copy")
    config = json.loads(Path("copy/config.json").read_text())
    network = {key: value for key, value in config["network"].items() if key not in lacking}
    config = {key: value for key, value in config.items() if key not in lacking} | {"network": network} | more
    Path("copy/config.json").write_text(json.dumps(config))
    return "copy"


def test_a_model_whose_config_lacks_settings_has_their_defaults(denoiser_folder: Path, classifier_folder: Path) -> None:
    denoiser = load_denoiser(edited_config(denoiser_folder, ["predicts", "class_names", "sampling", "scale_shift", "dropout"]))
    expected = load_denoiser(denoiser_folder)
    assert denoiser.config() == expected.config() and denoiser.predicts == "eps" and not denoiser.rescaled_t
    shutil.rmtree("copy")
    classifier = load_classifier(edited_config(classifier_folder, ["pool", "heads", "versions", "training"]))
    assert classifier.config() == load_classifier(classifier_folder).config()


@pytest.mark.parametrize("more, told", [
    ({"latents": "vae"}, "it has the setting latents, which"),
    ({"schedule": {"name": "cosine", "T": 50, "shift": 2}}, "it has the setting schedule.shift, which"),
    ({"latents": "vae", "codec": 1}, "it has the setting latents, codec, which")])
def test_a_model_of_a_newer_version_is_refused_by_its_settings_name(
        denoiser_folder: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=f"copy/config.json was made by a newer version: {told}.*; update"):
        load_denoiser(edited_config(denoiser_folder, ["predicts"], **more))


def test_a_models_renamed_setting_is_known_by_its_old_name(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = json.loads((denoiser_folder / "config.json").read_text())["network"]
    network["width"] = network.pop("channels")
    monkeypatch.setitem(renamed.CONFIG, "network.width", "network.channels")
    renamed_back = load_denoiser(edited_config(denoiser_folder, [], network=network))
    assert renamed_back.config() == load_denoiser(denoiser_folder).config()


SAMPLING = {  # how tests/data/release_3d14213/sampling/ was drawn
    "ddpm": "--class 3,8 --scale 4 --seed 7 --steps 25", "none": "--class none --grad-at mean --steps 25",
    "ddim": "--class random --sampler ddim --eta 0.5 --no-clip --steps ddim10"}


def sampled(flags: str, out: str) -> dict[str, Any]:
    result = run("--model", "digits", *flags.split(), "--num-samples", 8, "--batch-size", 2, "--no-check", "--out", out)
    assert result.exit_code == 0, result.output
    return contents(Path(out)) | {"drawn": result.output.count("4/4")}


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same but for a grey level: on other machines, rounding differs."""
    far = np.abs(np.array(one["arr_0"]) - np.array(other["arr_0"])).max()
    return far <= 1 and all(one[key] == other[key] for key in ("arr_1", "manifest"))


@pytest.mark.parametrize("name", SAMPLING)
def test_a_half_finished_sampling_folder_goes_on_as_if_nothing_had_happened(name: str) -> None:
    shutil.copytree(DATA / "sampling" / name, "half")
    first = {path.name: path.read_bytes() for path in Path("half").glob("*.png")}
    went_on = sampled(SAMPLING[name], "half")
    assert len(first) == 4 and all(Path("half", file).read_bytes() == picture for file, picture in first.items())
    assert went_on["drawn"] and alike(went_on, sampled(SAMPLING[name], "whole"))
    assert [line["index"] for line in went_on["lines"]] == list(range(8))


def test_another_request_for_an_old_folder_is_refused_in_todays_words() -> None:
    shutil.copytree(DATA / "sampling" / "ddim", "half")
    changed = run("--model", "digits", *SAMPLING["ddim"].replace("--no-clip", "").split(), "--out", "half")
    assert_refused(changed, "half holds another run's results (threshold 'none' there, 'static' now)")
    assert_refused(run("--model", "digits", *SAMPLING["ddim"].replace("ddim10", "ddim5").split(), "--out", "half"),
                   "half holds another run's results (steps [0, 100, 200")


def test_an_old_manifest_draws_its_images_again() -> None:
    old = DATA / "sampling" / "whole"
    result = run("--request", old / "manifest.json", "--out", "again")
    assert result.exit_code == 0, result.output
    for path in old.glob("*.png"):
        pixels = [np.asarray(Image.open(one)).astype(int) for one in (path, Path("again", path.name))]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
    request = json.loads(Path("again/manifest.json").read_text())["request"]
    assert (request["class"], request["scale"], request["grad_at"], request["seed"], request["num_samples"]) == (
        [3, 8], 4.0, "mean", 7, 6)
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["options"] |= {"upsampler_digest": "1", "upsampler_config": {}}
    Path("up/upsampled").mkdir(parents=True)
    Path("up/upsampled/manifest.json").write_text(json.dumps(manifest))
    assert_refused(run("--request", "up/upsampled/manifest.json"), "is the manifest of enlarged images; give the one of",
                   "up/manifest.json")


def test_a_manifest_that_does_not_tell_its_model_yet_is_refused() -> None:
    assert_refused(run("--request", DATA / "sampling" / "ddpm" / "manifest.json"),
                   "is of a run that has not ended, of a release that told the model only then; run its command to the end")
