"""A sweep's cells are the runs that guided-sample makes, whoever draws them and whatever was killed; each is evaluated once."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

import guided_sample.loading
import guided_sample.metrics.evaluation
import guided_sample.plan
import guided_sample.report
from guided_sample.cli.sweep import guided_sweep
from guided_sample.denoiser import Denoiser
from guided_sample.manifest import Manifest
from guided_sample.metrics.measures import Measures, measures_told
from guided_sample.metrics.npz import sha256_of
from guided_sample.plan import Plan
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.datasets import load_dataset
from noisy_clf.errors import UserError
from tests.commands import assert_refused, contents, invoke, run
from tests.guided_sample.test_upsample import TINY, release, upsampler_network
from tests.reference import with_drawn_weights

SWEEP = {"sampler": ["ddpm", "ddim"], "scale": [0, 3]}
REAL = {name: sys.modules[name] for name in ("guided_sample.metrics.evaluation", "guided_sample.report")}
FOUR = ["ddpm-5-scale-0", "ddpm-5-scale-3", "ddim5-scale-0", "ddim5-scale-3"]


@dataclass
class Measured:
    """What was asked for: the folders of evaluations, and of the last report, with the experiment that it was told of; what
    was to be checked: models' names, shapes, whether they are labelled."""

    evaluated: list[str]
    report: list[str]
    experiment: dict[str, Any] | None = None
    measures: Measures | None = None
    refuse: Callable[[Path], object] = lambda samples: None
    checked: list[tuple[Any, ...]] = field(default_factory=list)
    check: Callable[[Manifest], object] = lambda manifest: None


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Evaluations and reports that measure and draw nothing."""
    told = Measured([], [])

    class Evaluator:
        def __init__(self, measures: Measures, device: str = "auto") -> None:
            told.measures = measures

        def evaluate(self, samples: Path) -> dict[str, Any]:
            told.refuse(samples)
            told.evaluated.append(samples.name)
            manifest = json.loads((samples / "manifest.json").read_text())
            assert told.measures
            found = {"N": manifest["num_samples"], "metrics": {"FID": 1.5}, "measures": measures_told(told.measures),
                     "digests": {"samples": sha256_of(samples / "samples.npz"), **manifest["digests"]}}
            (samples / "evaluation.json").write_text(json.dumps(found))
            return found

        def check(self, manifest: Manifest, shape: tuple[int, int, int], labelled: bool) -> None:
            told.checked.append((Path(manifest.request["model"]).name, shape, labelled))
            told.check(manifest)

    def write_report(folders: list[Path], out: Path, experiment: dict[str, Any] | None = None) -> Path:
        told.report, told.experiment = [folder.name for folder in folders], experiment
        (out / "report.html").write_text("")
        return out / "report.html"

    for name, members in (("guided_sample.metrics.evaluation", {"Evaluator": Evaluator}),
                          ("guided_sample.report", {"write_report": write_report})):
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("guided_sample.run.misconfigured", lambda *_: None)
    return told


def write(path: str, sweep: dict[str, Any], **values: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()] + ["[sweep]"]
    Path(path).write_text("\n".join(lines + [f"{key} = {json.dumps(value)}" for key, value in sweep.items()]) + "\n")
    return path


def write_kinds(path: str, *kinds: dict[str, Any], **values: Any) -> str:
    tables = [values, *kinds]
    Path(path).write_text("\n[[kind]]\n".join("\n".join(f"{key} = {json.dumps(value)}" for key, value in one.items())
                                              for one in tables) + "\n")
    return path


@pytest.fixture
def mine(denoiser_folder: Path) -> Callable[..., str]:
    """mine.toml with these values over the tiny model's."""
    def make(sweep: dict[str, Any] = SWEEP, path: str = "mine.toml", **values: Any) -> str:
        return write(path, sweep, **{"model": str(denoiser_folder), "num_samples": 4, **values})
    return make


def sweep(*arguments: object) -> Result:
    return invoke(guided_sweep, *arguments)


def swept(*arguments: object) -> str:
    result = sweep(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def samples(out: str) -> dict[str, bytes]:
    """The bytes of all cells' images and lines."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*"))
            if path.suffix in (".png", ".npz", ".jsonl")}


def test_each_cell_is_the_run_that_guided_sample_makes_and_is_evaluated_once(
        mine: Callable[..., str], denoiser_folder: Path, measured: Measured) -> None:
    told = swept(mine(metrics=["FID", "recall"], judge="j", title="Mine"))
    assert "4 cells, 16 samples in all, 0 of them drawn already" in told and told.startswith("Mine.")
    assert "4 cells in sweeps/mine: look at sweeps/mine/report.html" in told
    assert measured.evaluated == measured.report == FOUR and measured.measures == Measures(None, None, "j", ("FID", "recall"))
    assert measured.experiment and measured.experiment["sweep"] == SWEEP
    assert measured.experiment["name"] == "sweeps/mine/experiment.json"  # what makes it again
    for name in FOUR:
        sampler, scale = ("ddpm" if "ddpm" in name else "ddim"), name[-1]
        assert run("--model", denoiser_folder, "--num-samples", 4, "--sampler", sampler, "--scale", scale, "--out", name,
                   "--no-check").exit_code == 0
        assert contents(Path(name)) == contents(Path("sweeps/mine", name))
    swept("mine.toml")
    assert measured.evaluated == FOUR  # no more than once
    swept(mine(metrics=["FID"], judge="j"))
    assert measured.evaluated == FOUR * 2
    Path("sweeps/mine/ddim5-scale-0/evaluation.json").write_text("{")
    swept("mine.toml")
    assert measured.evaluated == [*FOUR * 2, "ddim5-scale-0"]


def test_an_evaluation_of_other_samples_or_another_reference_is_made_again(
        mine: Callable[..., str], measured: Measured) -> None:
    Path("reference.npz").write_bytes(b"one")
    swept(mine({"scale": [0, 3]}, reference="reference.npz"))

    def again() -> list[str]:
        measured.evaluated.clear()
        swept("mine.toml")
        return measured.evaluated
    assert again() == []
    Path("reference.npz").write_bytes(b"other")
    assert again() == ["scale-0", "scale-3"] and again() == []
    Path("another.npz").write_bytes(b"written before the evaluation, moved after it")
    os.utime("another.npz", (1, 1))
    Path("another.npz").rename("reference.npz")
    assert again() == ["scale-0", "scale-3"] and again() == []
    for what in ("samples", "model", "classifier"):
        file = Path("sweeps/mine/scale-3/evaluation.json")
        found = json.loads(file.read_text())
        file.write_text(json.dumps(found | {"digests": found["digests"] | {what: "of another"}}))
        assert again() == ["scale-3"] and again() == []
    file.write_text(json.dumps({key: value for key, value in found.items() if key != "digests"}))
    assert again() == ["scale-3"]


def test_what_cannot_be_measured_is_not_drawn(denoiser_folder: Path, measured: Measured) -> None:
    def refuse(manifest: Manifest) -> None:
        if manifest.request["scale"] == 3:
            raise UserError("there is no reference 'nosuch.npz'.")
    measured.check = refuse
    path = write("mine.toml", {"scale": [0, 3]}, model=str(denoiser_folder), num_samples=2)
    result = sweep(path)
    assert_refused(result, "1 of 2 cells failed (scale-3)")
    assert "Cell scale-3 failed: there is no reference 'nosuch.npz'." in result.output
    assert measured.report == ["scale-0"] and not Path("sweeps/mine/scale-3").exists()
    assert measured.checked == [("denoiser", (8, 8, 1), True)] * 2
    swept(write("none.toml", {}, model=str(denoiser_folder), num_samples=2, **{"class": "none"}))
    assert measured.checked[2:] == [("denoiser", (8, 8, 1), False)]


def test_of_two_stages_both_are_tried_and_the_last_is_checked_and_evaluated(
        measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    Path("cache").mkdir()
    first = with_drawn_weights(UNet(UNetConfig(image_size=8, in_channels=3, out_channels=6, **TINY)))
    release("lsun-cat", "denoiser", first, monkeypatch, image_size=8)
    release("imagenet64-256", "denoiser", upsampler_network(None), monkeypatch, image_size=16, small_size=8)
    tried: list[Any] = []
    monkeypatch.setattr("guided_sample.run.misconfigured", lambda denoiser, *_: tried.append(denoiser.small_size))
    swept(write("mine.toml", {"seed": [0, 1]}, model="lsun-cat", upsample="imagenet64-256", num_samples=2, steps=4))
    assert tried == [None, 8] and measured.checked == [("lsun-cat", (16, 16, 3), False)] * 2
    assert measured.evaluated == ["upsampled"] * 2
    assert run("--request", "sweeps/mine/seed-1/manifest.json", "--out", "one", "--no-check").exit_code == 0
    assert contents(Path("one")) == contents(Path("sweeps/mine/seed-1"))


@pytest.mark.parametrize("values, message", [
    ({"reference": "nosuch.npz"}, "Cell samples failed: there is no file or folder nosuch"),
    ({"judge": "nosuch"}, "nosuch"),
    ({"judge": "digits"}, "guided these samples")])
def test_what_no_evaluator_can_measure_is_not_drawn(
        values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in REAL.items():
        monkeypatch.setitem(sys.modules, name, module)
    result = sweep(write("mine.toml", {}, model="digits", num_samples=20, steps=2, **values))
    assert_refused(result, "1 of 1 cells failed (samples)")
    assert message in result.output and not Path("sweeps/mine/samples").exists()


def test_each_network_is_tried_once_by_the_process_that_talks_whosoever_the_share(
        mine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def misconfigured(denoiser: Denoiser, *_: Any) -> str:
        tried.append(denoiser.network)
        return "is odd"

    monkeypatch.setattr("guided_sample.run.misconfigured", misconfigured)
    path = mine({"scale": [0, 3], "precision": ["float32", "bf16"]}, num_samples=1)
    for rank, told in (("1", 0), ("0", 2)):  # of four processes, each with one of the four cells
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "4")
        assert swept(path, "--batch-size", 1).count("denoiser is odd") == len(tried) == told
    assert tried[0] is not tried[1]
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    tried.clear()
    assert swept(path).count("is odd") == 2 and swept(path).count("is odd") == 0  # nothing is left to draw


def test_no_network_stays_on_the_device_when_it_is_done(
        mine: Callable[..., str], measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    where: dict[str, Any] = {}
    move = torch.nn.Module.to

    def moved(self: torch.nn.Module, *arguments: Any, **more: Any) -> torch.nn.Module:
        where[type(self).__name__] = arguments and arguments[0]
        return move(self, *arguments, **more)

    def evaluating(folder: Path) -> None:
        assert where["UNet"] == where["NoisyClassifier"] == "cpu"  # as a device taken from a plan is no text

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    measured.refuse = evaluating
    swept(mine())
    assert measured.evaluated == FOUR


def test_two_cells_of_digits_drawn_measured_and_reported_on_are_the_same_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in REAL.items():
        monkeypatch.setitem(sys.modules, name, module)
    images, _ = load_dataset("digits").train.batch(torch.arange(100))
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.savez("reference.npz", arr_0=pixels)
    path = write("mine.toml", {"scale": [0, 5]}, model="digits", num_samples=20, steps=2, reference="reference.npz",
                 judge="digits-judge", features="judge", metrics=["agreement", "FD", "precision", "recall"])
    keys = ("metrics", "errors", "floor", "by_class", "digests", "reference", "measures")

    def found(out: str) -> list[dict[str, Any]]:
        both = [json.loads(Path(out, name, "evaluation.json").read_text()) for name in ("scale-0", "scale-5")]
        return [{key: one[key] for key in keys} for one in both]

    assert "Evaluating scale-5" in swept(path) and "Evaluating" not in swept(path)
    swept(path, "--out", "again")
    assert samples("sweeps/mine") == samples("again") and found("sweeps/mine") == found("again")
    by = "[judge:digits-judge]"
    assert all(set(one["metrics"]) == {"agreement", f"FD{by}", f"precision{by}", f"recall{by}"} for one in found("again"))
    assert found("again")[0]["metrics"] != found("again")[1]["metrics"]
    page = Path("again/report.html").read_text()
    assert "scale-0" in page and "scale-5" in page and "agreement" in page
    before = found("sweeps/mine")
    np.savez("reference.npz", arr_0=pixels[:60])
    assert swept(path).count("Evaluating") == 2
    assert all(one["metrics"][f"FD{by}"] != old["metrics"][f"FD{by}"] and one["reference"]["N"] == 60
               for one, old in zip(found("sweeps/mine"), before))


def test_models_are_loaded_once(mine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    for name in ("load_model", "load_guiding_classifier"):
        def counted(*arguments: Any, load: Callable[..., Any] = getattr(guided_sample.loading, name)) -> Any:
            loaded.append(load.__name__)
            return load(*arguments)
        monkeypatch.setattr(guided_sample.loading, name, counted)
    swept(mine({**SWEEP, "seed": [0, 1]}))
    assert loaded == ["load_model", "load_guiding_classifier"]


def test_a_network_in_one_precision_is_not_anothers(mine: Callable[..., str], denoiser_folder: Path) -> None:
    swept(mine({"precision": ["bf16", "float32"]}))
    for precision in ("bf16", "float32"):
        assert run("--model", denoiser_folder, "--num-samples", 4, "--precision", precision, "--out", precision,
                   "--no-check").exit_code == 0
        assert contents(Path(precision)) == contents(Path(f"sweeps/mine/precision-{precision}"))


def test_cells_of_one_seed_share_their_noise(mine: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[bytes]] = {}
    at_work = ["outlook"]

    class Noise(guided_sample.plan.SampleNoise):
        def __call__(self) -> Any:
            noise = super().__call__()
            drawn.setdefault(at_work[0], []).append(noise.numpy().tobytes())
            return noise

    draw_stage = Plan.draw_stage

    def told(self: Plan, *arguments: Any) -> Any:
        at_work[0] = f"{self.request.sampler} {self.request.scale} {self.request.seed}"
        return draw_stage(self, *arguments)

    monkeypatch.setattr(guided_sample.plan, "SampleNoise", Noise)
    monkeypatch.setattr(Plan, "draw_stage", told)
    swept(mine({**SWEEP, "seed": [0, 1]}))
    assert len(drawn["ddpm 3.0 0"]) >= 5  # x_T, and one a step
    assert drawn["ddpm 0.0 0"] == drawn["ddpm 3.0 0"] and drawn["ddpm 0.0 0"] != drawn["ddpm 0.0 1"]
    assert drawn["ddim 0.0 0"][0] == drawn["ddpm 0.0 0"][0]  # x_T


def failing_after(count: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch after so many more of them fails."""
    draw_stage, left = Plan.draw_stage, [count]

    def draw(self: Plan, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise error
        return draw_stage(self, *arguments)
    monkeypatch.setattr(Plan, "draw_stage", draw)


def test_killed_and_gone_on_gives_the_same_bytes(mine: Callable[..., str], measured: Measured) -> None:
    arguments = [mine(), "--batch-size", 2]
    swept(*arguments, "--out", "whole")
    for batches in (0, 1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            failing_after(batches, RuntimeError("killed"), patch)
            assert isinstance(sweep(*arguments, "--out", "out").exception, RuntimeError)
    with pytest.MonkeyPatch.context() as patch:  # while it evaluates
        patch.setattr(measured, "refuse", lambda folder: 1 / (folder.name != FOUR[2]))
        assert isinstance(sweep(*arguments, "--out", "out").exception, ZeroDivisionError)
    measured.evaluated.clear()
    swept(*arguments, "--out", "out")
    assert samples("out") == samples("whole") and measured.evaluated == FOUR[2:]


def test_ctrl_c_ends_all_cells(mine: Callable[..., str], monkeypatch: pytest.MonkeyPatch, measured: Measured) -> None:
    failing_after(3, KeyboardInterrupt(), monkeypatch)
    result = sweep(mine(), "--batch-size", 2)
    assert_refused(result, "stopped with 2 of 4 images finished in sweeps/mine/ddpm-5-scale-3")
    assert "Cell 3" not in result.output and measured.evaluated == []


@pytest.mark.parametrize("batch_size", [1, 4])
def test_shares_are_the_whole_and_small_cells_spread(mine: Callable[..., str], batch_size: int, measured: Measured) -> None:
    arguments = [mine(), "--batch-size", batch_size]
    swept(*arguments, "--out", "whole")
    measured.evaluated.clear()
    told = swept(*arguments, "--out", "out", "--shard", "1/2")
    own = {str(path.parent.name) for path in Path("out").rglob("*.png") if path.name != "grid.png"}
    if batch_size == 4:
        assert own == {FOUR[0], FOUR[2]} == set(measured.evaluated)
        assert "2 of 4 cells are other processes' to finish" in told
    else:
        assert own == set(FOUR) and measured.evaluated == [] and "4 of 4 cells are other processes' to finish" in told
        assert len(list(Path("out").rglob("0*.png"))) == 8
    assert not Path("out/report.html").exists()
    swept(*arguments, "--out", "out", "--shard", "2/2")
    assert samples("out") == samples("whole") and sorted(measured.evaluated) == sorted(FOUR)
    assert Path("out/report.html").exists()


def test_a_cell_that_another_process_evaluates_is_left_to_it(mine: Callable[..., str], measured: Measured) -> None:
    from guided_sample.at_work import held
    path = mine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "refuse", lambda folder: 1 / 0)
        assert sweep(path).exception
    lock = held(Path("sweeps/mine", FOUR[1], ".evaluation.lock"))
    assert lock is not None
    assert "1 of 4 cells are other processes' to finish" in swept(path)
    assert measured.evaluated == [name for name in FOUR if name != FOUR[1]] and measured.report == []
    lock.release()
    swept(path)
    assert measured.evaluated[3:] == [FOUR[1]] and measured.report == FOUR


def test_a_changed_experiment_is_refused_by_what_differs_and_nothing_is_lost(mine: Callable[..., str]) -> None:
    swept(mine(num_samples=2))
    before = samples("sweeps/mine")
    for sweep_, values, message in (
            (SWEEP, {"threshold": "none"}, "of the cell ddpm-5-scale-0, threshold 'static' there, 'none' now"),
            (SWEEP, {"num_samples": 1}, "num_samples 2 there, 1 now"),
            ({**SWEEP, "scale": [0, 4]}, {}, "of the cell ddpm-5-scale-3, it is not asked for any more"),
            (SWEEP, {"seed": 7}, "seed 0 there, 7 now")):
        assert_refused(sweep(mine(sweep_, **{"num_samples": 2, **values})), message,
                       "sweeps/mine holds results of the experiment as it was before", "choose another --out")
    assert samples("sweeps/mine") == before
    shutil.rmtree("sweeps/mine/ddpm-5-scale-3")  # without results there is nothing to keep
    shutil.rmtree("sweeps/mine/ddim5-scale-3")
    swept(mine({**SWEEP, "scale": [0, 4]}, num_samples=2))


def test_more_seeds_cells_and_samples_may_be_asked_for(mine: Callable[..., str], measured: Measured) -> None:
    swept(mine({"scale": [0, 3]}, num_samples=2))
    before = samples("sweeps/mine")
    measured.evaluated.clear()
    assert "4 of them drawn already" in swept(mine({"scale": [0, 3], "seed": [0, 1]}, num_samples=2))
    assert measured.evaluated == ["scale-0-seed-1", "scale-3-seed-1"]
    assert measured.report == ["scale-0", "scale-0-seed-1", "scale-3", "scale-3-seed-1"]
    assert samples("sweeps/mine").items() >= before.items()
    measured.evaluated.clear()
    swept(mine({"scale": [0, 3], "seed": [0, 1]}, num_samples=3))
    assert measured.evaluated == measured.report and len(list(Path("sweeps/mine/scale-0").glob("0*.png"))) == 3


def test_kinds_are_drawn_kept_apart_and_told_to_the_report(denoiser_folder: Path, measured: Measured) -> None:
    above: dict[str, Any] = {"model": str(denoiser_folder), "num_samples": 2}
    plain, same = {"name": "plain", "scale": [0, 3]}, {"name": "plain+", "scale": 3}
    assert "3 cells in sweeps/mine" in swept(write_kinds("mine.toml", plain, same, **above))
    assert measured.report == ["plain-scale-0", "plain-scale-3", "plain+"] and measured.experiment
    assert measured.experiment["kinds"] == {"plain-scale-0": "plain", "plain-scale-3": "plain", "plain+": "plain+"}
    assert contents(Path("sweeps/mine/plain-scale-3")) == contents(Path("sweeps/mine/plain+"))
    measured.evaluated.clear()
    mean = {"name": "at the mean", "grad_at": "mean", "scale": 3}
    swept(write_kinds("mine.toml", mean, same | {"scale": [3, 4]}, plain, **above))  # what is there keeps its name
    assert measured.evaluated == ["at_the_mean", "plain+-scale-4"]
    assert measured.report == ["at_the_mean", "plain+", "plain+-scale-4", "plain-scale-0", "plain-scale-3"]
    told = swept("--report", "sweeps/mine")
    assert "5 runs" in told and measured.experiment["kinds"]["at_the_mean"] == "at the mean"
    for count, *folders in (5, "sweeps/mine", "sweeps/mine/plain+"), (1, "sweeps/mine/at_the_mean"):  # no sweep's page is lost
        assert swept("--report", *folders).endswith(f"{count} runs: look at report.html\n")
        assert measured.experiment["kinds"]["at_the_mean"] == "at the mean"
    assert_refused(sweep(write_kinds("mine.toml", mean, plain, same | {"name": "other", "scale": [3, 4]}, **above)),
                   "of the cell plain+, it is not asked for any more")


def test_a_record_without_kinds_is_of_none(mine: Callable[..., str], denoiser_folder: Path, measured: Measured) -> None:
    swept(mine({"scale": [0, 3]}))
    record = json.loads(Path("sweeps/mine/experiment.json").read_text())
    assert "kind" not in record["experiment"] and all("kind" not in one for one in record["cells"].values())
    assert measured.experiment and not measured.experiment["kinds"]
    kind = {"name": "scale-0", "scale": 0}
    assert_refused(sweep(write_kinds("mine.toml", kind, model=str(denoiser_folder), num_samples=4)), "not asked for any more")


def test_a_cell_that_fails_is_told_and_the_others_go_on(denoiser_folder: Path, measured: Measured) -> None:
    shutil.copytree(denoiser_folder, "broken")
    Path("broken/model.safetensors").unlink()
    path = write("mine.toml", {"model": ["broken", str(denoiser_folder)]}, num_samples=2)
    result = sweep(path)
    assert_refused(result, "1 of 2 cells failed (model-broken), as told above; the same command tries them again")
    assert "Cell model-broken failed: broken/model.safetensors is missing." in result.output
    assert len(measured.evaluated) == 1 and measured.report == measured.evaluated
    assert measured.experiment and measured.experiment["failed"] == {"model-broken": "broken/model.safetensors is missing."}
    shutil.copy(denoiser_folder / "model.safetensors", "broken")
    swept(path)
    assert len(measured.report) == 2


def test_an_evaluation_that_fails_is_told_and_the_others_go_on(mine: Callable[..., str], measured: Measured) -> None:
    def refuse(folder: Path) -> None:
        if folder.name == FOUR[1]:
            raise UserError("no such judge.")
    measured.refuse = refuse
    result = sweep(mine())
    assert_refused(result, f"1 of 4 cells failed ({FOUR[1]})")
    assert f"Cell {FOUR[1]} failed: no such judge." in result.output and measured.report == [FOUR[0], *FOUR[2:]]


def test_a_mailed_experiment_gives_the_same_bytes(mine: Callable[..., str]) -> None:
    swept(mine())
    Path("elsewhere").mkdir()
    shutil.copy("mine.toml", "elsewhere/theirs.toml")
    shutil.copy("sweeps/mine/experiment.json", "elsewhere")
    swept("elsewhere/theirs.toml")
    swept("elsewhere/experiment.json", "--out", "again")
    assert samples("sweeps/mine") == samples("sweeps/theirs") == samples("again")


def test_dry_run_tells_the_cells_and_draws_nothing(mine: Callable[..., str], measured: Measured) -> None:
    told = swept(mine({**SWEEP, "eta": [0, 1]}), "--dry-run")
    assert "ddim5-scale-3-eta-1: sampler ddim, scale 3, eta 1, 4 samples\n" in told
    assert "sampler ddpm, scale 3, eta 1 is left out: eta belongs to --sampler ddim" in told
    assert "6 cells, 24 samples in all, 0 of them drawn already: about 00:00 on cpu (" in told and not Path("sweeps").exists()


def test_other_folders_are_not_written_into(mine: Callable[..., str]) -> None:
    Path("sweeps/mine").mkdir(parents=True)
    Path("sweeps/mine/thesis.txt").touch()
    assert_refused(sweep(mine()), "sweeps/mine is there already and is not a sweep's folder; choose another --out")
    Path("sweeps/mine/thesis.txt").rename("sweeps/mine/experiment.json")
    assert_refused(sweep("mine.toml"), "sweeps/mine/experiment.json cannot be read as JSON")


@pytest.mark.parametrize("name", ["../other", "/other", "..", ".", "", "a/b", "a\\b", "a\0"])
def test_a_record_leads_nowhere_else(mine: Callable[..., str], name: str) -> None:
    swept(mine({"scale": [3]}))
    record = Path("sweeps/mine/experiment.json")
    content = json.loads(record.read_text())
    shutil.copytree("sweeps/mine/samples", "sweeps/other")
    record.write_text(json.dumps(content | {"cells": {name: content["cells"]["samples"]}}))
    assert_refused(sweep("mine.toml"), "sweeps/mine/experiment.json is not that of a sweep of this toolkit")
    if name:
        Path("mailed.json").write_text(json.dumps(content | {"name": name}))
        assert_refused(sweep("mailed.json"), "mailed.json calls its experiment", "a name that a folder can have is wanted")


def test_a_report_of_what_is_there(mine: Callable[..., str], measured: Measured) -> None:
    swept(mine())
    Path("sweeps/mine/report.html").unlink()
    assert "4 runs: look at sweeps/mine/report.html" in swept("--report", "sweeps/mine")
    assert sorted(measured.report) == sorted(FOUR) and measured.experiment and measured.experiment["sweep"] == SWEEP
    Path("page").mkdir()
    swept("--report", f"sweeps/mine/{FOUR[0]}", f"sweeps/mine/{FOUR[2]}", "--out", "page")
    assert measured.report == [FOUR[0], FOUR[2]] and measured.experiment is None and Path("page/report.html").exists()
    assert_refused(sweep("--report"), "give the folders of runs or sweeps")
    assert_refused(sweep("--report", "nowhere"), "nowhere has no evaluation.json")


def test_one_experiment_is_wanted(mine: Callable[..., str]) -> None:
    assert_refused(sweep(), "give one experiment, by its name or its file; --list shows the names")
    assert_refused(sweep(mine({"scale": []})), "mine.toml: scale in [sweep] is [], and a list to go through is wanted")
    assert_refused(sweep(mine({"scale": ["much"]})), "mine.toml: scale much: scale: 'much' is not a valid float")


LINES = {"--help": "guided-sweep digits-scale", "--list": "expected: FID 4.59, sFID 5.25, IS 186.7, precision 0.82",
         "nosuch": "there is no experiment 'nosuch'", "adm-64 --dry-run": "64x64_diffusion.pt, 64x64_classifier.pt would be"}
DRIVER = """
import json, sys
from click.testing import CliRunner
from guided_sample.cli.sweep import guided_sweep
told = {line: CliRunner().invoke(guided_sweep, line.split()).output for line in json.loads(sys.argv[1])}
print(json.dumps([told, [name for name in ("torch", "sklearn", "scipy", "matplotlib") if name in sys.modules]]))
"""


def test_what_names_tell_is_told_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, json.dumps(list(LINES))], capture_output=True, text=True, check=True,
                          env=dict(os.environ, GUIDED_SAMPLE_CACHE=str(Path().absolute())))
    told, heavy = json.loads(done.stdout)
    assert heavy == [] and not list(Path().iterdir())
    for line, answer in LINES.items():
        assert answer in told[line], told[line]
