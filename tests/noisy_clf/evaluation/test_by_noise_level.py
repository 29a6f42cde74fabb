from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from guided_sample.guides.classifier import log_prob
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages, to_x_0
from noisy_clf.evaluation.by_noise_level import Quality, calibration_error, evaluate, measured, quality, timestep_at
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from tests.oracles import Mixture

LABELS = torch.tensor([0, 1, 2, 3, 3, 0, 0, 1])  # of K = 4
IMAGES = LabelledImages(ArrayImages((60 * LABELS + 30).to(torch.uint8)[:, None, None, None].expand(8, 1, 8, 8).numpy()), LABELS)


class Stub(nn.Module):
    """Stands for a NoisyClassifier of 4 classes; `certainty` is its logit for the class whose grey an image has."""

    def __init__(self, certainty: float) -> None:
        super().__init__()
        self.certainty = nn.Parameter(torch.tensor(float(certainty)))
        self.schedule = NoiseSchedule.named("cosine", 1000)
        self.class_names = ("a", "b", "c", "d")
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
    right = torch.tensor([0.0, 1.0])
    assert calibration_error(torch.tensor([0.41, 0.45]), right) == pytest.approx(abs(1 - 0.86) / 2)  # of 6/15 to 7/15
    assert calibration_error(torch.tensor([0.41, 0.47]), right) == pytest.approx((0.41 + 0.53) / 2)


def quality_of(log_probs: Tensor, y: Tensor) -> Quality:
    """Of a classifier that answers log_probs [N,K], at t = 7."""
    numbers = measured(lambda x_t, t: log_probs, torch.zeros(len(y), 1, 1, 1), y, y, False)  # type: ignore[arg-type]
    return quality(7, numbers, top5=log_probs.shape[1] > 5, gradients=False)


def test_quality_of_hand_made_probabilities() -> None:
    found = quality_of(torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]).log(), torch.tensor([0, 1]))
    assert (found.t, found.accuracy, found.top5, found.gradient_norm) == (7, 0.5, None, None)
    assert found.nll == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert found.nll_error == pytest.approx(math.log(4) / 2 / math.sqrt(2))  # the two are log 4 apart
    assert found.ece == pytest.approx((0.2 + 0.6) / 2)


@pytest.mark.parametrize("K", [2, 10])
def test_uniform_probabilities_have_nll_log_k(K: int) -> None:
    found = quality_of(torch.full((5, K), -math.log(K)), torch.arange(5) % K)
    assert found.nll == pytest.approx(math.log(K))
    assert found.ece == pytest.approx(abs(found.accuracy - 1 / K))


def test_top_5_counts_the_five_most_probable_classes() -> None:
    falling = torch.arange(8, 0, -1).float().expand(8, 8).log_softmax(dim=1)  # class 0 the most probable
    found = quality_of(falling, torch.arange(8))
    assert (found.accuracy, found.top5) == (1 / 8, 5 / 8)


def test_ties_do_not_make_every_class_one_of_the_first_five() -> None:
    found = quality_of(torch.zeros(8, 8).log_softmax(dim=1), torch.arange(8))
    assert (found.accuracy, found.top5) == (1 / 8, 5 / 8)


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


def mixture(K: int = 7) -> Mixture:
    means = torch.rand(K, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Mixture(means, 0.2, NoiseSchedule.named("linear", 100), weights=[(k + 1) * 2 / (K * (K + 1)) for k in range(K)])


def drawn_from(exact: Mixture, count: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(1)
    labels = torch.multinomial(exact.log_weights.exp(), count, replacement=True, generator=generator)
    x_0 = exact.means[labels] + exact.std * torch.randn(count, *exact.means.shape[1:], generator=generator)
    return LabelledImages(ArrayImages(((x_0 + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()), labels)


def with_a_parameter(classifier: NoisyClassifier) -> NoisyClassifier:
    """A formula has none, and the device is that of the parameters."""
    classifier.network.register_parameter("none", nn.Parameter(torch.zeros(())))
    return classifier


@pytest.mark.parametrize("batch_size", [None, 7])
def test_gradient_nll_and_accuracy_of_the_exact_classifier(batch_size: int | None) -> None:
    exact = mixture()
    data = drawn_from(exact, 30)
    images, y = data.whole()
    levels = [0, 0.2, 0.6, 0.99]
    for level, row in zip(levels, evaluate(with_a_parameter(exact.classifier()), data, levels, batch_size, gradients=True)):
        t = torch.full((30,), timestep_at(level, 100))
        x_t = exact.schedule.add_noise(to_x_0(images), t, fixed_noise(torch.arange(30), (1, 6, 6)))
        log_probs = exact.logits(x_t, t).log_softmax(dim=1)
        nll = -log_probs.gather(1, y[:, None])
        assert row.nll == pytest.approx(nll.mean().item(), rel=1e-5, abs=1e-7)
        assert row.nll_error == pytest.approx(nll.std(correction=0).item() / math.sqrt(30), rel=1e-5, abs=1e-7)
        assert row.accuracy == pytest.approx((log_probs.argmax(dim=1) == y).double().mean().item())
        assert row.top5 == pytest.approx((log_probs.topk(5).indices == y[:, None]).any(dim=1).double().mean().item())
        norms = exact.grad_log_prob(x_t, t, y).flatten(1).norm(dim=1)
        assert row.gradient_norm == pytest.approx(norms.mean().item(), rel=1e-4, abs=1e-7)


def test_gradients_change_nothing_else_and_leave_no_trace(classifier: NoisyClassifier, few_digits: Dataset) -> None:
    without = evaluate(classifier, few_digits.validation, [0.2, 0.8])
    found = evaluate(classifier, few_digits.validation, [0.2, 0.8], gradients=True)
    assert [replace(row, gradient_norm=None) for row in found] == without
    assert all(row.gradient_norm and row.gradient_norm > 0 for row in found)
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("batch_size", [1, 5])
def test_each_image_has_its_own_gradient(classifier: NoisyClassifier, few_digits: Dataset, batch_size: int) -> None:
    together, apart = (evaluate(classifier, few_digits.validation, [0.2, 0.8], size, gradients=True)
                       for size in (12, batch_size))
    for found, expected in zip(apart, together):
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)


def test_chosen_images_keep_the_noise_of_their_own(classifier: NoisyClassifier, few_digits: Dataset) -> None:
    data, chosen = few_digits.validation, torch.tensor([1, 4, 9])
    found, = evaluate(classifier, data, [0.5], chosen=chosen)
    alone = [evaluate(classifier, data, [0.5], chosen=one[None])[0].nll for one in chosen]
    assert found.nll == pytest.approx(sum(alone) / 3, rel=1e-5)
    images, y = data.batch(chosen)
    t = torch.full((3,), found.t)
    x_t = classifier.schedule.add_noise(to_x_0(images), t, fixed_noise(chosen, (1, 8, 8)))
    assert found.nll == pytest.approx(-log_prob(classifier, x_t, t, y).mean().item(), rel=1e-5)


@dataclass(frozen=True)
class Thread(Processes):
    """One of several processes that are threads."""

    rows: dict[int, Tensor] = field(default_factory=dict)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def gather(self, rows: Tensor, total: int, multiple: int = 1) -> Tensor:
        assert len(rows) == len(self.share(total, multiple))
        self.rows[self.rank] = rows
        self.meeting.wait(60)
        return torch.cat([self.rows[rank] for rank in range(self.count)])


@pytest.mark.parametrize("count, batch_size", [(2, 4), (3, 5), (5, 4)])  # the last: more processes than batches
def test_the_result_is_that_of_one_process_to_the_bit(
        classifier: NoisyClassifier, few_digits: Dataset, count: int, batch_size: int) -> None:
    rows: dict[int, Tensor] = {}
    meeting = threading.Barrier(count)

    def result(rank: int) -> list[Quality]:
        return evaluate(classifier, few_digits.validation, [0.2, 0.8], batch_size, gradients=True,
                        processes=Thread(rank, count, rows, meeting))

    alone = evaluate(classifier, few_digits.validation, [0.2, 0.8], batch_size, gradients=True)
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(result, range(count))) == [alone] * count


@pytest.mark.parametrize("image_size, expected", [(8, [256, 44]), (64, [64] * 4 + [44]), (128, [16] * 18 + [12])])
def test_larger_images_come_in_smaller_batches(image_size: int, expected: list[int]) -> None:
    grey = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(300, 1, image_size, image_size).numpy()
    stub = Stub(certainty=1)
    evaluate(stub, LabelledImages(ArrayImages(grey), torch.arange(300) % 4), [0])  # type: ignore[arg-type]
    assert [len(seen) for seen in stub.seen] == expected


def test_a_bar_is_drawn_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(Stub(certainty=1), IMAGES, [0, 0.5])  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    evaluate(Stub(certainty=1), IMAGES, [0, 0.5], progress="mine")  # type: ignore[arg-type]
    assert "mine: 100%" in capsys.readouterr().err
