from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from noisy_clf.checkpoints.by_name import training_set
from noisy_clf.checkpoints.model_folder import save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.datasets.order import permutation
from noisy_clf.errors import UserError
from noisy_clf.cli.evaluate import eval_noisy_clf, short
from noisy_clf.evaluation import side_by_side
from noisy_clf.evaluation.by_noise_level import evaluate
from noisy_clf.evaluation.judgement import Evaluation, Guess
from noisy_clf.evaluation.report import as_json, verdict
from noisy_clf.files import versions
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, invoke
from tests.noisy_clf.conftest import tiny_network
from tests.reference import with_drawn_weights

COSINE, NAMES = NoiseSchedule.named("cosine", 40), digits(8).class_names


def stored(folder: Path, schedule: NoiseSchedule = COSINE, names: tuple[str, ...] = NAMES, dataset: str | None = "digits",
           **settings: Any) -> Path:
    """A training run's folder with a tiny classifier, which says what it learned from."""
    classifier = NoisyClassifier(with_drawn_weights(tiny_network(**settings)), schedule, names)
    about = {} if dataset is None else {"training": {"dataset": dataset}}
    save_model(folder / "best", {**classifier.config(), **about}, classifier.network, {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier of clean images, of timm's smallest kind, with weights in a file."""
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), file)
    return f"timm:test_resnet@{file}"


def evaluated(*arguments: object, levels: str = "0,0.5") -> tuple[dict[str, Any], str]:
    """(evaluation.json, what was printed); no picture is drawn, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_by_side, "draw", lambda found, path: None)
        result = invoke(eval_noisy_clf, *arguments, f"--levels={levels}", "--device=cpu", "--out=out")
    assert result.exit_code == 0, result.output
    return json.loads(Path("out/evaluation.json").read_text()), result.output


def test_eval_tells_what_evaluate_finds(run: Path, tmp_path: Path) -> None:
    content, output = evaluated(run, "--seed=2", levels="0,0.5,1")
    data, loaded = digits(8).validation, load_classifier_whole(run)
    rows = evaluate(loaded.classifier, data, [0, 0.5, 1], seed=2, gradients=True)
    lines = [line.split() for line in output.splitlines()]
    for row in rows:
        assert [f"{row.t / 40:.2f}", str(row.t), f"{row.accuracy:.1%}", f"{row.top5:.1%}", f"{row.nll:.4f}", f"{row.ece:.3f}",
                f"{row.gradient_norm:.3g}"] in lines
    guess = Guess.among(data.labels, 10)
    expected = Evaluation("mine", COSINE, tuple(rows), 364, guess)
    assert "\n".join(["mine, on 364 validation images of digits:", *verdict(expected)]) in output
    assert content == json.loads(json.dumps({
        "dataset": "digits", "source": digits(8).source, "images": 364, "of_images": 364, "levels": [0, 0.5, 1], "seed": 2,
        "precision": "float32", "guess": {"accuracy": guess.accuracy, "nll": guess.nll}, "versions": versions(),
        "classifiers": [{"classifier": str(run), "digest": loaded.digest, **as_json(expected)}]}))


@pytest.mark.parametrize("more, folder", [([], "mine"), (["--compare", "other"], "mine-vs-other")])
def test_eval_writes_to_a_folder_named_after_the_classifiers(run: Path, more: list[str], folder: str) -> None:
    stored(Path("other"))
    assert invoke(eval_noisy_clf, run, "--levels=0", "--images=9", "--device=cpu", *more).exit_code == 0
    out = Path("evaluations") / folder
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.png"]
    with Image.open(out / "evaluation.png") as image:
        image.load()
        assert image.format == "PNG"


@pytest.mark.parametrize("T", [1, 7])
def test_a_schedule_of_few_timesteps_is_evaluated_at_every_default_level(T: int) -> None:
    stored(Path("run"), NoiseSchedule.named("cosine", T))
    result = invoke(eval_noisy_clf, "run", "--device=cpu", "--out=out", "--images=20")
    assert result.exit_code == 0, result.output
    levels = json.loads(Path("out/evaluation.json").read_text())["classifiers"][0]["levels"]
    assert len(levels) == 21 and {row["t"] for row in levels} == set(range(T))


def test_some_images_are_drawn_once_and_for_all_and_guessing_is_by_all(run: Path) -> None:
    content, output = evaluated(run, "--images=50", "--seed=3")
    data = digits(8).validation
    chosen = torch.from_numpy(permutation(364, 0, 0)[:50].copy())  # whatever the seed, which is the noise's
    rows = evaluate(load_classifier_whole(run).classifier, data, [0, 0.5], seed=3, gradients=True, chosen=chosen)
    assert [row["nll"] for row in content["classifiers"][0]["levels"]] == pytest.approx([row.nll for row in rows], rel=1e-5)
    assert (content["images"], content["of_images"]) == (50, 364) and "on 50 validation images" in output
    assert content["guess"]["accuracy"] == Guess.among(data.labels, 10).accuracy


def test_more_images_than_there_are_means_all(run: Path) -> None:
    assert evaluated(run, "--images=100000", levels="0")[0] == evaluated(run, levels="0")[0]


def test_two_are_compared_side_by_side(run: Path) -> None:
    stored(Path("other"), attention_at=(8,))
    both, output = evaluated(run, "--compare=other", "--images=30")
    assert [one["classifier"] for one in both["classifiers"]] == [str(run), "other"]
    assert both["classifiers"] == [evaluated(name, "--images=30")[0]["classifiers"][0] for name in (run, "other")]
    assert "other, on 30 validation images of digits:" in output and "mine has the lower NLL at" in output
    assert "noise schedules" not in output


def test_other_schedules_are_told_of(run: Path) -> None:
    stored(Path("other"), NoiseSchedule.named("linear", 100))
    content, output = evaluated(run, "--compare=other", "--images=30")
    assert [one["levels"][1]["t"] for one in content["classifiers"]] == [20, 50]
    assert "different noise schedules (cosine, T = 40" in output


def test_the_same_names_in_another_order_are_told_apart_by_name(run: Path) -> None:
    shuffled = stored(Path("shuffled"))
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    config = json.loads((shuffled / "best" / "config.json").read_text())
    (shuffled / "best" / "config.json").write_text(json.dumps(config | {"class_names": [NAMES[i] for i in order]}))
    tensors = load_file(shuffled / "best" / "model.safetensors")
    last = max(name for name in tensors if name.startswith("out.") and tensors[name].shape[0] == 10 and "bias" in name)
    for name in (last, last.replace("bias", "weight")):
        tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, shuffled / "best" / "model.safetensors")
    expected, found = (evaluated(name, "--images=40")[0]["classifiers"][0]["levels"] for name in (run, shuffled))
    for one, other in zip(expected, found):
        assert other == {name: pytest.approx(value, rel=1e-5) for name, value in one.items()}


def test_numbers_in_the_place_of_names_are_taken_for_the_datas_and_this_is_told(run: Path) -> None:
    stored(Path("numbers"), names=tuple(map(str, range(10))))
    content, output = evaluated("numbers", "--images=40")
    assert "Its classes have numbers and no names: they were taken to be the classes of digits, in its order." in output
    expected, told = evaluated(run, "--images=40")
    assert content["classifiers"][0]["levels"] == expected["classifiers"][0]["levels"] and "numbers" not in told


def test_a_classifier_of_clean_images_takes_the_schedule_of_the_other(run: Path, resnet: str) -> None:
    for names in ([run, "--compare", resnet], [resnet, "--compare", run]):
        content, output = evaluated(*names, "--images=20")
        assert [one["schedule"] for one in content["classifiers"]] == [{"name": "cosine", "T": 40}] * 2
        assert "timm:test_resnet, on 20 validation images of digits:" in output and "different" not in output


@pytest.mark.parametrize("flags, schedule", [
    ([], {"name": "cosine", "T": 1000}), (["--noise-schedule=linear", "--T=50"], {"name": "linear", "T": 50}),
    (["--schedule-from=digits"], {"name": "cosine", "T": 1000})])
def test_a_classifier_of_clean_images_alone_takes_the_schedule_given_or_the_recipes(
        resnet: str, flags: list[str], schedule: dict[str, Any]) -> None:
    content, _ = evaluated(resnet, "--images=20", *flags)
    assert content["classifiers"][0]["schedule"] == schedule


def test_a_colour_classifiers_data_are_loaded_in_colour_and_a_grey_ones_in_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, size: int | None, folder: Path | None, grey: bool) -> Dataset:
        asked.append((name, size, folder, grey))
        grey_images = digits(8)
        if grey:
            return grey_images
        colour = LabelledImages(ArrayImages(np.repeat(grey_images.validation.images.array, 3, axis=1)),  # type: ignore
                                grey_images.validation.labels)
        return Dataset("photos", colour, colour, grey_images.class_names)

    monkeypatch.setattr(side_by_side, "load_dataset", load)
    Path("others").mkdir()
    stored(Path("grey"), dataset="photos"), stored(Path("colour"), in_channels=3, dataset="photos")
    for arguments in (["grey"], ["colour", "--data=there"], ["grey", "--dataset=others"]):
        evaluated(*arguments, "--images=10")
    assert asked == [("photos", 8, None, True), ("photos", 8, Path("there"), False), ("others", 8, None, True)]


def test_the_dataset_is_what_the_classifier_learned_from(run: Path, resnet: str) -> None:
    Path("file.pt").touch()
    stored(Path("silent"), dataset=None)
    assert [training_set(str(name)) for name in (run, "digits", "imagenet64", "imagenet256", "silent", "file.pt", resnet)] == [
        "digits", "digits", "imagenet64", "imagenet", None, None, None]


def test_a_dataset_that_is_gone_is_asked_for() -> None:
    stored(Path("run"), dataset="gone")
    assert_refused(invoke(eval_noisy_clf, "run", "--device=cpu"), "learned from 'gone', which cannot be read: ",
                   "; or give another --dataset.")
    assert not Path("evaluations").exists()


@pytest.mark.parametrize("labels", [[], [3, 3, 3]], ids=["none", "one class"])
def test_images_that_cannot_be_told_apart_are_refused(run: Path, labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits(8)
    few = LabelledImages(ArrayImages(np.zeros((len(labels), 1, 8, 8), np.uint8)), torch.tensor(labels, dtype=torch.long))
    monkeypatch.setattr(side_by_side, "load_dataset", lambda *arguments, **more: replace(data, validation=few))
    result = invoke(eval_noisy_clf, run, "--device=cpu")
    assert_refused(result, f"digits has {len(labels)} validation images, of fewer than two")


def test_a_classifier_whose_output_is_no_number_is_refused(run: Path) -> None:
    folder = stored(Path("diverged"))
    tensors = load_file(folder / "best" / "model.safetensors")
    tensors["time_embed.0.weight"][0] = math.nan
    save_file(tensors, folder / "best" / "model.safetensors")
    result = invoke(eval_noisy_clf, folder, "--device=cpu", "--levels=0.5", "--images=5", "--out=out")
    assert_refused(result, "diverged's output or its gradient is not a finite number at t = 20;")
    assert list(Path("out").iterdir()) == []


def test_too_large_a_batch_for_the_gpu_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any, **more: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(side_by_side, "evaluate", out_of_memory)
    assert_refused(invoke(eval_noisy_clf, run, "--device=cpu"), "give a smaller --batch-size")


@pytest.mark.parametrize("flags, sentence", [
    ("--batch-size=0", "0 is not in the range x>=1"),
    ("--images=0", "0 is not in the range x>=1"),
    ("--levels=0,1.5", "noise levels are t/T, from 0 to 1, not (0, 1.5)"),
    ("--levels=-0.1", "noise levels are t/T, from 0 to 1"),
    ("--levels=nan", "noise levels are t/T, from 0 to 1"),
    ("--levels=,", "noise levels are t/T, from 0 to 1"),
    ("--levels=half", "'half' is not a list of numbers"),
    ("--device=cuda:7", "device 'cuda:7' is not there"),
    ("--device=banana", "device 'banana' is not there"),
    ("--dataset=nosuch", "'nosuch'"),
    ("--precision=int8", "'int8' is not one of 'float32', 'bf16'"),
    ("--seed=-1", "-1 is not in the range"),
    ("--compare=nosuch", "there is no classifier 'nosuch'; the names are: "),
    ("--compare=timm:resnet5O", "timm has no model 'resnet5O'; did you mean "),
    ("--compare=timm:test_resnet@nosuch.pt", "nosuch.pt"),
    ("--T=100", "has a noise schedule of its own; leave out --noise-schedule, --T and --schedule-from."),
    ("--schedule-from=digits", "has a noise schedule of its own"),
    ("--classifier-config=nosuch.toml", "there is no file 'nosuch.toml'"),
    ("--classifier-config=imagenet64", "brings settings of its own"),
    ("--out=file", "file")])
def test_evaluation_refuses_with_one_sentence(run: Path, flags: str, sentence: str) -> None:
    Path("file").write_text("mine")
    result = invoke(eval_noisy_clf, run, "--device=cpu", "--out=evaluation", *flags.split())
    assert_refused(result, sentence)
    assert Path("file").read_text() == "mine" and not Path("evaluation").exists()


@pytest.mark.parametrize("flags, sentence", [
    ("--noise-schedule=sigmoid", "'sigmoid' is not one of 'linear', 'cosine'"),
    ("--noise-schedule=linear --T=20", "the linear schedule needs at least 21 timesteps, not 20"),
    ("--schedule-from=digits --T=20", "leave out --noise-schedule and --T"),
    ("--schedule-from=nosuch", "there is no denoiser 'nosuch'"),
    ("--classifier-config=imagenet64", "brings settings of its own; settings are for bare .pt files: leave them out.")])
def test_a_schedule_that_cannot_be_is_refused_for_a_classifier_of_clean_images(resnet: str, flags: str, sentence: str) -> None:
    assert_refused(invoke(eval_noisy_clf, resnet, "--device=cpu", *flags.split()), sentence)


def test_evaluation_refuses_an_unknown_classifier() -> None:
    assert_refused(invoke(eval_noisy_clf, "nosuch"), "there is no classifier 'nosuch'; the names are: ")


@pytest.mark.parametrize("names, sentence", [
    (tuple(f"class-{i}" for i in range(10)), "tells 10 classes (class-0, class-1, class-2, ...)"),
    (("zero",) + NAMES[:9], "tells 10 classes (zero, zero, one, ...)"),
    (NAMES[:7], "tells 7 classes (zero, one, two, ...)"), (tuple("0123456"), "tells 7 classes (0, 1, 2, ...)")])
def test_evaluation_refuses_a_classifier_of_other_classes(run: Path, names: tuple[str, ...], sentence: str) -> None:
    stored(Path("other"), names=names, num_classes=len(names))
    for arguments in (["other"], [run, "--compare=other"]):
        result = invoke(eval_noisy_clf, *arguments, "--device=cpu")
        assert_refused(result, f"other {sentence}", "digits has 10 (zero, one, two, ...)")


def test_evaluation_refuses_a_colour_classifier_for_grey_images() -> None:
    stored(Path("colour"), in_channels=3)
    result = invoke(eval_noisy_clf, "colour", "--device=cpu")
    assert_refused(result, "8 pixels a side and 3 channels; digits has 10", "8 and 1;")


def test_two_of_different_sizes_are_not_compared(run: Path) -> None:
    stored(Path("large"), image_size=16)
    assert_refused(invoke(eval_noisy_clf, run, "--compare=large", "--device=cpu"), "large sees 16 pixels a side in 1 channels.")


def test_a_failing_dataset_is_not_blamed_on_the_classifier(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise UserError("mine.")

    monkeypatch.setattr(side_by_side, "load_dataset", fail)
    assert_refused(invoke(eval_noisy_clf, run, "--dataset=digits"), "mine.")


@pytest.mark.parametrize("names, called", [
    (["digits"], ["digits"]), (["runs/a/", "runs/b"], ["a", "b"]),
    (["runs/a/best", "runs/b/last"], ["a/best", "b/last"]),
    (["timm:resnet50@weights/mine.pt", "digits"], ["timm:resnet50", "digits"]), (["a", "a"], ["a", "a"])])
def test_what_the_classifiers_are_called(names: list[str], called: list[str]) -> None:
    assert short(names) == called


@pytest.mark.parametrize("example", [
    "eval-noisy-clf digits", "eval-noisy-clf runs/digits-classifier --levels 0,0.25,0.5,0.75,0.9",
    "eval-noisy-clf runs/photos-classifier --compare timm:resnet50@resnet50.safetensors"])
def test_help_has_examples_on_lines_of_their_own(example: str) -> None:
    result = invoke(eval_noisy_clf, "--help")
    assert result.exit_code == 0 and example in [line.strip() for line in result.output.splitlines()]


def test_bf16_is_near_float32(run: Path) -> None:
    exact, rough = (evaluated(run, "--images=40", f"--precision={precision}")[0]["classifiers"][0]["levels"]
                    for precision in ("float32", "bf16"))
    for one, other in zip(exact, rough):
        assert 0 < abs(one["nll"] - other["nll"]) < 0.05 * one["nll"]
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=0.1)
