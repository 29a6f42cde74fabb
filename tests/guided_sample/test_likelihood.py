"""A denoiser's likelihood and errors: guided-diffusion's numbers, and closed forms."""
from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.likelihood.bound import (
    BITS, X0_ERROR, eps_error, measure, one_variance_bits, pixelwise_error, prior_bits)
from guided_sample.likelihood.likelihood import Likelihood
from guided_sample.likelihood.subject import numbers_of, pixel_variance
from guided_sample.likelihood.report import as_json, table, verdict
from guided_sample.steps import Step, steps
from guided_sample.training.denoiser_task import gaussian_kl
from guided_sample.unet import UNet
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import ArrayImages, LabelledImages, to_x_0
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import SCHEDULE, tiny_denoiser
from tests.oracles import Exact, Mixture
from tests.reference import arrays, unet, with_drawn_weights

CASES = {  # of bpd.npz: the U-Net, its schedule and steps, its variance, and what it predicts
    "learned_range": ("legacy_order", "cosine", 30, "30", "learned_range", "eps"),
    "learned": ("legacy_order", "linear", 40, "40", "learned", "eps"),
    "learned_range_spaced_conditional": ("class_cond", "cosine", 60, "10,5,5", "learned_range", "eps"),
    "fixed_small": ("legacy_order", "linear", 25, "25", "fixed_small", "eps"),
    "fixed_large_x_0": ("legacy_order", "cosine", 25, "25", "fixed_large", "x_0")}


def terms_of(denoiser: Denoiser, chain: list[Step], images: LabelledImages, batch_size: int = 64,
             chosen: torch.Tensor | None = None, **more) -> np.ndarray:
    chosen = torch.arange(len(images)) if chosen is None else chosen
    terms = np.full((len(chosen), len(chain), 2), np.nan, np.float32)
    measure(denoiser, chain, images, chosen, terms, batch_size, **more)
    return terms


def likelihood(denoiser: Denoiser, chain: list[Step], images: LabelledImages, **more) -> Likelihood:
    prior = prior_bits(to_x_0(images.batch(torch.arange(len(images)))[0]), chain[0].alpha_bar)
    return Likelihood.of("one", denoiser, chain, terms_of(denoiser, chain, images, **more), prior, pixel_variance(images))


@pytest.mark.parametrize("name", CASES)
def test_all_terms_are_those_of_guided_diffusion(name: str) -> None:
    u_net, schedule, T, spec, variance, predicts = CASES[name]
    expected = {key.partition(".")[2]: value.numpy() for key, value in arrays("bpd.npz").items() if key.startswith(f"{name}.")}
    network, images = unet(u_net), arrays("bpd.npz")["images"]
    if variance.startswith("fixed"):
        network = with_drawn_weights(UNet(replace(network.config, out_channels=3)))
    denoiser = unet_denoiser(network, NoiseSchedule.named(schedule, T), variance, predicts=predicts,
                             class_names=tuple("0123456789") if u_net == "class_cond" else None)
    chain = steps(spec, denoiser.schedule)
    terms = terms_of(denoiser, chain, LabelledImages(ArrayImages(images.numpy()), arrays("bpd.npz")["y"]), seed=7)
    prior = prior_bits(to_x_0(images), chain[0].alpha_bar).numpy()
    eps = eps_error(terms[..., X0_ERROR], np.array([step.alpha_bar for step in chain]))
    for ours, key, rtol, atol in (
            (terms[..., BITS].sum(axis=1) + prior, "total_bpd", 1e-6, 0), (prior, "prior_bpd", 1e-5, 0),
            (terms[..., BITS], "vb", 1e-5, 1e-7), (terms[..., X0_ERROR], "xstart_mse", 1e-5, 0),
            (eps, "mse", 1e-4, 0)):  # theirs subtracts two like numbers where there is little noise
        np.testing.assert_allclose(ours, expected[key], rtol=rtol, atol=atol, err_msg=key)


def gaussian_images(std: float, count: int = 64) -> LabelledImages:
    x_0 = std * np.random.default_rng(0).standard_normal((count, 1, 8, 8))
    return LabelledImages(ArrayImages(((x_0 + 1) * 127.5).round().astype(np.uint8)), torch.zeros(count, dtype=torch.int64))


def exact_of_gaussian(std: float, schedule: NoiseSchedule, chain: list[Step]) -> Denoiser:
    """What is to be known of x_0 ~ N(0, std^2) at the chain's steps: eps, and log Var(x_{t_prev} | x_t)."""
    mixture = Mixture(torch.zeros(1, 1, 8, 8), std, schedule)
    variances = {step.t: step.beta_tilde + step.mean_x0 ** 2 * std ** 2 * (1 - step.alpha_bar) / (
        step.alpha_bar * std ** 2 + 1 - step.alpha_bar) for step in chain}
    network = Exact(lambda x_t, t, y=None: torch.cat(
        [mixture.eps(x_t, t), torch.full_like(x_t, math.log(variances[int(t[0])])).double()], dim=1))
    return replace(mixture.denoiser("learned"), network=network)


def test_the_bound_of_the_exact_denoiser_is_the_entropy_and_its_eps_error_the_least() -> None:
    """Grey levels of a Gaussian have log2(127.5 std sqrt(2 pi e)) bits, and its reverse steps are Gaussian: nothing is lost."""
    schedule, std = NoiseSchedule.named("cosine", 400), 0.2
    chain, images = steps("40", schedule), gaussian_images(std)
    exact = exact_of_gaussian(std, schedule, chain)
    found = likelihood(exact, chain, images)
    entropy = math.log2(127.5 * std * math.sqrt(2 * math.pi * math.e))
    assert found.total == pytest.approx(entropy, abs=0.02) and found.error < 0.03
    assert found.one_variance == pytest.approx(found.bits[1:].sum(), rel=0.01)
    alpha_bar = np.array([step.alpha_bar for step in reversed(chain)])
    least = alpha_bar * std ** 2 / (alpha_bar * std ** 2 + 1 - alpha_bar)
    np.testing.assert_allclose(found.eps_error, least, rtol=0.1)
    np.testing.assert_allclose(found.pixelwise, least, rtol=0.05)
    assert found.spans == []
    for worse in (0.8, 1.2):
        network = Exact(lambda x_t, t, y=None: exact.network(x_t, t) * torch.tensor([worse, 1])[:, None, None])
        other = likelihood(replace(exact, network=network), chain, images)
        assert other.total > entropy + 0.05 and other.weak.mean() > 0.5


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_fixed_variances_of_small_steps_cost_what_the_verdict_says(variance: str) -> None:
    """The terms between are those of the variance that there is, in place of the best: the difference is in closed form."""
    schedule, std = NoiseSchedule.named("cosine", 400), 0.2
    chain, images = steps("40", schedule), gaussian_images(std)
    found = likelihood(Mixture(torch.zeros(1, 1, 8, 8), std, schedule).denoiser(variance), chain, images)
    expected = 0.0
    for step in chain[:-1]:
        best = step.beta_tilde + step.mean_x0 ** 2 * std ** 2 * (1 - step.alpha_bar) / (
            step.alpha_bar * std ** 2 + 1 - step.alpha_bar)
        ratio = best / (step.beta if variance == "fixed_large" else step.beta_tilde)
        expected += (ratio - 1 - math.log(ratio)) / (2 * math.log(2))
    assert found.bits[1:].sum() - found.one_variance == pytest.approx(expected, rel=0.1)


def test_an_images_terms_depend_on_neither_batches_nor_other_images() -> None:
    denoiser, images = tiny_denoiser(), digits(8).validation
    chain, some = steps("10", SCHEDULE), torch.tensor([5, 0, 33, 7, 100])
    whole = terms_of(denoiser, chain, images, 5, some)
    np.testing.assert_allclose(terms_of(denoiser, chain, images, 2, some), whole, rtol=1e-4)
    np.testing.assert_allclose(terms_of(denoiser, chain, images, 2, some[3:]), whole[3:], rtol=1e-4)
    coarse = terms_of(denoiser, steps("2", SCHEDULE), images, 5, some)  # its last step comes from another t_prev
    np.testing.assert_allclose(coarse[..., X0_ERROR], whole[:, [0, -1], X0_ERROR], rtol=1e-4)
    assert np.abs(terms_of(denoiser, chain, images, 5, some, seed=1) / whole - 1)[..., X0_ERROR].min() > 1e-4


def test_what_was_measured_is_not_measured_again() -> None:
    denoiser, images, chain = tiny_denoiser(), digits(8).validation, steps("10", SCHEDULE)
    calls: list[int] = []
    counted = replace(denoiser, network=Exact(lambda x_t, t, y: calls.append(int(t[0])) or denoiser.network(x_t, t, y)))
    terms, chosen = np.full((4, 10, 2), np.nan, np.float32), torch.arange(4)
    measure(counted, chain, images, chosen, terms, 2, stopped=lambda: len(calls) == 13)
    assert np.isnan(terms[..., BITS]).sum() == 2 * 7 and not np.isnan(terms[:2]).any()
    measure(counted, chain, images, chosen, terms, 2)
    assert len(calls) == 20
    np.testing.assert_array_equal(terms, terms_of(denoiser, chain, images, 2, chosen))


def test_a_denoiser_whose_weights_are_damaged_is_refused() -> None:
    broken = replace(tiny_denoiser(), network=Exact(lambda x_t, t, y: torch.full_like(x_t, math.nan).repeat(1, 2, 1, 1)))
    with pytest.raises(UserError, match="not a finite number at t = 49; its weights are damaged"):
        terms_of(broken, steps("5", SCHEDULE), digits(8).validation, chosen=torch.arange(2))


def test_the_best_single_variance_is_the_best() -> None:
    step, error = steps("50", SCHEDULE)[20], 0.05
    excess = torch.tensor(step.mean_x0 ** 2 * error)

    def bits(log_variance: torch.Tensor) -> torch.Tensor:
        return gaussian_kl(excess.sqrt(), torch.tensor(step.beta_tilde).log(), torch.tensor(0.0), log_variance) / math.log(2)

    around = torch.linspace(-3, 3, 6001) + math.log(step.beta_tilde)
    assert one_variance_bits(step, error) == pytest.approx(bits(around).min().item(), rel=1e-4)


def test_each_pixel_alone_tells_nothing_where_it_is_constant() -> None:
    alpha_bar = np.array([0.9, 0.5, 1e-6])
    known = pixelwise_error(torch.tensor([[[0.0, 0.25]]]), alpha_bar)
    np.testing.assert_allclose(known, [0.5 * a * 0.25 / (a * 0.25 + 1 - a) for a in alpha_bar])
    data = digits(8).validation
    expected = to_x_0(data.batch(torch.arange(364))[0]).double().var(dim=0)
    torch.testing.assert_close(pixel_variance(data), expected)


def test_classes_go_by_name() -> None:
    data = digits(8)
    names = data.class_names[::-1]
    assert numbers_of("it", names, data).tolist() == list(range(9, -1, -1))
    assert numbers_of("it", tuple("0123456789"), data).tolist() == list(range(10))
    with pytest.raises(UserError, match="it is asked for one of 3 classes .*digits has 10 .*give the --dataset"):
        numbers_of("it", ("a", "b", "c"), data)


def invented(**what) -> Likelihood:
    """Of ten steps, of which the last's and the first's terms are the greatest."""
    chain = tuple(steps("10", NoiseSchedule.named("linear", 1000))[::-1])
    some = {"name": "one", "learned_variance": True, "T": 1000, "chain": chain, "images": 9, "total": 3.0,
            "error": 0.1, "prior": 0.0, "bits": np.array([1.0, 1.0, 0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01]),
            "x0_error": np.full(10, 1e-9), "eps_error": np.full(10, 0.1), "eps_deviation": np.full(10, 0.01),
            "pixelwise": np.linspace(0.9, 0.2, 10)}
    return Likelihood(**{**some, **what})


def test_a_short_gap_does_not_divide_where_it_is_weak() -> None:
    weak = np.zeros(100, bool)
    weak[[10, 12, 15, 20]] = True  # gaps of 1, 2 and 4 steps, and 2 are a fiftieth
    assert Likelihood.spans.fget(SimpleNamespace(weak=weak, t=np.arange(100) * 10)) == [  # type: ignore[attr-defined]
        (100, 150), (200, 200)]


def test_the_verdict_says_where_it_is_weak() -> None:
    told = verdict(invented())
    assert told[0] == ("It codes these images in at most 3.000 bits per dimension, with a standard error of 0.100. 1.000 of "
                       "them go to whole grey levels at t = 0, half of the steps' to t <= 111, nine tenths to t <= 333.")
    assert told[1].startswith("Its eps error is nowhere above") and "most, 0.5, at t = 999." in told[1]
    weak = np.full(10, 0.1)
    weak[[3, 8, 9]] = 0.7, 0.5, 0.5
    told = verdict(invented(eps_error=weak))
    assert told[1] == ("It is weak at t = 333, 888-999: its eps error there is above the best guess of each pixel from that "
                       "pixel alone, by 2.5 times at t = 999. 7.3% of the bound lie there.")
    assert invented(eps_error=weak, eps_deviation=np.full(10, 1.0)).spans == []  # by chance
    assert "not trained, or is told another schedule" in verdict(invented(eps_error=np.full(10, 1.0)))[2]


def test_the_verdict_says_what_variances_and_the_chains_start_cost() -> None:
    assert verdict(invented())[2].startswith("Its learned variance costs")
    large = np.full(10, 0.5)
    assert verdict(invented(x0_error=large, learned_variance=False))[2].startswith("Its fixed variance saves")
    assert "x_t still tells 0.100 bits per dimension" in verdict(invented(prior=0.1))[-1]
    assert "no better than raw pixels, of 8 bits." in verdict(invented(total=8.5))[0]


def test_the_tables_bits_add_up_to_the_bound() -> None:
    found = invented(prior=0.25, total=3.25)
    lines = [line.split() for line in table(found).splitlines()]
    assert lines[0] == ["t", "bits/dim", "eps", "error", "pixel", "alone", "x_0", "error"]
    assert [line[0] for line in lines[1:]] == [*map(str, range(0, 1000, 111)), "prior", "all"]
    assert sum(float(line[1]) for line in lines[1:-1]) == pytest.approx(3.25) and lines[-1][1] == "3.2500"
    content = as_json(found)
    assert content["by_t"]["t"][-1] == 999 and content["bits_per_dim"]["L_0"] == 1.0
