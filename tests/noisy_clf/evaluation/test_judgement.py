from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.evaluation.by_noise_level import Quality, evaluate
from noisy_clf.evaluation.judgement import Evaluation, Guess
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
    assert found(at).knows_clean_images_only == clean


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
    assert worst.spans(worst.overconfident)
    assert all(one.nll <= other.nll + 1e-6 for one, other in zip(best.rows, worst.rows))
