from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages, to_x_0
from noisy_clf.evaluation import (Quality, as_json, calibration_error, draw, evaluate, fixed_noise, quality, table,
                                  timestep_at)
from noisy_clf.schedule import NoiseSchedule

LABELS = torch.tensor([0, 1, 2, 3, 3, 0, 0, 1])  # of K = 4
IMAGES = LabelledImages(ArrayImages((60 * LABELS + 30).to(torch.uint8)[:, None, None, None].expand(8, 1, 8, 8).numpy()), LABELS)


class Stub(nn.Module):
    """Stands for a NoisyClassifier of 4 classes; `certainty` is its logit for the class whose grey an image has."""

    def __init__(self, certainty: float) -> None:
        super().__init__()
        self.certainty = nn.Parameter(torch.tensor(float(certainty)))
        self.schedule = NoiseSchedule.named("cosine", 1000)
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.seen.append(x_t)
        grey = (x_t.mean(dim=(1, 2, 3)) + 1) * 127.5
        return self.certainty * torch.nn.functional.one_hot(((grey - 30) / 60).round().long().clamp(0, 3), 4)


@pytest.mark.parametrize("confidence, right, expected", [
    ([1.0, 1.0], [1, 1], 0.0),
    ([1.0, 1.0], [0, 0], 1.0),
    ([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0], 0.0),  # right as often as it says
    ([0.9, 0.5], [0, 1], (0.9 + 0.5) / 2),  # in bins of their own, errors of opposite signs do not cancel
    ([0.95, 0.95, 0.5, 0.5, 0.5], [1, 0, 0, 0, 1], (abs(1 - 1.9) + abs(1 - 1.5)) / 5),
    ([0.0], [0], 0.0)])
def test_calibration_error_by_hand(confidence: list[float], right: list[int], expected: float) -> None:
    assert calibration_error(torch.tensor(confidence), torch.tensor(right).float()) == pytest.approx(expected, abs=1e-7)


def test_confidences_of_one_bin_are_averaged_before_they_are_compared() -> None:
    confidence, right = torch.tensor([0.41, 0.45]), torch.tensor([0.0, 1.0])
    assert calibration_error(confidence, right, bins=10) == pytest.approx(abs(1 - 0.86) / 2)
    assert calibration_error(confidence, right, bins=100) == pytest.approx((0.41 + 0.55) / 2)


def test_quality_of_hand_made_probabilities() -> None:
    log_probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]).log()
    found = quality(7, log_probs, torch.tensor([0, 1]))
    assert (found.t, found.accuracy) == (7, 0.5)
    assert found.nll == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert found.ece == pytest.approx((0.2 + 0.6) / 2)


@pytest.mark.parametrize("K", [2, 10])
def test_uniform_probabilities_have_nll_log_k(K: int) -> None:
    found = quality(0, torch.full((5, K), -math.log(K)), torch.arange(5) % K)
    assert found.nll == pytest.approx(math.log(K))
    assert found.ece == pytest.approx(abs(found.accuracy - 1 / K))


def test_a_perfect_classifier_is_perfect() -> None:
    row, = evaluate(Stub(certainty=100), IMAGES, [0.0])  # type: ignore[arg-type]
    assert row == Quality(t=0, accuracy=1.0, nll=0.0, ece=0.0)


def test_a_clueless_classifier_guesses_at_every_level() -> None:
    for row in evaluate(Stub(certainty=0), IMAGES, [0, 0.5, 1]):  # type: ignore[arg-type]
        assert row.accuracy == 3 / 8  # the share of class 0, on which ties fall
        assert row.nll == pytest.approx(math.log(4)) and row.ece == pytest.approx(3 / 8 - 1 / 4)


def test_evaluate_shows_x_t_of_each_level_and_reports_in_their_order() -> None:
    stub, levels = Stub(certainty=1), [0.75, 0.25]
    assert [row.t for row in evaluate(stub, IMAGES, levels)] == [750, 250]  # type: ignore[arg-type]
    x_0 = to_x_0(IMAGES.whole()[0])
    eps = fixed_noise(torch.arange(8), (1, 8, 8))
    for seen, t in zip(stub.seen, [750, 250]):
        assert_close(seen, stub.schedule.add_noise(x_0, torch.full((8,), t), eps))


def test_levels_that_fall_on_one_timestep_are_each_reported() -> None:
    rows = evaluate(Stub(certainty=1), IMAGES, [0.5, 0.5, 0.5001])  # type: ignore[arg-type]
    assert rows == evaluate(Stub(certainty=1), IMAGES, [0.5]) * 3  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_evaluation_does_not_depend_on_the_batch_size(
        classifier: NoisyClassifier, few_digits: Dataset, batch_size: int) -> None:
    whole = evaluate(classifier, few_digits.validation, [0.2, 0.8])
    for found, expected in zip(evaluate(classifier, few_digits.validation, [0.2, 0.8], batch_size), whole):
        assert (found.t, found.accuracy) == (expected.t, expected.accuracy)
        assert found.nll == pytest.approx(expected.nll, rel=1e-5) and found.ece == pytest.approx(expected.ece, rel=1e-5)


def test_another_seed_is_another_noise(classifier: NoisyClassifier, few_digits: Dataset) -> None:
    first, same, other = (evaluate(classifier, few_digits.validation, [0.5], seed=seed)[0].nll for seed in (0, 0, 1))
    assert first == same != other


def test_an_images_noise_is_its_own_and_normal() -> None:
    noise = fixed_noise(torch.arange(400), (1, 16, 16), seed=3)
    assert torch.equal(fixed_noise(torch.tensor([7, 2]), (1, 16, 16), seed=3), noise[[7, 2]])
    assert not torch.equal(fixed_noise(torch.tensor([7]), (1, 16, 16), seed=4), noise[[7]])
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5 and abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    assert len({image.numpy().tobytes() for image in noise}) == 400


@pytest.mark.parametrize("level, T, t", [
    (0, 1000, 0), (0.25, 1000, 250), (0.9999, 1000, 999), (1, 1000, 999), (1, 1, 0), (0.5, 7, 3)])
def test_timestep_at_a_level(level: float, T: int, t: int) -> None:
    assert timestep_at(level, T) == t


@pytest.mark.parametrize("T", [7, 100, 1000])
def test_timestep_at_t_over_T_is_t(T: int) -> None:
    assert [timestep_at(t / T, T) for t in range(T)] == list(range(T))


ROWS = [Quality(0, 0.985, 0.0512, 0.011), Quality(500, 0.5, 1.25, 0.2)]


def test_table_has_a_line_a_level_in_columns() -> None:
    header, first, second = table(ROWS, T=1000).splitlines()
    assert header.split() == ["t/T", "t", "accuracy", "NLL", "(nats)", "ECE"]
    assert first.split() == ["0.00", "0", "98.5%", "0.0512", "0.011"]
    assert second.split() == ["0.50", "500", "50.0%", "1.2500", "0.200"]
    assert len(header) == len(first) == len(second)


def test_as_json_names_each_number() -> None:
    assert as_json(ROWS)[1] == {"t": 500, "accuracy": 0.5, "nll": 1.25, "ece": 0.2}


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_draw_writes_a_whole_png_and_nothing_else(rows: list[Quality], tmp_path: Path) -> None:
    draw(rows, T=1000, K=10, path=tmp_path / "new" / "evaluation.png")
    with Image.open(tmp_path / "new" / "evaluation.png") as image:
        image.load()
        assert image.format == "PNG" and image.size == (1200, 360)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.png"]
