"""RUN@step-N: a training run's model of an earlier step, wherever a model is named."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guided_sample.cards import card_of
from guided_sample.cli.eval_ddpm import eval_ddpm
from guided_sample.cli.train_ddpm import train_ddpm
from guided_sample.loaders import load_denoiser, load_model
from noisy_clf.checkpoints.by_name import denoiser_record, denoiser_schedule
from noisy_clf.checkpoints.model_folder import ModelFolder, file_digest
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from tests.commands import assert_refused, invoke, run
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser
from tests.noisy_clf.conftest import TouchesAFile
from tests.test_instant import printed

FLAGS = ("--image-size=8 --channels=32 --channel-mult=1 --attention-at= --class-conditional --iterations=5 --batch-size=4 "
         "--T=20 --lr=0.01 --ema=0.5 --validate-every=5 --save-every=1 --keep=2 --keep-every=2 --device=cpu").split()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps: states of 4 and 5, and models of 2 and 4."""
    folder = tmp_path_factory.mktemp("trained") / "ddpm"
    result = invoke(train_ddpm, *FLAGS, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def ddpm(trained: Path) -> Path:
    return Path(shutil.copytree(trained, "runs/ddpm"))


def with_state(model: Path, **more: object) -> Path:
    """The model's folder as a run's best, with a state of step 5 whose average is 0.5 throughout."""
    network = load_file(model / "model.safetensors")
    average = {name: torch.full_like(tensor, 0.5) for name, tensor in network.items()}
    (model.parent / "states").mkdir()
    torch.save({"step": 5, "network": network, "average": average, **more}, model.parent / "states/step-0000005.pt")
    return model.parent


def test_a_step_is_its_moving_average_of_a_kept_model_or_else_of_a_state(
        ddpm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(ddpm / "states/step-0000005.pt", weights_only=True)
    kept = {step: load_file(ddpm / f"kept/step-000000{step}.safetensors") for step in (2, 4)}
    for name, expected in (("runs/ddpm@step-2", kept[2]), ("runs/ddpm@step-4", kept[4]),
                           ("./runs/ddpm/@step-0005", state["average"])):
        found = load_denoiser(name).network.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    assert any(not torch.equal(state["network"][key], state["average"][key]) for key in state["average"])
    assert capsys.readouterr().err == "average of runs/ddpm/states/step-0000005.pt is used, not its network.\n"
    assert load_denoiser(Path("runs/ddpm@step-2")).class_names == load_denoiser("runs/ddpm").class_names


def test_the_digest_is_that_of_the_file_that_is_read(ddpm: Path) -> None:
    files = {2: "kept/step-0000002.safetensors", 4: "kept/step-0000004.safetensors", 5: "states/step-0000005.pt"}
    for step, file in files.items():
        assert load_model(f"runs/ddpm@step-{step}").digest == file_digest(ddpm / file)
    result = run("--model", "runs/ddpm@step-5", "--class", 7, "--scale", 0, "--steps", 2, "--num-samples", 1, "--out", "out")
    assert result.exit_code == 0, result.output
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["digests"] == {"model": file_digest(ddpm / "states/step-0000005.pt")}
    assert manifest["request"]["model"] == "runs/ddpm@step-5"
    again = run("--model", "runs/ddpm@step-4", "--class", 7, "--scale", 0, "--steps", 2, "--num-samples", 1, "--out", "out")
    assert_refused(again, "out holds another run's results (")


def test_best_and_last_are_names_too(ddpm: Path) -> None:
    for name in ("best", "last"):
        assert ModelFolder.open(f"runs/ddpm@{name}", "denoiser") == ModelFolder.open(ddpm / name, "denoiser")


def test_names_alone_tell_classes_and_space_and_what_is_kept(trained: Path) -> None:
    card = card_of(f"{trained}@step-2", "denoiser")
    assert card.space and (card.space.image_size, card.space.channels, card.T) == (8, 1, 20)
    assert card.class_names and card.class_names[7] == "seven"
    assert denoiser_schedule(f"{trained}@step-2").same_as(denoiser_schedule(trained))
    assert printed("import sys; from guided_sample.cards import card_of\nfrom noisy_clf.errors import UserError\n"
                   f"card_of({f'{trained}@step-2'!r}, 'denoiser')\n"
                   f"try: card_of({f'{trained}@step-3'!r}, 'denoiser')\n"
                   "except UserError: print([name for name in HEAVY if name in sys.modules])") == "[]\n"


@pytest.mark.parametrize("name, told", [
    ("step-1", "and no 'step-1'; give one of these, such as runs/ddpm@step-2."),
    ("step-300", "and no 'step-300'; give one of these, such as runs/ddpm@step-5."),
    ("3", "and no '3'; give one of these, such as runs/ddpm@step-2."), ("", "and no ''; give"), ("step-", "@step-5."),
    ("step-4 (copy)", "@step-4."), ("first", "@step-5."), ("step-" + "9" * 200, "runs/ddpm keeps")])
def test_a_step_that_is_not_kept_is_answered_with_those_that_are(ddpm: Path, name: str, told: str) -> None:
    assert_refused(invoke(eval_ddpm, f"runs/ddpm@{name}"), "runs/ddpm keeps step-2, step-4, step-5, and no ", told)


def test_many_steps_are_listed_from_both_ends() -> None:
    Path("run/states").mkdir(parents=True)
    for step in range(0, 4000, 100):
        Path(f"run/states/step-{step:07d}.pt").touch()
    with pytest.raises(UserError, match=r"keeps step-0, .*, step-500, \.\.\., step-3400, .*, step-3900, and no .*@step-800"):
        ModelFolder.open("run@step-777", "denoiser")


def test_a_run_that_keeps_none_and_one_that_is_not_there_are_told(classifier_folder: Path) -> None:
    stored(tiny_denoiser(), Path("run/best"))
    with pytest.raises(UserError, match="run keeps no state of a training run, and so no 'step-5'; train with --keep-every N"):
        load_denoiser("run@step-5")
    for name in ("nosuch@step-5", "@step-5"):
        with pytest.raises(UserError, match=f"there is no denoiser '{name}'; .* works too, and RUN@step-N, a training run's"):
            load_denoiser(name)
    Path("new/states").mkdir(parents=True)
    Path("new/states/step-0000005.pt").touch()
    with pytest.raises(UserError, match="new is a folder without a config.json: .* that has validated once"):
        load_denoiser("new@step-5")
    with pytest.raises(UserError, match="run/best holds a denoiser, and a classifier is wanted here"):
        with_state(Path("run/best"))
        load_classifier("run@step-5")


def test_a_path_that_has_the_sign_in_it_means_itself() -> None:
    with_state(stored(tiny_denoiser(), Path("run/best")))
    stored(tiny_denoiser(class_names=NAMES), Path("run@step-5/best"))
    assert load_denoiser("run@step-5").class_names == NAMES
    shutil.rmtree("run@step-5")
    assert load_denoiser("run@step-5").class_names is None
    Path("a@b").mkdir()
    shutil.move("run", "a@b/run@home")
    assert set(load_denoiser("a@b/run@home@step-5").network.state_dict()["out.2.bias"].tolist()) == {0.5}
    assert load_denoiser("a@b/run@home").class_names is None


def test_a_runs_folder_that_is_called_as_a_bundled_model_is_the_one_meant() -> None:
    with_state(stored(tiny_denoiser(), Path("digits/best")))
    assert load_denoiser("digits@step-5").space.image_size == 8 != load_denoiser("digits").space.image_size


def test_a_classifier_is_named_alike_and_keeps_of_its_denoiser_that_it_is_the_runs() -> None:
    with_state(stored(tiny_classifier(), Path("clf/best")))
    classifier = load_classifier("clf@step-5")
    assert classifier.class_names == NAMES and all(p.eq(0.5).all() and not p.requires_grad for p in classifier.parameters())
    state = with_state(stored(tiny_denoiser(), Path("ddpm/best"))) / "states/step-0000005.pt"
    assert denoiser_record("ddpm@step-5") == {"name": "ddpm", "digest": file_digest(state), "run": True}


@pytest.mark.parametrize("damage, told", [
    (lambda path: path.write_bytes(b""), "step-0000005.pt is empty"),
    (lambda path: path.write_bytes(b"garbage"), "step-0000005.pt is not a checkpoint of torch, or is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "step-0000005.pt is not a whole checkpoint of torch"),
    (lambda path: torch.save({"step": TouchesAFile(Path("touched"))}, path), "carries code"),
    (lambda path: torch.save({"step": 3}, path), "is not a bare state dict"),
    (lambda path: torch.save({"average": {"a": torch.zeros(2)}}, path), "step-0000005.pt does not fit its configuration")],
    ids=["empty", "garbage", "truncated", "code", "without weights", "another network's"])
def test_a_damaged_state_is_told_in_a_sentence(damage: Callable[[Path], object], told: str) -> None:
    path = with_state(stored(tiny_denoiser(), Path("run/best"))) / "states/step-0000005.pt"
    damage(path)
    assert_refused(invoke(eval_ddpm, "run@step-5", "--dataset", "digits", "--device", "cpu"), told)
    assert not Path("touched").exists()


def test_a_damaged_kept_model_is_told_in_a_sentence(ddpm: Path) -> None:
    path = ddpm / "kept/step-0000002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(invoke(eval_ddpm, "runs/ddpm@step-2", "--device", "cpu"),
                   "step-0000002.safetensors is not a whole safetensors file", "copy or train it again")
