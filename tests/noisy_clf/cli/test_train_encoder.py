"""train-noisy-encoder as people type it."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from noisy_clf.checkpoints.by_name import encoder_folder, encoder_name
from noisy_clf.checkpoints.model_folder import file_digest, save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.cli.train_encoder import told_apart, train_noisy_encoder
from noisy_clf.datasets.digits import digits
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.loaders.encoder import load_encoder
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, invoke
from tests.conftest import stored, tiny_denoiser
from tests.noisy_clf.conftest import tiny_network
from tests.reference import with_drawn_weights

COSINE = NoiseSchedule.named("cosine", 40)
FLAGS = "--iterations=2 --batch-size=8 --device=cpu".split()


@pytest.fixture(scope="module")
def torso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's run."""
    classifier = NoisyClassifier(with_drawn_weights(tiny_network()), COSINE, digits(8).class_names)
    folder = tmp_path_factory.mktemp("runs") / "torso"
    save_model(folder / "best", classifier.config(), classifier.network, {})
    return folder


def photographed(count: int) -> None:
    """So many grey pictures in photos/."""
    Path("photos").mkdir()
    for i in range(count):
        Image.fromarray(np.full((8, 8), 8 * i, np.uint8)).save(f"photos/{i}.png")


@pytest.fixture(scope="module")
def run(torso: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    denoiser = stored(tiny_denoiser(NoiseSchedule.named("linear", 60)), folder.parent / "denoiser")
    result = invoke(train_noisy_encoder, *FLAGS, f"--encoder={torso}", f"--schedule-from={denoiser}", f"--out={folder}")
    assert result.exit_code == 0, result.output
    assert f"The best model is in {folder / 'best'}; look at it with: eval-noisy-encoder {folder}" in result.output
    return folder


def test_the_trained_encoder_is_the_classifiers_torso_on_the_denoisers_schedule(run: Path, torso: Path) -> None:
    loaded = load_encoder(run)
    assert loaded.encoder.schedule.same_as(NoiseSchedule.named("linear", 60)) and loaded.clean is False
    ours, theirs = load_file(run / "last/model.safetensors"), load_file(torso / "best/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert 0 < max((ours[name] - theirs[name]).abs().max() for name in ours) < 0.01  # it began there
    assert torch.equal(ours["out.2.c_proj.weight"], theirs["out.2.c_proj.weight"])  # the last layer is not looked at


def test_what_it_learned_from_is_recorded_without_paths(run: Path, torso: Path) -> None:
    config = json.loads((run / "best" / "config.json").read_text())
    training = config["training"]
    assert config["kind"] == "encoder" and config["text"] is None
    assert (training["encoder"], training["negatives"]) == ("torso", 8)
    assert training["encoder_digest"] == file_digest(torso / "best/model.safetensors")
    assert training["schedule_from"]["name"] == "denoiser" and str(run.parent) not in json.dumps(config)


def test_another_encoder_of_the_same_make_is_another_run(run: Path, torso: Path) -> None:
    other = NoisyEncoder(tiny_network(), COSINE)
    save_model(Path("other"), other.config(), other.network, {})
    flags = [*FLAGS, "--noise-schedule=linear", "--T=60", f"--out={run}"]
    assert_refused(invoke(train_noisy_encoder, *flags, "--encoder=other"), "training.encoder_digest '")
    fewer = invoke(train_noisy_encoder, *flags, f"--encoder={torso}", "--negatives=4")
    assert_refused(fewer, "training.negatives 8 there, 4 now")
    result = invoke(train_noisy_encoder, *flags, f"--encoder={torso}")  # the same schedule: the same run
    assert result.exit_code == 0 and "is finished" in result.output, result.output


def test_a_backbone_of_timms_is_tuned_and_told_the_time() -> None:
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), "resnet.safetensors")
    name = f"timm:test_resnet@{Path.cwd() / 'resnet.safetensors'}"
    photographed(20)
    flags = [*FLAGS, f"--encoder={name}", "--dataset=photos", "--image-size=8", "--T=40"]
    for out in ("photos-encoder", "again"):
        result = invoke(train_noisy_encoder, *flags, f"--out=runs/{out}")
        assert result.exit_code == 0, result.output
    one, other = (Path("runs", out, "last/model.safetensors").read_bytes() for out in ("photos-encoder", "again"))
    assert one == other  # what is told of the time begins at random, by the seed
    loaded, config = load_encoder("runs/photos-encoder"), json.loads(Path("runs/photos-encoder/best/config.json").read_text())
    assert config["training"]["encoder"] == "timm:test_resnet@resnet.safetensors"
    assert config["network"]["time_conditional"] and loaded.encoder.space.image_size == 8


def test_images_of_ones_own_need_no_classes(torso: Path) -> None:
    photographed(30)
    flags = [*FLAGS, f"--encoder={torso}", "--dataset=photos", "--T=40"]
    result = invoke(train_noisy_encoder, *flags, "--grey", "--no-random-crop")
    assert result.exit_code == 0, result.output
    assert Path("runs/photos-encoder/best").is_dir()
    assert_refused(invoke(train_noisy_encoder, *flags, "--out=other"),
                   "torso sees images of 8 pixels a side in 1 channels, and ", "photos has 8 and 3; ", "--grey for")


@pytest.mark.parametrize("flags, sentence", [
    ("", "Missing option '--encoder'"),
    ("--encoder=nosuch", "there is no encoder 'nosuch'; the names are: "),
    ("--encoder=TORSO --dataset=nosuch", "there is no dataset 'nosuch'"),
    ("--encoder=TORSO --schedule-from=nosuch", "there is no denoiser 'nosuch'"),
    ("--encoder=TORSO --schedule-from=digits --T=50", "leave out --noise-schedule and --T"),
    ("--encoder=TORSO --negatives=1", "1 is not in the range x>=2"),
    ("--encoder=TORSO --negatives=3",
     "a batch of 8 images does not divide into groups of 3 that are told from each other; give --negatives 2,"),
    ("--encoder=TORSO --batch-size=200", "into groups of 128 that are told from each other; give --negatives 100, or"),
    ("--encoder=TORSO --batch-size=131", "give --negatives 131"),
    ("--encoder=TORSO --batch-size=1", "batch-size 1 leaves no other image to tell one from; give 2 or more"),
    ("--encoder=TORSO --t-sampling=often", "t-sampling cannot be 'often'"),
    ("--encoder=TORSO --image-size=16", "TORSO sees images of 8 pixels a side in 1 channels, and digits has 16 and 1"),
    ("--encoder=timm:resnet5O", "timm has no model 'resnet5O'"),
    ("--encoder=timm:test_resnet@nosuch.pt", "nosuch.pt")])
def test_training_refuses_with_one_sentence(torso: Path, flags: str, sentence: str) -> None:
    Path("TORSO").symlink_to(torso)
    result = invoke(train_noisy_encoder, *FLAGS, "--out=out", *flags.split())
    assert_refused(result, sentence)
    assert not Path("out").exists()


@pytest.mark.parametrize("batch_size, negatives, group", [(64, None, 64), (256, None, 128), (8, 4, 4), (8, 8, 8)])
def test_how_many_are_told_apart(batch_size: int, negatives: int | None, group: int) -> None:
    assert told_apart(batch_size, negatives) == group


def test_an_encoder_goes_before_a_classifier_of_its_name(torso: Path, tmp_path: Path) -> None:
    assert encoder_folder("timm:anything") is encoder_folder("clip:anything") is None
    found = [folder.config["kind"] for folder in map(encoder_folder, (str(torso), "digits-judge")) if folder]
    assert found == ["classifier", "classifier"]
    with pytest.raises(UserError, match="holds a denoiser"):
        encoder_folder(str(stored(tiny_denoiser(), tmp_path / "denoiser")))


@pytest.mark.parametrize("name, told", [
    ("timm:resnet18", "timm:resnet18"), ("timm:resnet18@/there/file.pt", "timm:resnet18@file.pt"),
    ("clip:digits", "clip:digits"), ("clip:ViT-B-32@openai", "clip:ViT-B-32@openai"), ("clip:/there/folder", "clip:folder"),
    ("digits-judge", "digits-judge")])
def test_an_encoder_is_named_without_paths(name: str, told: str) -> None:
    assert encoder_name(name) == told
