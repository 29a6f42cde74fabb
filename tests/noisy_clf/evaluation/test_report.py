from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from noisy_clf.evaluation.by_noise_level import Quality
from noisy_clf.evaluation.judgement import Evaluation
from noisy_clf.evaluation.picture import draw
from noisy_clf.evaluation.report import as_json, comparison, table, verdict
from noisy_clf.files import write_json
from noisy_clf.schedule import NoiseSchedule
from tests.noisy_clf.evaluation.test_judgement import COSINE, EVEN, GOOD, NOISE, OVER, SURE_AND_WRONG, found

HELPS = "It helps at t = 0-250 of 1000, down to alpha_bar = 0.85: at 25.1% of the sampling steps."
USELESS = "It helps at no noise level: guidance with it will not work."
SURE = "Where it helps, its confidence is off by up to 0.02, at t = 0."
HALF = "It tells at least half of the 2.30 nats that there are to know up to t = 250."
OVERCONFIDENT = ("It knows the class but is over-confident at t = 500: its NLL is above the 2.30 nats of guessing by class "
                 "frequency, and its gradient far too strong.")
NOTHING = "It tells nothing at t = 500-999: its gradient there is noise."
ALL_RIGHT = "At t = 0 the image is all but clean: is it trained, and are its weights and the order of its classes right?"
CLEAN_ONLY = ("So behaves a classifier that learned on clean images only, or too little: train one on noised images, with "
              "train-noisy-clf.")


@pytest.mark.parametrize("at, told", [
    ({0: GOOD, 250: GOOD}, [HELPS, SURE, HALF]),
    ({0: GOOD, 250: GOOD, 800: NOISE, 999: NOISE}, [HELPS, SURE, HALF, NOTHING.replace("500", "800")]),
    ({0: GOOD, 250: GOOD, 500: OVER, 999: SURE_AND_WRONG},
     [HELPS, SURE, HALF, OVERCONFIDENT, NOTHING.replace("500-", ""), CLEAN_ONLY]),
    ({0: GOOD, 250: GOOD, 500: NOISE, 999: NOISE}, [HELPS, SURE, HALF, NOTHING, CLEAN_ONLY]),
    ({500: NOISE, 999: NOISE}, [USELESS, NOTHING]),
    ({0: OVER, 500: OVER}, [USELESS, OVERCONFIDENT.replace("500", "0-500"), ALL_RIGHT, CLEAN_ONLY]),
    ({0: NOISE}, [USELESS, NOTHING.replace("500-999", "0"), ALL_RIGHT]),
    ({500: GOOD, 0: GOOD, 750: GOOD, 250: OVER, 999: NOISE}, [
        "It helps at t = 0, 500-750 of 1000, down to alpha_bar = 0.14: at 25.2% of the sampling steps.", SURE,
        HALF.replace("250", "750"), OVERCONFIDENT.replace("500", "250"), NOTHING.replace("500-", ""), CLEAN_ONLY])])
def test_the_verdict_says_each_judgement_in_a_sentence(at: dict[int, tuple[float, float]], told: list[str]) -> None:
    assert verdict(found(at)) == told


def test_the_verdict_tells_where_half_is_known_and_the_worst_calibration() -> None:
    rows = (Quality(0, 0.9, 0.1, 0.01), Quality(500, 0.6, 1.15, 0.07), Quality(700, 0.4, 1.16, 0.05),
            Quality(999, 0.1, 2.4, 0.9))
    told = verdict(Evaluation("mine", COSINE, rows, 1000, EVEN))
    assert told[1:3] == ["Where it helps, its confidence is off by up to 0.07, at t = 500.", HALF.replace("250", "500")]
    weak = verdict(Evaluation("mine", COSINE, rows[2:], 1000, EVEN))
    assert weak[1].endswith("up to 0.05, at t = 700.") and not any("half" in sentence for sentence in weak)


def test_a_comparison_counts_the_levels() -> None:
    one = found({0: GOOD, 500: GOOD, 900: NOISE})
    other = found({0: (0.9, 0.5), 500: (0.9, 0.3), 900: SURE_AND_WRONG}, name="other")
    assert comparison(one, other) == (
        "mine has the lower NLL at 2 of 3 levels; it helps at 50.1% of the sampling steps, other at 50.1%.")


def test_a_comparison_tells_that_the_schedules_differ() -> None:
    linear = NoiseSchedule.named("linear", 1000)
    told = comparison(found({0: GOOD}), found({0: GOOD}, schedule=linear, name="other"))
    assert f"different noise schedules ({COSINE}; {linear})" in told and "the same t/T is not the same noise" in told


ROWS = (Quality(0, 0.985, 0.0512, 0.011), Quality(500, 0.5, 1.25, 0.2))
FULL = (Quality(0, 0.985, 0.0512, 0.011, 1.0, 0.0123, 0.1), Quality(500, 0.5, 1.25, 0.2, 0.75, 12.345, 0.1))


def evaluation_of(rows: tuple[Quality, ...], name: str = "mine") -> Evaluation:
    return Evaluation(name, COSINE, rows, 1000, EVEN)


def test_table_has_a_line_a_level_in_columns() -> None:
    header, first, second, guess = table([evaluation_of(ROWS)]).splitlines()
    assert header.split() == ["t/T", "t", "accuracy", "NLL", "(nats)", "ECE"]
    assert first.split() == ["0.00", "0", "98.5%", "0.0512", "0.011"]
    assert second.split() == ["0.50", "500", "50.0%", "1.2500", "0.200"]
    assert guess.split() == ["guess", "10.0%", "2.3026"]
    assert len(header) == len(first) == len(second)
    assert guess.index("10.0%") == second.index("50.0%") and guess.index("2.3026") == second.index("1.2500")


def test_table_shows_top_5_and_gradient_where_there_are_some() -> None:
    header, _, second, guess = table([evaluation_of(FULL)]).splitlines()
    assert header.split() == ["t/T", "t", "accuracy", "top-5", "NLL", "(nats)", "ECE", "gradient"]
    assert second.split() == ["0.50", "500", "50.0%", "75.0%", "1.2500", "0.200", "12.3"]
    assert guess.split() == ["guess", "10.0%", "2.3026"]


def test_two_stand_side_by_side_under_their_names() -> None:
    long = "runs/" + "x" * 200
    names, header, first, second, _ = table([evaluation_of(FULL, "mine"), evaluation_of(ROWS, long)]).splitlines()
    assert [cell.strip() for cell in names.split("|")][:2] == ["", "mine"] and names.endswith("..." + "x" * 30)
    assert first.split("|")[2].split() == ["0", "98.5%", "0.0512", "0.011"]
    assert len(header) == len(first) == len(second)
    assert [i for i, letter in enumerate(header) if letter == "|"] == [i for i, letter in enumerate(first) if letter == "|"]


def test_json_has_every_number_and_the_verdict(tmp_path: Path) -> None:
    evaluation = evaluation_of(FULL)
    write_json(tmp_path / "found.json", as_json(evaluation))
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["levels"][1] == {"level": 0.5, "t": 500, "accuracy": 0.5, "nll": 1.25, "ece": 0.2, "top5": 0.75,
                                    "gradient_norm": 12.345, "nll_error": 0.1}
    assert content["verdict"] == verdict(evaluation) and content["informs"] == [[0, 500]] and content["overconfident"] == []
    assert content["share_of_steps"] == 0.501 and content["schedule"] == {"name": "cosine", "T": 1000}


NOT_A_SLOPE = tuple(Quality(t, 0.1, 2.3, 0.0, 0.5, 0.0) for t in (0, 500))


@pytest.mark.parametrize("rows", [[ROWS], [ROWS[:1]], [FULL], [FULL, FULL[::-1]], [NOT_A_SLOPE]],
                         ids=["three panels", "one level", "four panels", "two", "no gradient anywhere"])
@pytest.mark.filterwarnings("error")
def test_draw_writes_a_whole_png_and_nothing_else(rows: list[tuple[Quality, ...]], tmp_path: Path) -> None:
    draw([evaluation_of(one) for one in rows], tmp_path / "new" / "evaluation.png")
    with Image.open(tmp_path / "new" / "evaluation.png") as image:
        image.load()
        assert image.format == "PNG" and image.size == (1080, 372 if rows[0][0].gradient_norm is None else 672)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.png"]
