"""The report of folders that others wrote: nothing that these hold runs in the page, and what is no figure is refused."""
from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from guided_sample.report.tables import Entry
from noisy_clf.errors import UserError
from tests.guided_sample.measured_runs import evaluation_of, manifest_of, stored_run, sweep
from tests.guided_sample.test_report_page import Page, written

EVIL = ["<script>alert(1)</script>", '"><script>alert(1)</script>', '" onload="x', "' onload='x", "a&b"]


def poisoned(content, evil):
    """With the evil text for each text, and in the name of each metric, digest and setting that has no meaning by itself."""
    if isinstance(content, dict):
        return {key.replace("fruit-judge", evil): poisoned(value, evil) for key, value in content.items()}
    if isinstance(content, list):
        return [poisoned(value, evil) for value in content]
    return evil if isinstance(content, str) else content


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("kept", [("sampler", "steps"), ()])
def test_names_are_text_and_never_markup(evil, kept):
    folders = []
    for scale, seed, steps in ((1.0, 0, "50"), (1.0, 1, "50"), (2.0, 0, "50"), (2.0, 0, "25")):
        manifest = manifest_of(scale=scale, seed=seed, steps=steps, guide=["fruit.py:f"], threshold="fruit")
        known = {key: manifest["request"][key] for key in kept}
        manifest = poisoned(manifest | {"digests": {"model": "a", "fruit-judge": "b"}}, evil)
        manifest["request"] |= known | {evil: evil}
        evaluation = poisoned(evaluation_of(FD=3 + scale, KD=0.1, agreement=0.5, precision=0.5, recall=0.1 * scale), evil)
        evaluation |= {evil: {evil: evil}, "errors": {f"FD[judge:{evil}]": 0.1}}
        evaluation["by_class"][evil] = [0.1, 0.2, evil]
        folders.append(stored_run(Path(f"run{len(folders)}"), manifest, evaluation))
        (folders[-1] / "samples.jsonl").write_text(json.dumps({"index": 0, "class": 0, "class_name": evil}))
    html = written(folders, {"title": evil, "about": evil, "name": evil, "failed": {evil: evil}, evil: evil,
                             "expected": {"scale": 1, evil: evil, "FID": 3.0}})
    page = Page(html)
    assert page.texts.count(evil) > 10 and html.count("<script>") == 1
    assert not any(name.startswith("on") for name in page.attributes)


@pytest.mark.parametrize("evil", EVIL)
def test_whatever_a_table_s_entry_sorts_by_is_no_markup(evil):
    [attributes] = Page(Entry(evil, evil).html()).elements
    assert attributes == [("data-v", repr(evil))]


@pytest.mark.parametrize("file, keys, value", [
    ("evaluation", "N", '"><script>alert(1)</script>'), ("evaluation", "N", [10]), ("evaluation", "N", True),
    ("evaluation", "N", 6.5), ("evaluation", "floor.N", "abc"), ("evaluation", "floor", [1]), ("evaluation", "reference", "x"),
    ("evaluation", "reference.N", "x"), ("evaluation", "reference.name", ["x"]), ("evaluation", "features", ["x"]),
    ("evaluation", "metrics", "x"), ("evaluation", "metrics.FID", "3"), ("evaluation", "metrics.FID", 10 ** 400),
    ("evaluation", "errors", 1), ("evaluation", "names", "x"), ("evaluation", "by_class", ["x"]),
    ("evaluation", "by_class.confusion", [[1, -1]]), ("evaluation", "by_class.agreement", 0.5), ("evaluation", "warnings", 3),
    ("manifest", "last_run", "fast"), ("manifest", "last_run.images_per_second", "fast"), ("manifest", "request.scale", "x"),
    ("manifest", "request.scale", {}), ("manifest", "request.cfg", ["x"]), ("manifest", "evaluations", 3),
    ("manifest", "evaluations.saved", 3), ("manifest", "last_run.ess", [1]),
    ("manifest", "request.seed", [1]), ("manifest", "request.sampler", ["ddim"]), ("manifest", "request.steps", {"a": 1}),
    ("manifest", "request.guide", 3), ("manifest", "digests.model", 3), ("manifest", "configs.model", "x"),
    ("manifest", "configs.model.schedule.T", "x")])
def test_what_is_no_figure_is_told_by_its_file_and_name(file, keys, value):
    run = stored_run(Path("run"), manifest_of(), evaluation_of(FID=3))
    path = run / f"{file}.json"
    content = json.loads(path.read_text())
    *places, key = keys.split(".")
    place = content
    for name in places:
        place = place.setdefault(name, {})
    place[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{path}: {re.escape('.'.join(places) or keys)}.* is .*, and .* is wanted; ") as told:
        written([run])
    assert len(str(told.value)) < 250 and not Path("out").exists()


@pytest.mark.parametrize("counts", [{"denoiser": -3}, {"denoiser": "x"}, {"denoiser": 0}, {"denoiser": 1e300},
                                    {"saved": {"x": []}}])
def test_counts_that_are_none_are_not_shown(counts):
    folders = [stored_run(Path(f"run{scale}"), manifest_of(scale=scale) | {
        "evaluations": found, "ess": {"mean": "many"}, "last_run": None}, evaluation_of(FD=3))
        for scale, found in ((1.0, counts), (2.0, {"denoiser": -5}))]
    for kinds in ({"run1.0": "a", "run2.0": "b"}, {"run1.0": 3}, ["a"], "a", None):
        assert "evaluations saved" not in written(folders, {"kinds": kinds})


def test_a_page_of_letters_that_are_none_is_written():
    assert "fruit?" in written([stored_run(Path("run"), manifest_of(model="fruit\ud800"), evaluation_of(FD=3))])


def test_nothing_but_the_page_s_own_script_and_style_may_run():
    html = written(sweep(Path("runs")))
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    for element, directive in (("script", "script-src"), ("style", "style-src-elem")):
        [text] = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        assert allowed.pop(directive) == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert allowed == {"default-src": "'none'", "img-src": "data:", "style-src-attr": "'unsafe-inline'"}
