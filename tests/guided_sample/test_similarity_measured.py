"""What a run's samples reached of their pictures and words, evaluated; and the grid that shows them."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from guided_sample.cli.eval_samples import eval_samples
from guided_sample.metrics.pictures import similarities_of_run
from guided_sample.metrics.words import better
from guided_sample.plan import Plan
from guided_sample.report.runs import Compared
from guided_sample.request import Request
from guided_sample.run import columns_of
from tests.commands import invoke, run

IN_TURN = ["--like", "digits:three", "--like", "digits:eight"]


def test_the_mean_similarity_is_a_metric_of_its_own_kind():
    command = ["--model", "digits", *IN_TURN, "--style", "digits:one", "--num-samples", 6, "--steps", 2, "--no-check"]
    drawn = run(*command, "--out", "out")
    assert drawn.exit_code == 0
    assert invoke(eval_samples, "out", "--metrics", "similarity").exit_code == 0
    found = json.loads(Path("out/evaluation.json").read_text())
    told = [json.loads(line)["similarities"] for line in Path("out/samples.jsonl").read_text().splitlines()]
    for kind in ("like", "style"):
        values = [one[kind] for one in told]
        assert found["metrics"][f"similarity[{kind}]"] == pytest.approx(np.mean(values))
        assert found["errors"][f"similarity[{kind}]"] == pytest.approx(np.std(values) / 6 ** 0.5)
        assert f"{kind} {np.mean(values):.3g}" in drawn.output.partition("Similarity reached, on average: ")[2]
    assert set(found["metrics"]) == {"similarity[like]", "similarity[style]"} and better("similarity[like]") == "higher"


def test_runs_without_are_told_so():
    assert run("--model", "digits", "--num-samples", 2, "--steps", 2, "--no-check", "--out", "out").exit_code == 0
    result = invoke(eval_samples, "out", "--metrics", "similarity,agreement")
    assert result.exit_code == 0 and "out tells no similarity of each sample: were they guided" in result.output


def test_a_samples_several_pictures_are_one_mean_and_torn_or_missing_lines_none(tmp_path: Path):
    file = tmp_path / "samples.jsonl"
    similarities = {"like:a.png": 0.25, "like:b.png": 0.75, "text:a dog": 0.5}
    lines = [{"index": index, "similarities": similarities | {"text:a dog": 0.5 + index}} for index in (2, 1, 0)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = similarities_of_run(file, 2)
    assert {kind: values.tolist() for kind, values in found.items()} == {"like": [0.5, 0.5], "text": [0.5, 1.5]}
    assert similarities_of_run(file, 4) == {} == similarities_of_run(tmp_path / "nosuch", 2)
    file.write_text(file.read_text() + '{"index": 3, "similarities": {"like')
    assert set(similarities_of_run(file, 3)) == {"like", "text"} and similarities_of_run(file, 4) == {}


@pytest.mark.parametrize("pictures, columns", [(("digits:three", "digits:eight", "digits:one"), 3), (("digits:three",), 4)])
def test_the_grid_has_a_column_for_each_picture_in_turn(pictures: tuple[str, ...], columns: int):
    plan = Plan.of(Request(model="digits", like=pictures), "cpu")
    assert columns_of(plan, 16).number == columns


def test_the_report_tells_similarities_of_pictures_and_of_words_apart():
    compared = Compared.__new__(Compared)
    object.__setattr__(compared, "runs", ())
    compared.__dict__["metrics"] = ["FD[judge:j]", "similarity[like]", "similarity[text]"]
    assert [compared.briefly(metric) for metric in compared.metrics] == ["FD", "similarity[like]", "similarity[text]"]
