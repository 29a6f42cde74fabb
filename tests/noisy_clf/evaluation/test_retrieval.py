"""Whether noised images find their clean ones: counted by brute force, and by encoders of which the answer is known."""
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import noisy_clf.processes
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.evaluation.retrieval import cosines, found_among, retrieve
from noisy_clf.evaluation.retrieval_report import Found, Retrieval, as_json, comparison, table, verdict
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from tests.noisy_clf.conftest import first_of, tiny_network
from tests.reference import with_drawn_weights

COSINE = NoiseSchedule.named("cosine", 40)


class Pixels(nn.Module):
    """An encoder whose embedding is the image."""

    schedule = COSINE

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.scale * x_t.flatten(1)


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    return first_of(digits(8).validation, 20)


def found_by(encoder: Any, few: LabelledImages, levels: tuple[float, ...] = (0, 0.5, 0.9), **how: Any) -> list[Retrieval]:
    return retrieve(encoder, few, levels, **how)


def test_retrieval_is_what_counting_finds(few: LabelledImages) -> None:
    encoder = NoisyEncoder(with_drawn_weights(tiny_network()), COSINE)
    x_0, eps = to_x_0(few.whole()[0]), fixed_noise(torch.arange(20), (1, 8, 8), 7)
    rows = found_by(encoder, few, seed=7)
    assert [row.t for row in rows] == [0, 20, 36]
    with torch.no_grad():
        clean = F.normalize(encoder(x_0, torch.zeros(20)), dim=1)
        for row in rows:
            t = torch.full((20,), row.t)
            similar = F.normalize(encoder(COSINE.add_noise(x_0, t, eps), t), dim=1) @ clean.T
            ranks = [int((one > one[i]).sum()) for i, one in enumerate(similar)]
            own, rest = similar.diag(), similar[~torch.eye(20, dtype=torch.bool)]
            assert row.top1 == pytest.approx(sum(rank == 0 for rank in ranks) / 20)
            assert row.top5 == pytest.approx(sum(rank < 5 for rank in ranks) / 20)
            assert row.own == pytest.approx(own.mean().item(), abs=1e-5)
            assert row.others == pytest.approx(rest.mean().item(), abs=1e-5)
    assert rows[0].top1 == 1 and rows[0].own == pytest.approx(1, abs=1e-2) and rows[2].top1 < 1


def test_clean_images_are_seen_told_t_0_and_noised_ones_told_t(few: LabelledImages) -> None:
    seen: list[int] = []

    class Watched(Pixels):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            seen.append(int(t.unique()))
            return super().forward(x_t, t)

    found_by(Watched(), few, batch_size=10)
    assert seen == [0, 0, 0, 20, 36, 0, 20, 36]


def test_neither_batches_nor_lengths_matter(few: LabelledImages) -> None:
    whole = found_by(Pixels(), few)
    for other in (found_by(Pixels(), few, batch_size=3), found_by(Pixels(scale=50.0), few)):
        for one, two in zip(whole, other):
            assert (two.top1, two.top5) == (one.top1, one.top5) and two.own == pytest.approx(one.own, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert [row.top1 for row in found_by(Pixels(), few)] == [row.top1 for row in whole]


def test_who_sees_nothing_finds_what_chance_does(few: LabelledImages) -> None:
    assert [(row.top1, row.top5) for row in found_by(Constant(), few)] == [(pytest.approx(1 / 20), pytest.approx(5 / 20))] * 3


class Constant(Pixels):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.ones(len(x_t), 4)


def test_some_images_are_looked_for_among_these_alone_with_the_noise_that_they_have_among_all(few: LabelledImages) -> None:
    chosen = torch.tensor([3, 5, 11])
    one, = found_by(Constant(), few, levels=(0,), chosen=chosen)
    assert one.top1 == pytest.approx(1 / 3) and one.top5 is None
    x_0, t = to_x_0(few.batch(chosen)[0]), torch.full((3,), 36)
    x_t = COSINE.add_noise(x_0, t, fixed_noise(chosen, (1, 8, 8)))
    one, = found_by(Pixels(), few, levels=(0.9,), chosen=chosen)
    assert one.own == pytest.approx(F.cosine_similarity(x_t.flatten(1), x_0.flatten(1)).mean().item(), abs=1e-6)


def test_a_process_without_a_batch_sends_rows_of_the_others_width(
        few: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[torch.Size] = []
    monkeypatch.setattr(noisy_clf.processes, "sum_over_all", lambda whole: summed.append(whole.shape))
    encoder = NoisyEncoder(with_drawn_weights(tiny_network()), COSINE)
    for rank in range(3):  # one batch, which is the last one's
        retrieve(encoder, few, (0.5,), processes=Processes(rank, 3))
    assert len(summed) == 6 and len(set(summed)) == 2


def test_ties_are_put_in_any_order() -> None:
    similar = torch.tensor([[0.9, 0.9, 0.1, 0.9], [0.2, 0.5, 0.5, 0.7], [0.1, 0.2, 0.3, 0.0], [math.nan] * 4])
    own = torch.tensor([0, 1, 2, 3])
    assert found_among(similar, own).tolist() == [pytest.approx(1 / 3), 0, 1, 0]
    assert found_among(similar, own, 2).tolist() == [pytest.approx(2 / 3), pytest.approx(1 / 2), 1, 0]


def test_cosines_are_of_any_length_and_in_float32() -> None:
    one, other = torch.randn(3, 6), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosines(one, 7 * other)
    assert torch.allclose(found, F.cosine_similarity(one[:, None], other[None], dim=2), atol=1e-6)


def found(*top1: float, images: int = 400, name: str = "mine", schedule: NoiseSchedule = COSINE) -> Found:
    """At evenly spaced levels from 0."""
    rows = [Retrieval(int(i * 39 / (len(top1) - 1)), one, 0.5, 0.2, min(1.0, 2 * one)) for i, one in enumerate(top1)]
    return Found(name, schedule, tuple(rows), images)


def test_it_carries_something_where_it_beats_chance_by_two_standard_errors() -> None:
    one = found(1.0, 0.0075, 0.0073, 0.0025)  # 1/400 + 2 sqrt(1/400 * 399/400 / 400) = 0.00749
    assert one.chance == 1 / 400 and [one.carries(row) for row in one.rows] == [True, True, False, False]
    assert one.spans(one.carries) == [(0, 13)] and one.share == 14 / 40


@pytest.mark.parametrize("top1, told, untold", [
    ((1.0, 0.6, 0.4, 0.002), [
        "It carries something at t = 0-26 of 40, down to alpha_bar = 0.24: at 67.5% of the sampling steps.",
        "at least half of the images up to t = 13.",
        "It carries nothing at t = 39: there it finds no more images than chance, 1 of 400."], ["clean images only"]),
    ((1.0, 0.002, 0.002, 0.002), ["It carries nothing at t = 13-39", "learned on clean images only", "--see x0"], []),
    ((0.002, 0.0, 0.003, 0.002), ["It carries nothing at any noise level: chance finds 1 of 400"], ["half"]),
    ((1.0, 0.9, 0.8, 0.7), ["up to t = 39"], ["nothing", "clean images only"])])
def test_a_verdict_is_in_words(top1: tuple[float, ...], told: list[str], untold: list[str]) -> None:
    words = " ".join(verdict(found(*top1)))
    assert all(one in words for one in told) and not any(one in words for one in untold), words


def test_two_are_compared_level_by_level() -> None:
    one, other = found(1.0, 0.6, 0.1), found(1.0, 0.2, 0.2, name="other")
    assert comparison(one, other).startswith("mine finds more images at 1 of 3 levels and fewer at 1; it carries")
    assert "noise schedules" not in comparison(one, other)
    assert "different noise schedules" in comparison(one, found(1.0, 0.2, 0.2, schedule=NoiseSchedule.named("linear", 40)))


def test_a_table_has_a_line_a_level_and_what_chance_gets() -> None:
    alone = table([found(1.0, 0.6, 0.1)]).splitlines()
    assert [line.split() for line in alone] == [
        ["t/T", "t", "top-1", "top-5", "own", "others"], ["0.00", "0", "100.0%", "100.0%", "0.500", "0.200"],
        ["0.47", "19", "60.0%", "100.0%", "0.500", "0.200"], ["0.97", "39", "10.0%", "20.0%", "0.500", "0.200"],
        ["chance", "0.2%", "1.2%"]]
    both = table([found(1.0, 0.6, 0.1), found(1.0, 0.2, 0.2, name="other")]).splitlines()
    assert len({line.index("|") for line in both}) == 1 and both[0].split() == ["|", "mine", "|", "other"]


def test_json_has_it_all() -> None:
    content = as_json(found(1.0, 0.6, 0.002))
    assert content["carries"] == [(0, 19)] and content["share_of_steps"] == 0.5 and content["verdict"] == verdict(
        found(1.0, 0.6, 0.002))
    assert content["levels"][1] == {"level": 19 / 40, "t": 19, "top1": 0.6, "own": 0.5, "others": 0.2, "top5": 1.0}
