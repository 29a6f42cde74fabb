"""The report: what is told of runs, by what their folders hold."""
from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_sample.metrics.words import better, rank
from guided_sample.report import findings as words_on_runs
from guided_sample.report import write_report
from guided_sample.report.figures import against, axis, by_sampler
from guided_sample.report.findings import findings, what_varies
from guided_sample.report.pictures import picture
from guided_sample.report.runs import Compared, Run
from guided_sample.report.tables import commands, expected_table, kinds_table, runs_table
from noisy_clf.errors import UserError
from tests.guided_sample.measured_runs import JUDGE, evaluation_of, manifest_of, stored_run, sweep

VOID = ("meta", "img", "wbr", "br")


@pytest.fixture(autouse=True)
def six_are_enough(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here are of six samples."""
    if "of_few" not in request.node.name:
        monkeypatch.setattr(words_on_runs, "FEW", 2)


class Page(HTMLParser):
    """Its texts, headings, and addresses; that every element is closed in its turn is asserted."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.elements: list[list[tuple[str, str | None]]] = []
        self.feed(html)
        assert self.open == []

    @property
    def attributes(self) -> list[str]:
        return [name for attributes in self.elements for name, _ in attributes]

    def handle_starttag(self, tag, attributes):
        self.elements.append(attributes)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if self.open[-1:] == ["h2"]:
            self.headings.append(text)


def comparison(folders):
    return Compared([Run.read(folder) for folder in folders])


def written(folders, experiment=None):
    return write_report(folders, Path("out"), experiment).read_text(encoding="utf-8")


def cells_of(table):
    """The texts of a table's entries, row by row, but for their heads."""
    return [re.findall("<td[^>]*>([^<]*)</td>", row) for row in re.findall("<tr>(<th scope=\"row\">.*?)</tr>", table)
            if "real images" not in row]


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(b64decode(address.removeprefix("data:image/png;base64,")))))


def test_the_page_is_whole_small_and_asks_nothing_of_a_network():
    folders, about = sweep(Path("runs")), {"title": "Fruit", "about": "Over scales.", "name": "fruit"}
    html = written(folders, about)
    page = Page(html)
    assert page.headings == ["Side by side", "Trade-off", "By scale", "Steps and time", "By class", "All runs", "Make it again"]
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?:", html)
    assert len(re.sub("data:image/png[^\"]*", "", html)) < 1e6
    assert write_report(folders, Path("again"), about).read_text(encoding="utf-8") == html


def test_what_is_found_is_told_in_plain_words():
    c = comparison(sweep(Path("runs")))
    assert what_varies(c) == "12 runs of 6 samples: 3 scales, 2 samplers and 2 seeds"
    assert findings(c) == [
        f"Best FD{JUDGE}-6 at scale 1 (DDPM, 50 steps): 3.1, mean of 2 seeds, 1.6 times the floor of 2 (real images at N = 5).",
        "Agreement with the asked class is 99 % or more from scale 1 on (DDPM, 50 steps).",
        "Recall, the variety, falls from 0.900 at scale 0 to 0.400 at scale 10 (DDPM, 50 steps).",
        "Other series at their best: DDIM, 25 steps: 4.1 at scale 1, with 0.5 times the network evaluations."]


def test_of_few_samples_nothing_is_concluded() -> None:
    found = findings(comparison(sweep(Path("runs"))))
    assert found == ["6 samples a run are too few to tell settings apart: the figures below are mostly chance."]


def test_the_best_at_the_end_of_what_was_tried_is_told_so():
    folders = [stored_run(Path(f"run{scale}"), manifest_of(scale=scale), evaluation_of(FD=9 - scale)) for scale in (1, 2, 3)]
    assert "It is the largest scale tried" in findings(comparison(folders))[0]


def test_what_the_seeds_do_not_tell_apart_is_told():
    values = {(1.0, 0): 3.0, (1.0, 1): 3.4, (2.0, 0): 3.1, (2.0, 1): 3.5, (5.0, 0): 9.0, (5.0, 1): 9.1}
    folders = [stored_run(Path(f"{scale}-{seed}"), manifest_of(scale=scale, seed=seed), evaluation_of(FD=value))
               for (scale, seed), value in values.items()]
    assert "The seeds' spread does not tell it from scale 2." in findings(comparison(folders))


def test_seeds_are_a_mean_a_deviation_and_a_minimum():
    c = comparison([stored_run(Path(f"run{seed}"), manifest_of(seed=seed), evaluation_of(FD=value))
                    for seed, value in enumerate((3.0, 4.0, 8.0))])
    [group] = c.groups
    found = group.metrics[f"FD{JUDGE}"]
    assert (found.mean, found.least, found.n) == (5, 3, 3) and found.error == pytest.approx(7 ** 0.5)
    assert "5 ± 2.6 (min 3)" in written([Path(f"run{seed}") for seed in range(3)])


def test_of_one_seed_the_error_is_the_evaluation_s():
    evaluation = evaluation_of(KD=0.1) | {"errors": {f"KD{JUDGE}": 0.02}}
    [group] = comparison([stored_run(Path("run"), manifest_of(), evaluation)]).groups
    assert group.metrics[f"KD{JUDGE}"].error == 0.02


@pytest.mark.parametrize("request_, calls", [
    ({"steps": "50", "scale": 2.0}, 100), ({"steps": "50", "scale": 0.0}, 50), ({"steps": "ddim25", "sampler": "ddim"}, 50),
    ({"steps": "10,10", "guide": ["my.py:f"]}, 60), ({"steps": "50", "classifier": None}, 50)])
def test_network_evaluations_are_the_denoiser_s_and_the_guides(request_, calls):
    assert Run.read(stored_run(Path("run"), manifest_of(**request_), None)).network_calls == calls


def test_network_evaluations_and_what_was_saved_are_as_the_manifest_counts_them():
    counts = {"denoiser": 50, "the classifier": 25, "saved": {"the classifier": 25}}
    folders = [stored_run(Path("a"), manifest_of() | {"evaluations": counts}, evaluation_of(FD=3)),
               stored_run(Path("b"), manifest_of(scale=2.0), evaluation_of(FD=4))]
    folders[1].joinpath("manifest.json").write_text(json.dumps(
        manifest_of(scale=2.0) | {"last_run": {"ess": {"particles": 16, "mean": 9.1, "smallest": 2.34}}}))
    c = comparison(folders)
    assert [run.network_calls for run in c.runs] == [75, 100]
    assert cells_of(runs_table(c)) == [
        ["1", "0", "3", "75", "25", "", "2"], ["2", "0", "4", "100", "", "9.1 of 16, least 2.34", ""]]
    html = written(folders)
    assert "evaluations saved" in html and "effective particles" in html and "evaluations.saved.the classifier" in html
    assert not re.search("evaluations saved|effective particles", written(sweep(Path("runs"))))


def test_a_second_stage_s_network_counts_too():
    manifest = manifest_of(scale=2.0, upsample="larger", upsample_steps="30")
    manifest["digests"]["upsample"] = "f" * 64
    run = Run.read(stored_run(Path("fruit/upsampled"), manifest, None))
    assert (run.network_calls, run.name) == (130, "fruit")


def test_series_are_called_by_what_varies():
    c = comparison([stored_run(Path(name), manifest_of(**request), evaluation_of(FD=3)) for name, request in {
        "a": {}, "b": {"steps": "25"}, "c": {"classifier": "runs/mine/best"}, "d": {"sampler": "ddim", "steps": "ddim25"},
        "e": {"sampler": "ddim", "steps": "25"}}.items()])
    assert sorted(c.series) == [
        "DDIM, 25 steps, classifier fruit", "DDIM, 25 steps, classifier fruit (25)", "DDPM, 25 steps, classifier fruit",
        "DDPM, 50 steps, classifier fruit", "DDPM, 50 steps, classifier mine/best"]


def of_kinds() -> tuple[list[Path], dict[str, Any]]:
    """Folders of three kinds, and the experiment: CFG is guided by cfg, and scaled in two ways in "both"."""
    runs = {"cfg-1": ("CFG", {"cfg": 1.0, "scale": 0.0}, 6.0), "cfg-3": ("CFG", {"cfg": 3.0, "scale": 0.0}, 2.5),
            "plain-1": ("plain", {"scale": 1.0, "steps": "25"}, 4.0), "plain-3": ("plain", {"scale": 3.0, "steps": "25"}, 3.0),
            "both-2-ddpm": ("both", {"scale": 2.0, "cfg": 2.0}, 9.0),
            "both-2-ddim": ("both", {"scale": 2.0, "cfg": 2.0, "sampler": "ddim"}, 8.0)}
    folders = [stored_run(Path("runs", name), manifest_of(**request), evaluation_of(FD=distance, agreement=1 - distance / 10))
               for name, (_, request, distance) in runs.items()]
    return sorted(folders), {"title": "Kinds", "kinds": {name: kind for name, (kind, *_) in runs.items()}}


def test_each_kind_is_a_curve_of_its_own_scale():
    folders, experiment = of_kinds()
    c = Compared([Run.read(folder) for folder in folders], experiment["kinds"])
    assert c.kinds == ["CFG", "plain", "both"] and c.series == ["CFG", "plain", "both: DDIM", "both: DDPM"]
    assert [group.where for group in c.groups] == [
        "cfg 1 (CFG)", "cfg 3 (CFG)", "scale 1 (plain)", "scale 3 (plain)", "scale 2 (both: DDIM)", "scale 2 (both: DDPM)"]
    chart = against(c, "agreement", f"FD{JUDGE}")
    assert [(one.name, [point.label for point in one.points]) for one in chart.series] == [
        ("CFG", ["1", "3"]), ("plain", ["1", "3"]), ("both: DDIM", ["2"]), ("both: DDPM", ["2"])]
    assert what_varies(c) == "6 runs of 6 samples: 3 scales and 3 kinds of guidance"
    assert by_sampler(c) == {}


def test_kinds_are_told_at_their_best_settings_and_these_are_marked_among_all():
    folders, experiment = of_kinds()
    c = Compared([Run.read(folder) for folder in folders], experiment["kinds"])
    assert cells_of(kinds_table(c)) == [["cfg 3", "1.25", "2.5", "75.0\u00a0%", "50", "2"],
                                        ["scale 3", "1.5", "3", "70.0\u00a0%", "50", "4"],
                                        ["scale 2, DDIM", "4", "8", "20.0\u00a0%", "100", "2"]]
    assert [row[:2] for row in cells_of(runs_table(c))] == [
        ["CFG", "cfg 1"], ["CFG", "cfg 3 ★"], ["plain", "1"], ["plain", "3 ★"], ["both: DDIM", "2 ★"], ["both: DDPM", "2"]]
    page = Page(written(folders, experiment))
    assert page.headings[:2] == ["Kinds of guidance", "Side by side"] and kinds_table(comparison(folders)) == ""


def test_samples_of_kinds_are_side_by_side_at_their_best_settings():
    folders, experiment = of_kinds()
    html = written(folders, experiment)
    sheets = re.findall('<figure class="sheet"><figcaption>([^<]*)</figcaption>.*?<tbody>(.*?)</tbody>', html)
    assert [title for title, _ in sheets] == ["Each kind at its best setting", "CFG", "plain"]
    assert re.findall('<th scope="row">([^<]*)', sheets[0][1]) == ["CFG", "plain", "both"]
    assert [int(pixels(address)[0, 0]) for address in re.findall('src="([^"]*)"', sheets[0][1])][::3] == [0, 3, 2]
    assert re.findall('<th scope="row">([^<]*)', sheets[1][1]) == ["1", "3"]


def test_of_a_table_of_scales_the_mean_is_the_scale_and_it_is_told():
    folders = [stored_run(Path(f"run{i}"), manifest_of(), evaluation_of(FD=3)) for i in range(2)]
    manifest = manifest_of()
    manifest["request"]["scale"] = {"3": 2.0, "8": 4.0}
    (folders[1] / "manifest.json").write_text(json.dumps(manifest))
    assert sorted(group.where for group in comparison(folders).groups) == [
        "scale 1 (DDPM, 50 steps)", "scale 3 (DDPM, 50 steps, scale {'3': 2.0, '8': 4.0})"]


def test_what_an_older_release_knew_nothing_of_was_as_it_is_by_default():
    c = comparison([stored_run(Path(name), manifest_of(**more), evaluation_of(FD=3)) for name, more in {
        "old": {}, "new": {"scale": 2.0, "grad_at": "x_t", "cfg": None}}.items()])
    assert c.series == ["DDPM, 50 steps"]


def test_another_classifier_of_the_same_name_is_no_further_seed():
    folders = [stored_run(Path("a"), manifest_of(), evaluation_of(FD=3)), stored_run(Path("b"), manifest_of(seed=1), None)]
    manifest = json.loads(Path("b/manifest.json").read_text())
    manifest["digests"]["classifier"] = "9" * 64
    folders[1] = stored_run(Path("c"), manifest, evaluation_of(FD=4))
    assert comparison(folders).series == ["DDPM, 50 steps, classifier SHA-256 99999999",
                                          "DDPM, 50 steps, classifier SHA-256 bbbbbbbb"]


def test_runs_measured_against_other_references_are_kept_apart_and_it_is_said():
    other = evaluation_of(FD=4) | {"reference": {"name": "wood", "digest": "0" * 64}}
    html = written([stored_run(Path("a"), manifest_of(), evaluation_of(FD=3)), stored_run(Path("b"), manifest_of(), other)])
    assert "Not all runs were measured alike (reference)" in html and "reference wood" in html


def test_what_is_left_out_is_told():
    run = stored_run(Path("a"), manifest_of(), evaluation_of(FD=3))
    folders = [run, stored_run(Path("b"), manifest_of(), evaluation_of(FD=3)), stored_run(Path("c"), manifest_of(seed=1), None)]
    html = written(folders, {"failed": {"d": "its classifier <is> gone"}})
    assert "and so left out: b." in html and "Not measured, and so left out: c" in html
    assert "d failed, and is left out: its classifier &lt;is&gt; gone" in html and "6 samples are few." in html


def test_what_is_not_measured_is_not_shown():
    html = written([stored_run(Path("a"), manifest_of(), {"N": 6, "metrics": {"FID": 3.0, "IS": None, "KID": float("nan")}},
                               pictures=0)])
    page = Page(html)
    assert page.headings == ["All runs", "Make it again"] and 'class="chart"' not in html
    assert not {"nan", "None", "IS", "KID"} & set(page.texts)


def test_metrics_by_steps_are_drawn_where_a_sampler_has_several():
    folders = [stored_run(Path(f"{sampler}{steps}"), manifest_of(sampler, steps), evaluation_of(FD=100 / int(steps) + 1))
               for sampler in ("ddpm", "ddim") for steps in ("10", "25", "50")]
    html = written(folders)
    assert "FD-6 by steps" in html and "FD-6 against time; labels: steps" in html and "by scale" not in html


def test_kinds_are_drawn_over_their_steps_too():
    folders = [stored_run(Path(f"{kind}-{steps}"), manifest_of("ddim", steps), evaluation_of(FD=100 / int(steps) + 1))
               for kind in ("mild", "strong") for steps in ("10", "25", "50")]
    html = written(folders, {"kinds": {folder.name: folder.name.split("-")[0] for folder in folders}})
    assert "FD-6 by steps" in html
    legend = html[html.index("FD-6 by steps"):].split("</ul>")[0]
    assert "mild" in legend and "strong" in legend and "DDIM" not in legend


def test_steps_on_a_fractional_grid_are_counted_however_many():
    manifest = manifest_of(steps="50") | {"last_run": None}
    manifest["request"] |= {"steps": "logsnr1500", "fractional_t": True}
    assert Run.read(stored_run(Path("fine"), manifest, evaluation_of(FD=3))).steps == 1500


def test_runs_whose_steps_are_not_told_are_drawn_beside_others():
    folders = [stored_run(Path(f"run{i}"), manifest_of(steps="50") | {"last_run": None}, evaluation_of(FD=3 + i))
               for i in range(3)]
    for folder, steps in zip(folders, (None, "25", "50")):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["request"]["steps"] = steps
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "FD-6 by steps" in written(folders)


@pytest.mark.parametrize("metric", ["KD[dinov2]", "KID", "FD[dinov2]", "FID", "FD_infinity[dinov2]", "sFID"])
def test_distances_are_better_where_they_are_smaller(metric):
    c = comparison([stored_run(Path(f"run{scale}"), manifest_of(scale=scale), {"N": 6, "metrics": {metric: scale}})
                    for scale in (1.0, 2.0)])
    assert better(metric) == "lower" and c.best(metric).scale == 1 and rank(metric) < rank("IS")
    assert "← better" in axis(c, metric, "x").label


def test_pictures_are_the_samples_of_one_index_in_a_column():
    html = written(sweep(Path("runs")))
    sheet = html[html.index('class="sheet"'):]
    sheet = sheet[sheet.index("<tbody>"):sheet.index("</tbody>")]
    rows = [[int(pixels(address)[0, 0]) for address in re.findall('src="([^"]*)"', row)] for row in sheet.split("</tr>")[:3]]
    assert rows == [[0, 10, 20], [1, 11, 21], [10, 20, 30]]  # 10 index + scale: one of each class
    assert "1: pear, index 1, seed 0" in sheet


def test_pictures_come_from_the_archive_where_there_are_no_files():
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    Path("run").mkdir()
    np.savez("run/samples.npz", arr_0=images, arr_1=np.arange(3))
    assert (pixels(picture(Path("run"), 2)) == images[2]).all()
    assert picture(Path("run"), 3) == "" and picture(Path("elsewhere"), 0) == ""


def test_large_pictures_are_shrunk():
    Path("run").mkdir()
    Image.fromarray(np.zeros((512, 256, 3), np.uint8)).save("run/000000.png")
    assert pixels(picture(Path("run"), 0)).shape == (160, 80, 3)


def test_a_damaged_picture_is_told():
    run = stored_run(Path("run"), manifest_of(), evaluation_of(FD=3))
    (run / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(UserError, match="000001.png is damaged"):
        written([run])


def test_published_figures_stand_beside_those_of_the_same_settings():
    c = comparison([stored_run(Path(f"run{scale}"), manifest_of(scale=scale, **{"class": ["random"]}),
                               {"N": 10, "metrics": {"FID": 4.0 + scale, "precision": 0.5}}) for scale in (1.0, 2.0)])
    html = expected_table(c, [{"scale": 1, "class": "random", "num_samples": 50000, "FID": 4.0, "precision": 0.8},
                              {"scale": 2, "precision": "bf16", "FID": 1.0}, {"scale": 7, "FID": 1.0}])
    assert re.findall(r"<td[^>]*>([^<]*)", html) == ["FID", "4", "5", "+1", "+25.0%", "precision", "0.800", "0.500", "-0.3",
                                                     "-37.5%"]
    assert expected_table(c, None) == "" == expected_table(c, {"sFID": 3.0})


def test_all_that_the_figures_depend_on_is_told():
    html = written(sweep(Path("runs")), {"name": "fruit", "sweep": {"scale": [0, 1, 10]}})
    for told in ("a" * 64, "c" * 64, "d" * 64, "configs.model.schedule.T", "versions.torch", "evaluation.digests.judge",
                 "request.threshold", "guided-sample --request runs/ddpm-scale-0-seed-0/manifest.json",
                 "guided-sweep fruit --out again"):
        assert told in html, told


def test_commands_can_be_pasted_into_a_shell():
    c = comparison([stored_run(Path("my run"), manifest_of(), evaluation_of(FD=3))])
    assert commands(c, "a b.toml") == ["guided-sweep 'a b.toml' --out again",
                                       "guided-sample --request 'my run/manifest.json'", "guided-sweep --report 'my run'"]


@pytest.mark.parametrize("classes", [3, 30])
def test_many_classes_are_lists_and_few_are_coloured(classes):
    names = [f"kind{k}" for k in range(classes)]
    counts = np.eye(classes, dtype=int) * 4
    counts[1, 2] = 3
    evaluation = evaluation_of(FD=3, agreement=0.9)
    evaluation["by_class"] = {"class_names": names, "agreement": [0.9] * classes, "confusion": counts.tolist()}
    html = written([stored_run(Path("run"), manifest_of(), evaluation)])
    assert ('class="matrix"' in html) == (classes == 3) and ("Taken for another most often" in html) == (classes == 30)
    assert ">43%<" in html or classes == 3


def test_folders_that_are_no_runs_are_refused():
    Path("empty").mkdir()
    with pytest.raises(UserError, match="empty is no sampling run's folder: it has no manifest.json"):
        write_report([Path("empty")], Path("out"))
    Path("empty/manifest.json").write_text('{"batch": 3}')
    with pytest.raises(UserError, match="is not that of a run of this toolkit"):
        write_report([Path("empty")], Path("out"))
    with pytest.raises(UserError, match="none of the 1 folders has an evaluation.json"):
        write_report([stored_run(Path("run"), manifest_of(), None)], Path("out"))
    assert not Path("out").exists()
