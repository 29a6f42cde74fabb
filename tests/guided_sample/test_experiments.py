"""An experiment's file: its cells and their names, what is left out, what is refused; and the published ones."""
from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from guided_sample.cards import card_of, not_downloaded
from guided_sample.experiments import STRENGTHS, Cell, Experiment, called, named, published, read_experiment, runs_in
from guided_sample.released import MODELS
from guided_sample.request import Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import kept_timesteps
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.errors import UserError

DIGITS: dict[str, Any] = {"model": "digits", "class": "all"}


def experiment(sweep: dict[str, Any], **values: Any) -> Experiment:
    above = {key: value for key, value in (DIGITS | values).items() if key not in sweep}
    return Experiment.of("mine", above | {"sweep": sweep})


def names(sweep: dict[str, Any], **values: Any) -> list[str]:
    return [cell.name for cell in experiment(sweep, **values).cells()[0]]


def cell(name: str, sweep: dict[str, Any], **values: Any) -> Cell:
    return next(cell for cell in experiment(sweep, **values).cells()[0] if cell.name == name)


@pytest.mark.parametrize("sweep, expected", [
    ({}, ["samples"]),
    ({"scale": [5]}, ["samples"]),
    ({"scale": [0, 2.5]}, ["scale-0", "scale-2.5"]),
    ({"scale_schedule": ["cosine", [0, 1, 2]]}, ["scale_schedule-cosine", "scale_schedule-0+1+2"]),
    ({"seed": [0, 1], "scale": [0, 5]}, ["seed-0-scale-0", "seed-0-scale-5", "seed-1-scale-0", "seed-1-scale-5"]),
    ({"sampler": ["ddpm", "ddim"]}, ["ddpm-50", "ddim25"]),
    ({"scale": [5, 9], "sampler": ["ddpm", "ddim"]},
     ["ddpm-50-scale-5", "ddim25-scale-5", "ddpm-50-scale-9", "ddim25-scale-9"]),
    ({"steps": [10, "ddim20", [0, 500, 999]]}, ["10", "ddim20", "3steps"]),
    ({"class": ["all", ["three", 8], 4]}, ["class-all", "class-three+8", "class-4"]),
    ({"sampler": ["ddim"], "eta": [0, 0.5]}, ["eta-0", "eta-0.5"]),
    ({"precision": ["float32", "bf16"]}, ["precision-float32", "precision-bf16"]),
])
def test_cells_are_called_by_what_varies(sweep: dict[str, Any], expected: list[str]) -> None:
    assert names(sweep) == expected


def test_a_name_is_one_that_file_systems_take_and_twins_are_told_apart() -> None:
    long = {key: [f"{key}_{'ä' * 80}_{i}" for i in range(2)] for key in ("model_flags", "classifier_flags", "upsample_config")}
    found = [(dict(zip(long, values)), Request()) for values in product(*long.values())]
    called = [one.name for one in named(found)]
    assert len(set(called)) == 8 and all(len(name.encode()) < 160 for name in called)
    assert called[:3] == [called[0], f"{called[0]}+", f"{called[0]}++"] and called[0].startswith("model_flags-ä")


def test_lists_elsewhere_are_one_value() -> None:
    cells, left_out = experiment({"scale": [1, 2]}, **{"class": ["three", 8], "steps": [0, 500, 999]}).cells()
    assert left_out == [] and [one.request.classes for one in cells] == [(3, 8)] * 2
    assert [one.request.steps for one in cells] == [(0, 500, 999)] * 2


def test_defaults_follow_the_models_advice_for_each_cell() -> None:
    both = {"sampler": ["ddpm", "ddim"]}
    assert (cell("ddpm-50", both).request.steps, cell("ddim25", both).request.steps) == ("50", "ddim25")
    released = [one.request.scale for one in Experiment.of("mine", {"model": "imagenet128", "sweep": both}).cells()[0]]
    assert released == [0.5, 1.25]
    assert [one.request.num_samples for one in experiment(both).cells()[0]] == [20, 20]
    assert [one.request.steps for one in experiment(both, steps="10").cells()[0]] == ["10", "10"]


@pytest.mark.parametrize("sweep, values, kept, told", [
    ({"sampler": ["ddpm", "ddim"], "eta": [0, 0.5]}, {}, ["ddpm-50", "ddim25-eta-0", "ddim25-eta-0.5"],
     ["sampler ddpm, eta 0.5 is left out: eta belongs to --sampler ddim, not to ddpm."]),
    ({"sampler": ["ddpm", "ddim"]}, {"eta": 0.5}, ["ddpm-50", "ddim25"], []),
    ({"sampler": ["ddpm", "ddim"], "grad_at": ["x_t", "mean"]}, {},
     ["ddpm-50-grad_at-x_t", "ddpm-50-grad_at-mean", "ddim25-grad_at-x_t"],
     ["sampler ddim, grad_at mean is left out: grad-at mean belongs to --sampler ddpm"]),
    ({"class": ["none", 3], "scale": [0, 5]}, {}, ["class-none-scale-0", "class-3-scale-0", "class-3-scale-5"],
     ["class none, scale 5 is left out: --class none asks for no class, and --scale 5.0"]),
    ({"class": ["none", 3]}, {"scale": 5}, ["class-none", "class-3"], []),
    ({"steps": [50, "50"], "scale": [5, 5.0]}, {}, ["samples"], [
        f"steps {steps}, scale {scale} is left out: it is the same as steps 50, scale 5."
        for steps, scale in ((50, 5.0), (50, 5), (50, 5.0))]),
    ({"sampler": ["ddpm"], "steps": ["50", "25"]}, {}, ["50", "25"], []),
])
def test_cells_that_mean_nothing_of_their_own_are_left_out_and_told(
        sweep: dict[str, Any], values: dict[str, Any], kept: list[str], told: list[str]) -> None:
    cells, left_out = experiment(sweep, **values).cells()
    assert [one.name for one in cells] == kept and len(left_out) == len(told)
    assert all(sentence.startswith(start) for sentence, start in zip(left_out, told)), left_out


def kinds(*kinds: dict[str, Any], **values: Any) -> Experiment:
    return Experiment.of("mine", DIGITS | values | {"kind": list(kinds)})


def test_each_kind_has_its_own_settings_and_lists() -> None:
    cells, left_out = kinds({"name": "plain", "scale": [1, 2]},
                            {"name": "other network", "model": "digits-cond", "grad-at": "mean"},
                            {"name": "w/1.5", "scale": 1.5, "steps": ["10", "20"], "class": [["three", 8]]}).cells()
    assert left_out == [] and [(one.kind, one.name) for one in cells] == [
        ("plain", "plain-scale-1"), ("plain", "plain-scale-2"), ("other network", "other_network"),
        ("w/1.5", "w_1_5-10"), ("w/1.5", "w_1_5-20")]
    assert [one.request.model for one in cells] == ["digits", "digits", "digits-cond", "digits", "digits"]
    assert [one.request.grad_at for one in cells] == ["x_t", "x_t", "mean", "x_t", "x_t"]
    assert [one.request.scale for one in cells[:2] + cells[3:]] == [1, 2, 1.5, 1.5]
    assert [one.request.classes for one in cells[3:]] == [(3, 8)] * 2


def test_sweep_s_lists_are_every_kind_s_that_does_not_set_their_key() -> None:
    both = {"scale": [1, 2], "seed": [0, 1]}
    cells, _ = kinds({"name": "a"}, {"name": "b", "scale": 5}, {"name": "c", "seed": [7]}, sweep=both).cells()
    assert [(one.kind, one.request.scale, one.request.seed) for one in cells] == [
        *(("a", scale, seed) for scale in (1, 2) for seed in (0, 1)), ("b", 5, 0), ("b", 5, 1), ("c", 1, 7), ("c", 2, 7)]
    assert cells[-1].name == "c-scale-2" and cells[-1].settings == {"scale": 2, "seed": 7}


def test_a_kind_s_value_stands_above_the_experiment_s_and_what_that_makes_meaningless_is_forgotten() -> None:
    ancestral, unasked = kinds(
        {"name": "a", "sampler": "ddpm"}, {"name": "b", "class": "none"}, sampler="ddim", eta=0.5, scale=3).cells()[0]
    assert ancestral.request.knobs == {} and ancestral.request.scale == 3
    assert unasked.request.knobs == {"eta": 0.5} and unasked.request.scale == 0 and unasked.request.classifier is None


def test_kinds_may_have_the_same_cell_and_within_a_kind_there_is_one() -> None:
    cells, left_out = kinds({"name": "a", "scale": [1, 2, 1.0]}, {"name": "b", "scale": 1}).cells()
    assert [one.name for one in cells] == ["a-scale-1", "a-scale-2", "b"] and cells[0].request == cells[2].request
    assert left_out == ["a: scale 1.0 is left out: it is the same as scale 1."]


def test_a_kind_s_folders_are_where_the_sweep_s_are() -> None:
    found = kinds(*({"name": name} for name in ("..", "/etc", "report.html", "ä" * 200, "CFG++", "a-b"))).cells()[0]
    assert [one.name for one in found] == ["_", "_etc", "report_html", "ä" * 25, "CFG++", "a_b"]


def test_an_experiment_of_kinds_goes_through_its_record_and_back_and_runs_know_theirs() -> None:
    whole = kinds({"name": "a", "scale": [1, 2]}, {"name": "b", "grad_at": "mean"}, metrics=["FID"])
    Path("sweep/a-scale-1").mkdir(parents=True)
    Path("sweep/a-scale-1/evaluation.json").write_text("{}")
    Path("sweep/experiment.json").write_text(json.dumps({"name": "mine", "experiment": whole.to_dict(), "cells": {
        one.name: one.request.to_dict() | {"kind": one.kind} for one in whole.cells()[0]}}))
    assert replace(read_experiment("sweep/experiment.json"), name="mine") == whole
    for folders in (["sweep", "sweep/a-scale-1"], ["sweep/a-scale-1"]):  # the latter: by the page's own command
        assert runs_in([*map(Path, folders)])[1] == {"kinds": {"a-scale-1": "a", "a-scale-2": "a", "b": "b"}}
    _, told = runs_in([Path("sweep")])
    assert told is not None and told["kinds"] == {"a-scale-1": "a", "a-scale-2": "a", "b": "b"}


@pytest.mark.parametrize("content, message", [
    ({"kind": {"name": "a"}}, r"kind is {'name': 'a'} and not a list of tables; write \[\[kind\]\]"),
    ({"kind": [{"scale": 1}]}, r"a \[\[kind\]\] of scale 1 has no name"),
    ({"kind": [{"name": 3}]}, "name is 3, and text in quotes is wanted"),
    ({"kind": [{"name": "a b"}, {"name": "A_b"}]}, r"\[\[kind\]\] A_b would have the folders of \[\[kind\]\] a b; call it"),
    ({"kind": [{"name": "a", "scales": 1}]}, r"unknown key 'scales' in \[\[kind\]\] a; did you mean scale\?"),
    ({"kind": [{"name": "a", "metrics": ["FID"]}]}, r"unknown key 'metrics' in \[\[kind\]\] a"),
    ({"kind": [{"name": "a", "digests": 1}]}, r"unknown key 'digests' in \[\[kind\]\] a"),
    ({"kind": [{"name": "a", "scale": []}]}, r"scale in \[\[kind\]\] a is \[\], and a list to go through is wanted"),
    ({"kind": [{"name": "a", "sampler": [["ddpm"]]}]}, r"sampler in \[\[kind\]\] a holds a list within the list"),
    ({"kind": [{"name": "a"}, {"name": "b", "scale": ["much"]}]}, "the kind b: scale much: scale: 'much' is not a valid float"),
    ({"kind": [{"name": "a"}, {"name": "b", "scale": "much"}]}, "the kind b: scale much: scale: 'much' is not a valid float"),
    ({"kind": [{"name": "a", "sampler": {"a": 1}}]}, "the kind a: sampler"),
    ({"kind": [{"name": "a", "steps": "1001"}]}, "the kind a: steps '1001' cannot be made"),
    ({"kind": [{"name": "a", "sampler": "ddpm", "eta": [0.5]}]}, "the kind a: no cell is left to draw: eta 0.5 is left out"),
    ({"stepps": 3}, "unknown key 'stepps'; did you mean steps?"),
    ({"swep": {"scale": [1]}}, "unknown key 'swep'; did you mean sweep?"),
    ({"sweep": {"scales": [1]}}, r"unknown key 'scales' in \[sweep\]; did you mean scale\?"),
    ({"sweep": {"digests": [{}]}}, r"unknown key 'digests' in \[sweep\]"),
    ({"sweep": {"scale": []}}, r"scale in \[sweep\] is \[\], and a list to go through is wanted"),
    ({"sweep": {"scale": 3}}, r"scale in \[sweep\] is 3, and a list to go through is wanted"),
    ({"sweep": [1]}, r"sweep is \[1\] and not a table; write \[sweep\]"),
    ({"sweep": {"sampler": [["ddpm"]]}}, r"sampler in \[sweep\] holds a list within the list"),
    ({"scale": 1, "sweep": {"scale": [3]}}, r"scale stands above \[sweep\] and in it"),
    ({"judge": "digits-judge", "sweep": {"judge": "digits-judge"}}, r"judge stands above \[sweep\] and in it"),
    ({"metrics": "FID"}, "metrics is 'FID', and a list of names is wanted"),
    ({"sweep": {"metrics": []}}, r"metrics is \[\], and a list of names is wanted"),
    ({"metrics": ["FDI"]}, "there is no metric 'FDI'; there are: FID"),
    ({"metrics": ["FID"], "features": "judge"}, "FID is by Inception's features and no others"),
    ({"reference": 3}, "reference is 3, and text in quotes is wanted"),
    ({"title": 3}, "title is 3, and text in quotes is wanted"),
    ({"expected": 3}, r"expected is 3 and not a table"),
    ({"expected": {"FDI": 3}}, r"unknown key 'FDI' in \[expected\]; did you mean FID\?"),
    ({"expected": {"FID": "low"}}, r"FID in \[expected\] is 'low', and a number is wanted"),
    ({"expected": {"FID": float("nan")}}, r"FID in \[expected\] is nan, and a number is wanted"),
    ({"expected": [{"FID": 3}, {"sFID": float("-inf")}]}, r"sFID in \[expected\] is -inf, and a number is wanted"),
    ({"sweep": {"scale": ["much"]}}, "scale much: scale: 'much' is not a valid float"),
    ({"class": "none", "sweep": {"scale": ["abc", 0]}}, "scale abc: scale: 'abc' is not a valid float"),
    ({"sweep": {"sampler": ["ddpm"], "eta": [0, "abc"]}}, "eta abc: eta: 'abc' is not a valid float"),
    ({"sweep": {"sampler": ["ddpm"], "eta": [0, 1], "steps": ["1001"]}}, "eta 0, steps 1001: steps '1001' cannot be made"),
    ({"class": "none", "sweep": {"scale": [5], "steps": ["50", "1001"]}}, "steps 1001: steps '1001' cannot be made"),
    ({"sweep": {"steps": ["50", "1001"]}}, "steps 1001: steps '1001' cannot be made"),
    ({"sweep": {"classifier": ["digits", "nosuch"]}}, "classifier nosuch: there is no classifier 'nosuch'"),
    ({"sampler": "ddpm", "sweep": {"eta": [0.5, 1]}}, "no cell is left to draw: eta 0.5 is left out: eta belongs to"),
    ({"sampler": ["ddpm"], "sweep": {"eta": [0.5, 1]}}, "sampler"),
])
def test_what_is_no_experiment_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Experiment.of("mine", DIGITS | content).cells()
    assert str(refused.value).endswith((".", "?"))


def test_a_file_that_is_none_or_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match="there is no experiment 'digits-scal'; did you mean digits-scale?"):
        read_experiment("digits-scal")
    with pytest.raises(UserError, match="there is no experiment 'qqqqq.toml'; the names are: adm-128, .*a path to a TOML file"):
        read_experiment("qqqqq.toml")
    Path("mine.toml").write_text("[sweep]\nscale = []\n")
    with pytest.raises(UserError, match=r"mine.toml: scale in \[sweep\] is \[\]"):
        read_experiment("mine.toml")
    Path("mine.toml").write_text("[sweep\n")
    with pytest.raises(UserError, match="mine.toml cannot be read as TOML"):
        read_experiment("mine.toml")


def test_measures_stand_in_either_place_and_a_precision_is_a_figure_or_the_networks() -> None:
    above = experiment({"scale": [1, 2]}, metrics=["FID"], judge="digits-judge")
    within = experiment({"scale": [1, 2], "metrics": ["FID"], "judge": "digits-judge"})
    assert above.measures == within.measures == {"metrics": ["FID"], "judge": "digits-judge"}
    assert len(within.cells()[0]) == 2
    rows = experiment({}, expected=[{"FID": 3, "precision": 0.8}, {"FID": 4.5, "precision": "bf16", "scale": 2}]).expected
    assert [row["precision"] for row in rows] == [0.8, "bf16"]
    with pytest.raises(UserError, match="FID"):
        experiment({}, expected={"FID": True})


def test_an_experiment_goes_through_its_record_and_back() -> None:
    whole = experiment({"scale": [1, 2], "seed": [0, 1]}, title="Mine", metrics=["FID"], expected={"scale": 1, "FID": 3.0})
    Path("experiment.json").write_text(json.dumps({"name": "mine", "experiment": whole.to_dict(), "cells": {}}))
    assert read_experiment("experiment.json") == whole


def test_runs_are_found_in_sweeps_and_by_themselves() -> None:
    for folder in ("sweep/a", "sweep/b/upsampled", "sweep/unfinished", "run"):
        Path(folder).mkdir(parents=True)
        if "unfinished" not in folder:
            Path(folder, "evaluation.json").write_text("{}")
    Path("sweep/experiment.json").write_text(json.dumps({"name": "mine", "experiment": {"title": "T"}}))
    runs, told = runs_in([Path("sweep")])
    assert runs == [Path("sweep/a"), Path("sweep/b/upsampled")] and told == {"name": "sweep/experiment.json", "title": "T"}
    assert runs_in([Path("sweep"), Path("run")]) == ([*runs, Path("run")], None)
    with pytest.raises(UserError, match="sweep/unfinished has no evaluation.json"):
        runs_in([Path("sweep/unfinished")])


PUBLISHED = [name for name in published() if name.startswith("adm-")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row_is_one_run_of_a_released_model_and_says_what_is_expected(
        name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(Path("empty").absolute()))
    one = read_experiment(name)
    (only,), left_out = one.cells()
    request, card = only.request, card_of(only.request.model, "denoiser")
    assert left_out == [] and request.num_samples == 50000 and request.seed == 0 and request.precision == "float32"
    assert not_downloaded(request)  # so nothing was
    assert card.space is not None and card.space.schedule.T == 1000
    conditional = bool(card.class_names)
    assert request.classes == (("random",) if conditional or request.scale else ("none",))
    assert str(request.steps) == {"ddim": "ddim25"}.get(request.sampler, "1000" if "lsun" in name else "250")
    last = DENOISERS[request.upsample or request.model].settings["image_size"]
    assert one.measures["reference"] == (f"imagenet{last}" if "lsun" not in name else name[4:].replace("-nodropout", ""))
    assert ("upsampled" in name) == bool(request.upsample) and ("guided" in name) == bool(request.scale)
    row, = one.expected
    assert {"FID", "sFID", "precision", "recall"} <= set(row) and set(row) <= {*one.measures["metrics"]}
    assert 1.5 < row["FID"] < 40 and 0.5 < row["precision"] < 1 and 0.3 < row["recall"] < 0.7


@pytest.mark.parametrize("model", [name for name, released in MODELS.items() if released.published != "-"])
def test_each_published_result_of_a_released_model_is_an_experiment_with_that_figure(model: str) -> None:
    """But 3.85, of imagenet128-512, whose first stage was guided by a classifier that was not released. (ADM Table 12)"""
    found = [read_experiment(name) for name in PUBLISHED]
    figures = [f"{row['FID']:.2f}" for one in found for row in one.expected
               if model in (one.request["model"], one.cells()[0][0].request.upsample)]
    for result in MODELS[model].published.split(";"):
        assert result.split()[0] in figures or result.startswith("3.85"), figures


def test_a_published_experiment_is_made_again_by_its_name_and_another_one_of_that_name_by_its_record() -> None:
    content = read_experiment("digits-scale").to_dict()
    assert called("digits-scale", content, Path("out")) == "digits-scale"
    assert called("digits-scale", content | {"num_samples": 7}, Path("out")) == "out/experiment.json"


def test_digits_scale_needs_no_download() -> None:
    one = read_experiment("digits-scale")
    cells, left_out = one.cells()
    assert len(cells) == 12 and left_out == [] and not any(not_downloaded(cell.request) for cell in cells)
    assert {cell.request.scale for cell in cells} == {0, 0.5, 1, 2, 5, 10}


def test_digits_solvers_goes_over_the_same_numbers_of_evaluations_for_each_kind() -> None:
    cells, left_out = read_experiment("digits-solvers").cells()
    assert left_out == [] and not any(not_downloaded(cell.request) for cell in cells)
    schedule, counts = card_of("digits", "denoiser").space.schedule, [5, 8, 10, 15, 20, 25, 50, 250]
    for kind in dict.fromkeys(cell.kind for cell in cells):
        assert [len(kept_timesteps(cell.request.steps, schedule)) for cell in cells if cell.kind == kind] == counts
    assert {cell.request.sampler for cell in cells} == set(SAMPLERS)


def test_digits_guidances_needs_no_download_and_differs_from_plain_guidance_by_its_kinds() -> None:
    one = read_experiment("digits-guidances")
    cells, left_out = one.cells()
    assert left_out == [] and not any(not_downloaded(cell.request) for cell in cells)
    assert {cell.request.num_samples for cell in cells} == {200} and len({repr(cell.request) for cell in cells}) == len(cells)
    assert list(dict.fromkeys(cell.kind for cell in cells)) == [kind["name"] for kind in one.kinds]


def test_pictures_in_turn_are_one_value_and_their_scales_are_gone_through(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("""
        model = "digits"
        [[kind]]
        name = "like"
        like = [["digits:three", "digits:eight"]]
        like_scale = [10, 30]
    """)
    cells, _ = read_experiment(tmp_path / "mine.toml").cells()
    assert [(cell.request.like, cell.request.like_scale) for cell in cells] == [
        (("digits:three", "digits:eight"), 10), (("digits:three", "digits:eight"), 30)]
    assert "like_scale" in STRENGTHS
