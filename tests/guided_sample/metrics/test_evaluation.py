"""eval-samples: the whole of it."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from guided_sample.cli.eval_samples import eval_samples
from guided_sample.metrics import evaluation, features, inception
from guided_sample.metrics.evaluation import Evaluator
from guided_sample.metrics.extractors import extractor_named
from guided_sample.metrics.features import features_of
from guided_sample.metrics.measures import Measures
from guided_sample.metrics.pictures import pictures_at
from noisy_clf.errors import UserError
from tests.commands import assert_refused, invoke, run
from tests.guided_sample.metrics import random_inception

VECTORS = Path(__file__).parents[2] / "data" / "evaluator" / "eval_graph_vectors.npz"
CPU = torch.device("cpu")


def evaluated(*arguments: object) -> dict[str, Any]:
    """evaluation.json of the first of the samples."""
    result = invoke(eval_samples, *arguments)
    assert result.exit_code == 0, result.output
    samples = Path(str(arguments[0]))
    file = samples.with_name(f"{samples.stem}.evaluation.json")
    return json.loads(file.read_text())


def by_inception(*arguments: object) -> Result:
    return invoke(eval_samples, *arguments, "--weights", "inception.pth")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.lib.npyio.NpzFile:
    """ADM's images in samples.npz and reference.npz, the latter with the moments that its vectors are of; random weights."""
    monkeypatch.chdir(tmp_path)
    torch.save(random_inception.state_dict(), "inception.pth")
    monkeypatch.setattr(inception, "DIGEST", "")
    vectors = np.load(VECTORS)
    np.savez("samples.npz", arr_0=vectors["sam_arr_0"])
    np.savez("images.npz", arr_0=vectors["ref_arr_0"])
    found = features_of(pictures_at(Path("images.npz")), extractor_named("inception", CPU, Path("inception.pth")))
    arrays = {}
    for kind, mu, sigma in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        own = found.whole(kind).astype(np.float64)
        covariance = np.cov(own, rowvar=False)
        arrays |= {mu: own.mean(axis=0), sigma: covariance + 0.5 * covariance.diagonal().mean() * np.eye(len(covariance))}
    np.savez("reference.npz", arr_0=vectors["ref_arr_0"], **arrays)
    return vectors


def test_the_figures_of_adms_evaluator(files: np.lib.npyio.NpzFile, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluated("samples.npz", "--reference", "reference.npz", "--weights", "inception.pth")
    metrics = found["metrics"]
    assert metrics["FID"] == pytest.approx(files["fid"], rel=1e-5)
    assert metrics["sFID"] == pytest.approx(files["sfid"], rel=1e-5)
    assert metrics["IS"] == pytest.approx(files["inception_score"], rel=1e-6)
    assert (metrics["precision"], metrics["recall"]) == (files["precision_f32branch"], files["recall_f32branch"])
    assert found["names"]["FID"] == "FID-64" and found["floor"]["N"] == 24
    assert set(found["floor"]) >= {"FID", "sFID", "IS", "KID"}
    assert found["features"] == {"inception": found["digests"]["inception"]}
    assert any("64 samples are few" in warning for warning in found["warnings"])
    assert "agreement" not in metrics and "CAS" not in metrics

    def never(*_: object) -> None:
        raise AssertionError("extracted again")

    monkeypatch.setattr(features, "extract", never)  # another metric costs nothing
    again = evaluated("samples.npz", "--reference", "reference.npz", "--weights", "inception.pth", "--metrics", "IS,FID",
                      "--is-order", "shuffled")
    assert again["metrics"] == metrics | {"IS": again["metrics"]["IS"]}
    assert any("shuffled" in warning for warning in again["warnings"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of the bundled model of forty samples, of two seeds."""
    folder = tmp_path_factory.mktemp("digits")
    for seed in (0, 1):
        result = run("--model", "digits", "--num-samples", 40, "--class", "all", "--steps", 5, "--seed", seed,
                     "--out", folder / str(seed))
        assert result.exit_code == 0, result.output
    return [folder / "0", folder / "1"]


def test_without_a_word_a_bundled_models_samples_are_judged_and_compared_with_the_digits(digits: list[Path]) -> None:
    result = invoke(eval_samples, *digits)
    assert result.exit_code == 0, result.output
    found = json.loads((digits[0] / "evaluation.json").read_text())
    judge = "[judge:digits-judge]"
    assert set(found["metrics"]) == {"agreement", f"FD{judge}", f"KD{judge}", f"precision{judge}", f"recall{judge}"}
    assert set(found["floor"]) == set(found["metrics"]) - {"agreement"} | {"N"} and found["floor"]["N"] == 40
    classes = found["by_class"]
    assert np.array(classes["confusion"]).sum(axis=1).tolist() == [4] * 10 and (digits[0] / "confusion.png").exists()
    assert np.trace(classes["confusion"]) / 40 == found["metrics"]["agreement"] == np.mean(classes["agreement"])
    assert len(classes["precision"]) == 10 and found["reference"]["N"] == 1433
    assert set(found["digests"]) == {"samples", "model", "classifier", "judge", "reference", "judge:digits-judge"}
    told = result.output.splitlines()
    assert "2 seeds:" in told and any(line.split()[:1] == [f"FD{judge}-40"] and "times it" in line for line in told)
    both = [json.loads((folder / "evaluation.json").read_text())["metrics"]["agreement"] for folder in digits]
    line = next(line for line in told[told.index("2 seeds:"):] if line.startswith("agreement"))
    assert f"{np.mean(both):.1%}".rstrip("%") in line and f"{min(both):.1%}".rstrip("%") in line


def test_runs_that_are_not_of_one_request_have_no_mean(digits: list[Path]) -> None:
    result = invoke(eval_samples, digits[0], digits[0], "--metrics", "agreement")
    assert result.exit_code == 0 and "seeds" not in result.output, result.output


def test_the_floor_is_of_real_images_that_are_not_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real digits against the digits themselves: no farther than the floor, and all of them in the manifold."""
    from noisy_clf.datasets import load_dataset

    monkeypatch.chdir(tmp_path)
    images, y = load_dataset("digits").train.batch(torch.arange(0, 1433, 4))
    np.savez("real.npz", arr_0=images.permute(0, 2, 3, 1).numpy(), arr_1=y.numpy())
    found = evaluated("real.npz", "--reference", "digits", "--judge", "digits-judge", "--features", "judge")
    judge = "[judge:digits-judge]"
    assert 0 < found["metrics"][f"FD{judge}"] < found["floor"][f"FD{judge}"]
    assert found["metrics"][f"precision{judge}"] == 1 > found["floor"][f"precision{judge}"]
    assert found["metrics"]["agreement"] > 0.99


def test_samples_of_several_classes_at_once_are_left_out_and_told(digits: list[Path], monkeypatch: pytest.MonkeyPatch,
                                                                  tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with np.load(digits[0] / "samples.npz") as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    np.savez("some.npz", arr_0=images, arr_1=np.where(labels < 5, labels, -1))
    np.savez("others.npz", arr_0=images[labels < 5], arr_1=labels[labels < 5])
    by_judge = ["--judge", "digits-judge", "--metrics", "agreement"]
    some, others = evaluated("some.npz", *by_judge), evaluated("others.npz", *by_judge)
    assert some["metrics"] == others["metrics"] and some["errors"] == others["errors"]
    assert some["by_class"] == others["by_class"]
    assert "20 of 40 samples were asked for no one class; agreement leaves them out." in some["warnings"]
    assert not any("leaves them out" in warning for warning in others["warnings"])
    assert some["names"] == others["names"] == {"agreement": "agreement-20"}


def test_a_run_of_wishes_alone_has_no_agreement_and_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, asked in (("both", "3=1,8=1"), ("none", "none")):
        assert run("--model", "digits", "--num-samples", 4, "--class", asked, "--steps", 2, "--out", name).exit_code == 0
        assert invoke(eval_samples, name).exit_code == 0
    both, none = (json.loads(Path(name, "evaluation.json").read_text()) for name in ("both", "none"))
    assert "agreement" not in both["metrics"] and "both has no labels: no agreement." in both["warnings"]
    assert not any("agreement" in warning for warning in none["warnings"])


@pytest.mark.parametrize("arguments, words", [
    (["--judge", "digits"], ["digits guided these samples", "give another --judge"]),
    (["--metrics", "FIDs"], ["there is no metric 'FIDs'; there are: FID"]),
    (["--metrics", "FID", "--features", "judge"], ["FID is by Inception's features and no others"]),
    (["--metrics", "CAS"], ["name the dataset (--cas digits)"]),
    (["--features", "nosuch"], ["unknown features 'nosuch'; there are: inception"]),
    (["--reference", "nosuch"], ["there is no reference 'nosuch'; give one of ADM's (imagenet64"]),
    (["--reference", "imagenet64"], ["nothing is resized silently"]),
])
def test_refusals(digits: list[Path], arguments: list[str], words: list[str]) -> None:
    assert_refused(invoke(eval_samples, digits[0], *arguments), *words)


def test_samples_that_cannot_be_measured_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.zeros((8, 16, 16, 1), np.uint8)
    for name, arrays in {"one": {"arr_0": images[:1]}, "float": {"arr_0": images / 255}, "none": {"images": images},
                         "unlabelled": {"arr_0": images}}.items():
        np.savez(name, **arrays)  # type: ignore[arg-type]
    assert_refused(invoke(eval_samples, "one.npz", "--reference", "digits"), "there must be at least 2")
    assert_refused(invoke(eval_samples, "float.npz", "--reference", "digits"), "images are uint8 from 0 to 255")
    assert_refused(invoke(eval_samples, "none.npz", "--reference", "digits"), "has no arr_0 but images")
    assert_refused(invoke(eval_samples, "unlabelled.npz", "--judge", "digits-judge"), "has no labels")
    found = evaluated("unlabelled.npz", "--judge", "digits-judge", "--features", "judge", "--reference", "digits")
    assert "agreement" not in found["metrics"] and any("no labels: no agreement" in told for told in found["warnings"])
    assert_refused(invoke(eval_samples, "unlabelled.npz", "--metrics", "agreement"), "name one by --judge")
    assert_refused(invoke(eval_samples, "unlabelled.npz"), "give a --reference, a --judge, or both")
    assert_refused(invoke(eval_samples, "nosuch"), "there is nothing at nosuch")


def test_a_folder_of_pictures_stays_one(digits: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in digits[0].glob("0*.png"):
        place = Path("classes", "ab"[int(path.stem) % 2])
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes())
    for _ in range(2):  # what is told of it lies beside it, and is no picture of it
        found = evaluated("classes", "--reference", "digits", "--metrics", "FD", "--features", "judge", "--judge",
                          "digits-judge")
        assert found["N"] == 40 and found["metrics"].keys() == {"FD[judge:digits-judge]"}
    assert not list(Path("classes").glob("*.json"))


def test_only_what_is_asked_for_is_loaded_and_claimed(digits: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("loaded")

    (digits[0] / "evaluation.json").unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "reference_named", never)
        result = invoke(eval_samples, digits[0], "--metrics", "agreement")
    assert result.exit_code == 0, result.output
    found = json.loads((digits[0] / "evaluation.json").read_text())
    assert found["metrics"].keys() == {"agreement"} and found["judge"] == "digits-judge"
    assert set(found["digests"]) == {"samples", "model", "classifier", "judge"} and not found["floor"]
    assert found["measures"] == {"metrics": ["agreement"]}
    assert invoke(eval_samples, digits[0], "--metrics", "FD").exit_code == 0
    both = json.loads((digits[0] / "evaluation.json").read_text())  # a further metric adds to those there are
    assert both["metrics"].keys() == {"agreement", "FD[judge:digits-judge]"} and both["by_class"] == found["by_class"]
    assert invoke(eval_samples, digits[0], "--metrics", "FD", "--reference", str(digits[1] / "samples.npz"), "--judge",
                  "digits-judge", "--features", "judge").exit_code == 0
    other = json.loads((digits[0] / "evaluation.json").read_text())  # but not to those of another reference
    assert other["metrics"].keys() == {"FD[judge:digits-judge]"} and other["reference"]["N"] == 40


def test_a_refused_cas_loses_nothing(digits: list[Path]) -> None:
    assert_refused(invoke(eval_samples, digits[0], "--metrics", "agreement,CAS", "--cas", "nosuch"), "no dataset 'nosuch'")
    assert "agreement" in json.loads((digits[0] / "evaluation.json").read_text())["metrics"]


def test_what_names_tell_of_a_run_is_told_before_it_is_drawn(digits: list[Path]) -> None:
    manifest = pictures_at(digits[0]).manifest
    Evaluator(Measures(), "cpu").check(manifest, (16, 16, 1), labelled=True)
    for measures, labelled, told in (
            (Measures(reference="nosuch"), True, "there is no reference 'nosuch'"),
            (Measures(judge="digits"), True, "guided these"),
            (Measures(judge="nosuch"), True, "there is no classifier 'nosuch'"),
            (Measures(reference="imagenet64"), True, "nothing is resized"),
            (Measures(metrics=("agreement",)), False, "samples of none are drawn")):
        with pytest.raises(UserError, match=told):
            Evaluator(measures, "cpu").check(manifest, (16, 16, 1), labelled)
