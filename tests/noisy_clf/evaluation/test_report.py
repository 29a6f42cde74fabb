from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.evaluation.by_noise_level import Quality, evaluate
from noisy_clf.evaluation.report import Evaluation, Guess, as_json, comparison, draw, in_words, prior_nll, table, verdict
from noisy_clf.files import write_json
from noisy_clf.schedule import NoiseSchedule
from tests.noisy_clf.evaluation.test_by_noise_level import drawn_from, mixture, with_a_parameter
from tests.oracles import Exact

COSINE = NoiseSchedule.named("cosine", 1000)
EVEN = Guess(0.1, math.log(10))
GOOD, NOISE, SURE_AND_WRONG, OVER = (0.9, 0.4), (0.1, math.log(10)), (0.1, 5.0), (0.5, 2.5)  # accuracy, NLL


def found(at: dict[int, tuple[float, float]], images: int = 1000, guess: Guess = EVEN, schedule: NoiseSchedule = COSINE,
          nll_error: float = 0.01, ece: float = 0.02, name: str = "mine") -> Evaluation:
    rows = tuple(Quality(t, accuracy, nll, ece, 1.0, 0.5, nll_error) for t, (accuracy, nll) in at.items())
    return Evaluation(name, schedule, rows, images, guess)


@pytest.mark.parametrize("labels, K, accuracy, nll", [
    (list(range(10)), 10, 0.1, math.log(10)),
    ([0, 0, 0, 1], 2, 0.75, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
    ([3, 3, 5, 5], 1000, 0.5, math.log(2)),  # classes without an image count for nothing
    ([2, 2], 3, 1.0, 0.0)])
def test_guessing_gets_the_largest_share_and_the_entropy_of_the_shares(
        labels: list[int], K: int, accuracy: float, nll: float) -> None:
    assert prior_nll(torch.tensor(labels), K) == pytest.approx(nll)
    assert Guess.among(torch.tensor(labels), K) == Guess(accuracy, pytest.approx(nll))


@pytest.mark.parametrize("right, images, knows", [
    (129, 1000, True), (128, 1000, False),  # 3 standard errors of 100 in 1000 are 28.5
    (10, 100, False), (20, 100, True), (1, 1, False)])
def test_accuracy_counts_above_three_standard_errors_of_chance(right: int, images: int, knows: bool) -> None:
    evaluation = found({0: (right / images, 2.0)}, images)
    assert evaluation.knows(evaluation.rows[0]) == knows


@pytest.mark.parametrize("nll, nll_error, informs", [
    (0.30, 0.008, True), (0.30, 0.01, False), (0.33, 0.0, False), (0.3251, 0.0, False)])
def test_where_one_class_is_most_images_better_probabilities_count(nll: float, nll_error: float, informs: bool) -> None:
    labels = torch.tensor([0] * 9 + [1])
    evaluation = found({0: (0.9, nll)}, guess=Guess.among(labels, 2), nll_error=nll_error)  # accuracy: never better than chance
    assert evaluation.guess == Guess(0.9, pytest.approx(0.32508, abs=1e-5))
    assert evaluation.informs(evaluation.rows[0]) == informs and not evaluation.knows(evaluation.rows[0])


def test_one_image_proves_nothing() -> None:
    assert not found({0: (1.0, 0.0)}, images=1, nll_error=0.0).share


def test_spans_are_runs_of_neighbouring_levels_whatever_order_they_come_in() -> None:
    evaluation = found({500: NOISE, 0: GOOD, 100: GOOD, 900: NOISE, 700: GOOD})
    assert evaluation.spans(evaluation.informs) == [(0, 100), (700, 700)]
    assert evaluation.share == (101 + 1) / 1000


@pytest.mark.parametrize("spans, words", [
    ([(5, 5)], "at t = 5"), ([(0, 400)], "from t = 0 to 400"),
    ([(0, 400), (600, 600)], "from t = 0 to 400 and at t = 600"),
    ([(0, 1), (3, 3), (5, 9)], "from t = 0 to 1, at t = 3 and from t = 5 to 9")])
def test_spans_in_words(spans: list[tuple[int, int]], words: str) -> None:
    assert in_words(spans) == words


LEVELS = (0, 250, 500, 750, 950)


@pytest.mark.parametrize("states, first", [
    ((GOOD, GOOD, GOOD, GOOD, GOOD), "It carries information about the class from t = 0 to 950 of 1000 (t/T 0.95, "
     "alpha_bar 0.0058), at every level tried."),
    ((GOOD, GOOD, GOOD, GOOD, NOISE), "It carries information about the class from t = 0 to 750 of 1000 (t/T 0.75, "
     "alpha_bar 0.14); beyond that its gradient is noise."),
    ((GOOD, GOOD, NOISE, GOOD, NOISE), "It carries information about the class from t = 0 to 250 and at t = 750 of 1000 (t/T "
     "0.75, alpha_bar 0.14), but not at t = 500; beyond that its gradient is noise."),
    ((NOISE, GOOD, GOOD, GOOD, GOOD), "It carries information about the class from t = 250 to 950 of 1000 (t/T 0.95, "
     "alpha_bar 0.0058), but not at t = 0."),
    ((GOOD, GOOD, GOOD, OVER, NOISE), "It carries information about the class from t = 0 to 500 of 1000 (t/T 0.50, "
     "alpha_bar 0.49)."),
    ((NOISE,) * 5, "This classifier tells nothing about noised images: guidance with it will not work."),
    ((SURE_AND_WRONG,) * 5, "This classifier tells nothing about noised images: guidance with it will not work."),
    ((OVER,) * 5, "It is nowhere better than guessing by class frequency: guidance with it will not work as it is."),
    ((GOOD,), "It carries information about the class at t = 0 of 1000 (t/T 0.00, alpha_bar 1), the only level tried.")])
def test_the_verdict_begins_with_the_reach(states: tuple[tuple[float, float], ...], first: str) -> None:
    assert verdict(found(dict(zip(LEVELS, states))))[0] == first


@pytest.mark.parametrize("at, asked", [
    ({0: NOISE, 900: NOISE}, True), ({0: SURE_AND_WRONG}, True), ({0: OVER}, True), ({0: NOISE, 400: GOOD}, True),
    ({0: GOOD, 900: NOISE}, False), ({500: NOISE, 900: NOISE}, False)])
def test_who_does_not_even_know_clean_images_is_asked_whether_all_is_right(
        at: dict[int, tuple[float, float]], asked: bool) -> None:
    told = [sentence for sentence in verdict(found(at)) if sentence.endswith("the order of its classes right?")]
    assert told == ["At t = 0 the image is all but clean: is it trained, and are its weights and the order of its classes "
                    "right?"] * asked


def test_a_classifier_that_tells_nothing_of_noise_is_told_so_and_nothing_else() -> None:
    assert len(verdict(found({500: NOISE, 900: NOISE}))) == 1


@pytest.mark.parametrize("T, at, share", [
    (1000, {0: GOOD, 750: GOOD, 900: NOISE}, "75 %"), (1000, {0: GOOD, 999: GOOD}, "100 %"),
    (1000, {0: GOOD, 900: NOISE}, "less than 1 %"), (40, {0: GOOD, 20: NOISE, 30: GOOD, 39: GOOD}, "28 %")])
def test_the_verdict_tells_the_share_of_the_sampling_steps(T: int, at: dict[int, tuple[float, float]], share: str) -> None:
    told = verdict(found(at, schedule=NoiseSchedule.named("cosine", T)))[1]
    assert f"Sampling goes from t = {T - 1} down to 0: the classifier helps at {share} of the steps." in told


def test_the_verdict_tells_where_half_is_known_and_the_worst_calibration() -> None:
    rows = (Quality(0, 0.9, 0.1, 0.01), Quality(500, 0.6, 1.15, 0.07), Quality(700, 0.4, 1.16, 0.05),
            Quality(999, 0.1, 2.4, 0.9))
    told = verdict(Evaluation("mine", COSINE, rows, 1000, EVEN))[1]
    assert "It tells at least half of the 2.30 nats that there are to know up to t = 500;" in told
    assert "its confidence is off by up to 0.07 where it helps (at t = 500)." in told
    weak = verdict(Evaluation("mine", COSINE, rows[2:], 1000, EVEN))[1]
    assert "half" not in weak and weak.endswith("Its confidence is off by up to 0.05 where it helps (at t = 700).")


def test_over_confidence_is_told_with_its_range_and_what_is_beyond() -> None:
    told = verdict(found({0: GOOD, 300: GOOD, 400: OVER, 600: OVER, 900: NOISE}))
    assert told[2] == ("From t = 400 to 600 it knows the class but is over-confident (its NLL is above the 2.30 nats of "
                       "guessing by class frequency): its gradient points somewhere, but far too strongly; beyond that its "
                       "gradient is noise.")
    assert "noise" not in verdict(found({0: GOOD, 400: OVER}))[2]


@pytest.mark.parametrize("at, clean", [
    ({0: GOOD, 300: NOISE, 999: NOISE}, True),  # alpha_bar 0.78: the image is plain to see
    ({0: GOOD, 300: OVER, 999: SURE_AND_WRONG}, True),
    ({0: GOOD, 900: GOOD, 999: SURE_AND_WRONG}, True),  # sure of itself where there is nothing to see
    ({0: GOOD, 900: GOOD, 999: NOISE}, False),
    ({0: GOOD, 900: OVER, 999: NOISE}, False),
    ({0: GOOD, 900: GOOD, 999: (0.1, 1.09 * math.log(10))}, False),
    ({0: GOOD, 900: NOISE}, False),  # the levels between were not tried
    ({0: GOOD}, False),
    ({0: NOISE, 999: SURE_AND_WRONG}, False)])
def test_a_classifier_of_clean_images_is_found_out(at: dict[int, tuple[float, float]], clean: bool) -> None:
    evaluation = found(at)
    assert evaluation.knows_clean_images_only == clean
    assert any("learned on clean images only" in told and "train-noisy-clf" in told for told in verdict(evaluation)) == clean


def test_the_exact_classifier_helps_and_the_same_one_that_never_heard_of_noise_is_found_out() -> None:
    exact = mixture(4)
    images = drawn_from(exact, 400)

    def never_noised(x_t: Tensor, t: Tensor) -> Tensor:
        return exact.logits(x_t, torch.zeros_like(t))

    network = Exact(never_noised, in_channels=1, num_classes=4, image_size=6)
    clean = NoisyClassifier(network, exact.schedule, exact.classifier().class_names)  # type: ignore[arg-type]
    levels = [i / 10 for i in range(11)]
    best, worst = (Evaluation(name, exact.schedule, tuple(evaluate(with_a_parameter(model), images, levels)), 400,
                              Guess.among(images.labels, 4))
                   for name, model in (("exact", exact.classifier()), ("clean", clean)))
    assert best.spans(best.informs)[0][0] == 0 and best.share > 0.5
    assert not best.knows_clean_images_only and not best.spans(best.overconfident)
    assert worst.knows_clean_images_only and worst.share < best.share
    assert any("it knows the class but is over-confident" in told for told in verdict(worst))
    assert all(one.nll <= other.nll + 1e-6 for one, other in zip(best.rows, worst.rows))


def test_every_sentence_ends_on_its_line() -> None:
    for at in ({0: GOOD, 300: OVER, 999: SURE_AND_WRONG}, {0: NOISE}, {0: GOOD, 900: GOOD}, {0: OVER}):
        for told in verdict(found(at)):
            assert told[-1] in ".?" and "\n" not in told and told[0].isupper()


def test_a_comparison_counts_the_levels() -> None:
    one = found({0: GOOD, 500: GOOD, 900: NOISE})
    other = found({0: (0.9, 0.5), 500: (0.9, 0.3), 900: SURE_AND_WRONG}, name="other")
    assert comparison(one, other) == (
        "mine has the lower NLL at 2 of 3 levels. It helps at 50 % of the sampling steps, other at 50 %.")


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
