from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.loaders import load_classifier
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.datasets.digits import digits
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.run import Run
from tests.commands import assert_refused, invoke
from tests.conftest import stored, tiny_denoiser
from tests.noisy_clf.conftest import TINY_FLAGS

FLAGS = [*TINY_FLAGS, "--iterations=2", "--T=40"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    result = invoke(train_noisy_clf, *FLAGS, f"--out={folder}")
    assert result.exit_code == 0, result.output
    assert f"The best model is in {folder / 'best'}; look at it with: eval-noisy-clf {folder}" in result.output
    return folder


def denoisers_folder(folder: Path, schedule: NoiseSchedule) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "denoiser", "network": {}, "schedule": schedule.to_config()}))
    return folder


def test_the_trained_classifier_is_what_the_flags_say(run: Path) -> None:
    classifier = load_classifier(run)
    config = classifier.network.config
    assert (config.image_size, config.channels, config.channel_mult, config.attention_at) == (8, 32, (1,), ())
    assert classifier.schedule.same_as(NoiseSchedule.named("cosine", 40))
    assert classifier.class_names == digits().class_names


@pytest.mark.parametrize("T", [1, 7])
def test_a_schedule_of_few_timesteps_trains(tmp_path: Path, T: int) -> None:
    trained = invoke(train_noisy_clf, *FLAGS, "--iterations=1", f"--T={T}", f"--out={tmp_path / 'run'}")
    assert trained.exit_code == 0, trained.output
    assert load_classifier(tmp_path / "run").schedule.T == T


def test_the_former_name_of_T_is_taken_and_not_shown() -> None:
    assert "--timesteps" not in invoke(train_noisy_clf, "--help").output
    assert_refused(invoke(train_noisy_clf, "--noise-schedule=linear", "--timesteps=20"), "at least 21 timesteps, not 20")
    assert_refused(invoke(train_noisy_clf, "--timesteps=many"), "Invalid value for '--T'")


@pytest.mark.parametrize("schedule", [NoiseSchedule.named("linear", 60), NoiseSchedule.from_betas(np.linspace(0.01, 0.3, 50))],
                         ids=str)
def test_schedule_from_takes_the_denoisers_schedule(tmp_path: Path, schedule: NoiseSchedule) -> None:
    denoiser = denoisers_folder(tmp_path / "denoiser", schedule)
    result = invoke(train_noisy_clf, *TINY_FLAGS, "--iterations=1", f"--schedule-from={denoiser}", f"--out={tmp_path / 'run'}")
    assert result.exit_code == 0, result.output
    assert load_classifier(tmp_path / "run").schedule.to_config() == schedule.to_config()


def record_of(run: Path, model: str = "best") -> dict[str, Any]:
    return json.loads((run / model / "config.json").read_text())["training"].get("schedule_from")


def test_the_denoiser_is_recorded_by_name_and_weights_and_may_move_on(tmp_path: Path) -> None:
    denoiser, out = tmp_path / "photos-ddpm", tmp_path / "run"
    stored(tiny_denoiser(), denoiser / "best")
    command = [train_noisy_clf, *TINY_FLAGS, "--iterations=4", "--validate-every=2", "--save-every=2", f"--out={out}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finished", property(lambda run: run.validated == 2))  # as if it was stopped there
        invoke(*command, f"--schedule-from={denoiser}")
    first = {"name": "photos-ddpm", "digest": file_digest(denoiser / "best/model.safetensors"), "run": True}
    assert record_of(out) == first and str(tmp_path) not in (out / "best/config.json").read_text()
    moved_on = tiny_denoiser()
    moved_on.network.out[2].bias.data += 1
    stored(moved_on, denoiser / "best")
    result = invoke(*command, f"--schedule-from={denoiser}")
    assert result.exit_code == 0 and "2/4 [00:00<?" in result.output, result.output
    assert record_of(out, "last") == first | {"digest": file_digest(denoiser / "best/model.safetensors")} != first
    result = invoke(*command, "--noise-schedule=cosine", "--T=50")  # the same schedule: the same run
    assert result.exit_code == 0 and "is finished" in result.output, result.output


def test_without_schedule_from_no_denoiser_is_recorded(run: Path) -> None:
    assert record_of(run) is None


@pytest.mark.parametrize("flag", ["--noise-schedule=linear", "--T=100", "--T=0"])
def test_schedule_from_with_a_schedule_is_refused(tmp_path: Path, flag: str) -> None:
    denoiser = denoisers_folder(tmp_path / "denoiser", NoiseSchedule.named("linear", 60))
    result = invoke(
        train_noisy_clf, *TINY_FLAGS, "--iterations=1", f"--schedule-from={denoiser}", flag, f"--out={tmp_path / 'run'}")
    assert_refused(result, "leave out --noise-schedule and --T")


def test_schedule_from_a_classifier_is_refused(run: Path, tmp_path: Path) -> None:
    result = invoke(train_noisy_clf, *TINY_FLAGS, f"--schedule-from={run}", f"--out={tmp_path / 'run'}")
    assert_refused(result, "holds a classifier, and a denoiser is wanted here")


def test_help_has_examples_on_lines_of_their_own() -> None:
    result = invoke(train_noisy_clf, "--help")
    lines = [line.strip() for line in result.output.splitlines()]
    for example in ("train-noisy-clf --dataset digits", "train-noisy-clf --schedule-from runs/digits-ddpm",
                    "torchrun --nproc-per-node 8 -m noisy_clf.cli --dataset imagenet64"):
        assert result.exit_code == 0 and any(line.startswith(example) for line in lines)


@pytest.mark.parametrize("flags, sentence", [
    ("--dataset=nosuch", "there is no dataset 'nosuch'; give one of digits, imagenet64"),
    ("--image-size=7", "the digits are 8 pixels a side; 7 would be smaller"),
    ("--image-size=0", "0 is not in the range x>=1"),
    ("--image-size=9 --channel-mult=1,1", "image size 9 does not divide by 2"),
    ("--channel-mult=1,x", "'1,x' is not a list of numbers such as 1,2,4"),
    ("--channel-mult=", "level"),
    ("--channel-mult=nan", "channel"),
    ("--channel-mult=0.5", "a level 16 channels wide cannot be normalised in 32 groups"),
    ("--res-blocks=0 --channel-mult=1,2", "from 1 to 64, not 0"),
    ("--head-channels=-32", "not -32"),
    ("--dropout=2", "dropout"),
    ("--device=cuda:7", "device 'cuda:7' is not there; this machine has: cpu"),
    ("--device=banana", "device 'banana' is not there; this machine has: cpu"),
    ("--pool=max", "'max' is not one of 'attention', 'adaptive', 'spatial', 'spatial_v2'"),
    ("--batch-size=0", "batch-size must be at least 1, not 0"),
    ("--weight-decay=-1", "weight-decay"),
    ("--lr=1e30", "the loss became nan"),
    ("--seed=-1", "-1 is not in the range"),
    ("--noise-schedule=sigmoid", "'sigmoid' is not one of 'linear', 'cosine'"),
    ("--noise-schedule=linear --T=20", "the linear schedule needs at least 21 timesteps, not 20"),
    ("--T=0", "at least 1 timesteps, not 0"),
    ("--t-sampling=often", "t-sampling cannot be 'often'; it is one of: uniform, importance"),
    ("--precision=half", "'half' is not one of 'float32', 'bf16', 'fp16'"),
    ("--label-smoothing=1", "label-smoothing must be at least 0 and below 1"),
    ("--mixup=0.2 --batch-size=7", "batch-size 7 cannot be shared by 1 processes in groups of 2"),
    ("--microbatch=-1", "-1 is not in the range"), ("--keep=0", "0 is not in the range"),
    ("--arch=resnet18", "--arch is adm or timm:NAME"),
    ("--pretrained", "--pretrained means nothing for --arch adm"),
    ("--layer-decay=0.7", "--layer-decay means nothing for --arch adm")])
def test_training_refuses_with_one_sentence(tmp_path: Path, flags: str, sentence: str) -> None:
    assert_refused(invoke(train_noisy_clf, *FLAGS, f"--out={tmp_path / 'run'}", *flags.split()), sentence)


def test_training_refuses_an_unknown_denoiser(tmp_path: Path) -> None:
    result = invoke(train_noisy_clf, *TINY_FLAGS, f"--out={tmp_path}", "--schedule-from=nosuch")
    assert_refused(result, "there is no denoiser 'nosuch'; the names are: ")


def test_training_refuses_to_write_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = invoke(train_noisy_clf, *FLAGS, f"--out={tmp_path / 'file'}")
    assert_refused(result, f"{tmp_path / 'file'}")
    assert ".tmp" not in result.output and (tmp_path / "file").read_text() == "mine"


def test_no_attention_at_all_may_be_asked_for_but_no_other_flag_is_empty() -> None:
    result = invoke(train_noisy_clf, *FLAGS, "--iterations=1", "--attention-at", "", "--out=run")
    assert result.exit_code == 0, result.output
    for flag in ("--dataset", "--out", "--arch", "--schedule-from", "--data"):
        assert_refused(invoke(train_noisy_clf, f"{flag}="), f"{flag} is empty; give it a value, or leave it out.")
