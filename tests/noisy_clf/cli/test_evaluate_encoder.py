"""eval-noisy-encoder as people type it."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from noisy_clf.checkpoints.model_folder import file_digest, save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.cli.evaluate_encoder import eval_noisy_encoder
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.order import permutation
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.evaluation import retrieval_subjects
from noisy_clf.evaluation.retrieval import retrieve
from noisy_clf.evaluation.retrieval_report import Found, as_json, verdict
from noisy_clf.files import versions
from noisy_clf.loaders.encoder import load_encoder
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, invoke
from tests.noisy_clf.conftest import tiny_network
from tests.reference import with_drawn_weights

COSINE = NoiseSchedule.named("cosine", 40)


def stored(folder: Path, schedule: NoiseSchedule = COSINE, dataset: str | None = "digits", **settings: Any) -> Path:
    """A training run's folder with a tiny encoder, which says what it learned from."""
    encoder = NoisyEncoder(with_drawn_weights(tiny_network(**settings)), schedule)
    about = {} if dataset is None else {"training": {"dataset": dataset}}
    save_model(folder / "best", {**encoder.config(), **about}, encoder.network, {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("runs") / "mine")


def evaluated(*arguments: object, levels: str = "0,0.5") -> tuple[dict[str, Any], str]:
    """(evaluation.json, what was printed); no picture is drawn, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_subjects, "draw", lambda found, path: None)
        result = invoke(eval_noisy_encoder, *arguments, f"--levels={levels}", "--device=cpu", "--out=out")
    assert result.exit_code == 0, result.output
    return json.loads(Path("out/evaluation.json").read_text()), result.output


def test_eval_tells_what_retrieve_finds(run: Path) -> None:
    content, output = evaluated(run, "--seed=2", levels="0,0.5,1")
    data = digits(8).validation
    rows = retrieve(load_encoder(run).encoder, data, [0, 0.5, 1], seed=2)
    lines = [line.split() for line in output.splitlines()]
    for row in rows:
        assert [f"{row.t / 40:.2f}", str(row.t), f"{row.top1:.1%}", f"{row.top5:.1%}", f"{row.own:.3f}",
                f"{row.others:.3f}"] in lines
    expected = Found("mine", COSINE, tuple(rows), 364)
    assert "\n".join(["mine, among 364 validation images of digits:", *verdict(expected)]) in output
    assert content == json.loads(json.dumps({
        "dataset": "digits", "source": digits(8).source, "images": 364, "of_images": 364, "levels": [0, 0.5, 1], "seed": 2,
        "precision": "float32", "chance": 1 / 364, "versions": versions(), "encoders": [{
            "encoder": str(run), "digest": file_digest(run / "best/model.safetensors"), **as_json(expected)}]}))


@pytest.mark.parametrize("more, folder", [([], "mine"), (["--compare", "other"], "mine-vs-other")])
def test_eval_writes_to_a_folder_named_after_the_encoders(run: Path, more: list[str], folder: str) -> None:
    stored(Path("other"))
    assert invoke(eval_noisy_encoder, run, "--levels=0", "--images=9", "--device=cpu", *more).exit_code == 0
    out = Path("evaluations") / folder
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.png"]
    with Image.open(out / "evaluation.png") as image:
        image.load()
        assert image.format == "PNG"


def test_some_images_are_drawn_once_and_for_all(run: Path) -> None:
    content, output = evaluated(run, "--images=50", "--seed=3")
    chosen = torch.from_numpy(permutation(364, 0, 0)[:50].copy()).sort().values  # whatever the seed, which is the noise's
    rows = retrieve(load_encoder(run).encoder, digits(8).validation, [0, 0.5], seed=3, chosen=chosen)
    assert [row["top1"] for row in content["encoders"][0]["levels"]] == [row.top1 for row in rows]
    assert (content["images"], content["of_images"], content["chance"]) == (50, 364, 1 / 50)
    assert "among 50 validation images" in output


def test_two_are_compared_side_by_side(run: Path) -> None:
    stored(Path("other"), NoiseSchedule.named("linear", 100), attention_at=(8,))
    both, output = evaluated(run, "--compare=other", "--images=30")
    assert [one["encoder"] for one in both["encoders"]] == [str(run), "other"]
    assert both["encoders"] == [evaluated(name, "--images=30")[0]["encoders"][0] for name in (run, "other")]
    assert "other, among 30 validation images of digits:" in output and "mine finds more images at" in output
    assert "different noise schedules (cosine, T = 40" in output


def test_a_classifiers_torso_is_an_encoder(run: Path) -> None:
    classifier = NoisyClassifier(with_drawn_weights(tiny_network()), COSINE, digits(8).class_names)
    save_model(Path("classifier"), classifier.config(), classifier.network, {})
    found, expected = (evaluated(name, "--images=30")[0]["encoders"][0]["levels"] for name in ("classifier", run))
    assert found == expected


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of clean images, of timm's smallest kind, with weights in a file."""
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), file)
    return f"timm:test_resnet@{file}"


def test_a_clean_encoder_takes_the_schedule_of_the_other_or_the_one_given(run: Path, resnet: str) -> None:
    for arguments, schedules in (([resnet, "--compare", run], [{"name": "cosine", "T": 40}] * 2),
                                 ([resnet, "--noise-schedule=linear", "--T=50"], [{"name": "linear", "T": 50}]),
                                 ([resnet, "--schedule-from=digits"], [{"name": "cosine", "T": 1000}])):
        content, output = evaluated(*arguments, "--images=10")
        assert [one["schedule"] for one in content["encoders"]] == schedules
        assert "timm:test_resnet, among 10 validation images of digits:" in output


def test_a_dataset_that_is_gone_is_asked_for() -> None:
    stored(Path("run"), dataset="gone")
    assert_refused(invoke(eval_noisy_encoder, "run", "--device=cpu"), "learned from 'gone', which cannot be read: ",
                   "; or give another --dataset.")
    assert not Path("evaluations").exists()


def test_an_encoder_whose_embedding_is_no_number_is_refused() -> None:
    folder = stored(Path("diverged"))
    tensors = load_file(folder / "best" / "model.safetensors")
    tensors["time_embed.0.weight"][0] = math.nan
    save_file(tensors, folder / "best" / "model.safetensors")
    result = invoke(eval_noisy_encoder, folder, "--device=cpu", "--levels=0.5", "--images=5", "--out=out")
    assert_refused(result, "diverged's embedding is not a finite number at t = 20;")
    assert list(Path("out").iterdir()) == []


def test_too_large_a_batch_for_the_gpu_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any, **more: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(retrieval_subjects, "retrieve", out_of_memory)
    assert_refused(invoke(eval_noisy_encoder, run, "--device=cpu"), "give a smaller --batch-size")


@pytest.mark.parametrize("flags, sentence", [
    ("--images=1", "1 is not in the range x>=2"),
    ("--levels=0,1.5", "noise levels are t/T, from 0 to 1, not (0, 1.5)"),
    ("--device=banana", "device 'banana' is not there"),
    ("--dataset=nosuch", "'nosuch'"),
    ("--compare=nosuch", "there is no encoder 'nosuch'; the names are: "),
    ("--compare=timm:resnet5O", "timm has no model 'resnet5O'; did you mean "),
    ("--compare=LARGER", "two encoders are compared on the same images; "),
    ("--compare=LARGER", "LARGER sees 16 pixels a side in 1 channels."),
    ("--T=100", "has a noise schedule of its own; leave out --noise-schedule, --T and --schedule-from."),
    ("--out=file", "file")])
def test_evaluation_refuses_with_one_sentence(run: Path, flags: str, sentence: str) -> None:
    Path("file").write_text("mine")
    stored(Path("LARGER"), image_size=16)
    result = invoke(eval_noisy_encoder, run, "--device=cpu", "--out=evaluation", *flags.split())
    assert_refused(result, sentence)
    assert Path("file").read_text() == "mine" and not Path("evaluation").exists()
