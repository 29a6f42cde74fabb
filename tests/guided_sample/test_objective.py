"""The losses that a denoiser learns from, against closed forms."""
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from guided_sample.denoiser import x0_from_eps
from guided_sample.training.denoiser_task import bound_term, denoiser_task, gaussian_kl, pixel_log_prob, steps_of
from guided_sample.posterior import learned_log_variance
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import to_x_0
from noisy_clf.training.draws import Draws
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import SCHEDULE, tiny_denoiser
from tests.oracles import Exact
from tests.reference import arrays, unet


def test_hybrid_loss_is_that_of_guided_diffusion():
    expected, schedule = arrays("hybrid_loss.npz"), NoiseSchedule.named("cosine", 1000)
    x_0, t, eps = expected["x_0"], expected["t"], expected["eps"]
    x_t = schedule.add_noise(x_0, t, eps)
    eps_hat, v = unet("legacy_order")(x_t, t).split(3, dim=1)
    torch.testing.assert_close((eps - eps_hat).square().flatten(1).mean(dim=1), expected["mse"], rtol=1e-5, atol=0)
    step = steps_of(schedule)(t)
    term = bound_term(step, x_0, x_t, x0_from_eps(schedule, x_t, t, eps_hat), learned_log_variance(step, "learned_range", v))
    torch.testing.assert_close(term, expected["vb"], rtol=1e-5, atol=0)


def test_kl_is_that_of_torch():
    mean_q, std_q, mean_p, std_p = 0.3, 0.5, -0.1, 0.8
    expected = kl_divergence(Normal(mean_q, std_q), Normal(mean_p, std_p))
    logs = [torch.tensor(2 * math.log(std)) for std in (std_q, std_p)]
    torch.testing.assert_close(gaussian_kl(torch.tensor(mean_q), logs[0], torch.tensor(mean_p), logs[1]), expected)


def test_pixel_probabilities_of_all_grey_levels_sum_to_1():
    levels = torch.arange(256) / 127.5 - 1
    for mean, std in ((0.0, 0.1), (-0.97, 0.3), (0.5, 0.02)):
        log_prob = pixel_log_prob(levels, torch.full((256,), mean), torch.full((256,), 2 * math.log(std)))
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
        inside = (levels - mean).abs().argmin()
        assert log_prob.exp()[inside].item() == pytest.approx(
            Normal(mean, std).log_prob(levels[inside]).exp().item() * 2 / 255, rel=0.02)


def test_the_bounds_terms_vanish_where_the_reverse_step_is_exact():
    """With x_0 known and the posterior's own variance, KL(q || p) is 0 at every step but the last."""
    x_0 = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t = torch.tensor([0, 1, 40])
    step = steps_of(SCHEDULE)(t)
    x_t = SCHEDULE.add_noise(x_0, t, torch.ones_like(x_0))
    exact = learned_log_variance(step, "learned_range", -torch.ones_like(x_0))
    terms = bound_term(step, x_0, x_t, x_0, exact)
    assert terms[1:].abs().max() < 1e-6
    decoder = -pixel_log_prob(x_0, x_0, exact)[0].mean() / math.log(2)  # in bits a dimension
    assert terms[0].item() == pytest.approx(decoder.item(), rel=1e-4)
    shifted = bound_term(step, x_0, x_t, x_0 + 0.1, exact)[1:].flatten()
    kl = (0.1 * step.mean_x0).square() / (2 * step.beta_tilde_clipped) / math.log(2)
    torch.testing.assert_close(shifted, kl.flatten()[1:], rtol=1e-3, atol=1e-6)


def draws(count: int) -> Draws:
    return Draws(0, range(count), torch.device("cpu"))


def test_simple_loss_is_the_squared_error_of_eps():
    denoiser, data = tiny_denoiser(variance="fixed_small", out_channels=1), load_dataset("digits", 8)
    images, y = data.train.batch(torch.arange(500))
    silent = Exact(lambda x_t, t, y: torch.zeros_like(x_t))
    losses = denoiser_task(denoiser, data).loss(silent, to_x_0(images), y, torch.arange(500) % 50, draws(500))
    assert losses.shape == (500,)
    assert losses.mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / (500 * 64)))  # E[eps^2] = 1, its variance 2


def test_hybrid_loss_teaches_eps_by_the_simple_loss_alone():
    denoiser = tiny_denoiser()
    data = load_dataset("digits", 8)
    images, y = data.train.batch(torch.arange(16))
    x_0, t = to_x_0(images), 3 * torch.arange(16)
    hybrid = denoiser_task(denoiser, data).loss(denoiser.network, x_0, y, t, draws(16)).mean()
    last_bias = denoiser.network.out[2].bias
    hybrid_gradient, = torch.autograd.grad(hybrid, last_bias)

    eps = draws(16).noise_like(x_0)
    output = denoiser.network(SCHEDULE.add_noise(x_0, t, eps), t)
    simple_gradient, = torch.autograd.grad((eps - output[:, :1]).square().mean(), last_bias)
    torch.testing.assert_close(hybrid_gradient[0], simple_gradient[0])
    x_t, step = SCHEDULE.add_noise(x_0, t, eps), steps_of(SCHEDULE)(t)
    log_variance = learned_log_variance(step, "learned_range", output[:, 1:])
    bound = 50 * bound_term(step, x_0, x_t, x0_from_eps(SCHEDULE, x_t, t, output[:, :1]), log_variance)  # a sum of 50 terms
    torch.testing.assert_close(hybrid, ((eps - output[:, :1]).square().flatten(1).mean(dim=1) + 0.001 * bound).mean())
    assert hybrid_gradient[1].abs() > 0 and simple_gradient[1] == 0  # the bound teaches the variance, and nothing else does


def test_validation_is_the_same_each_time():
    data = load_dataset("digits", 8)
    task = denoiser_task(tiny_denoiser(), data)
    assert task.validate(task.network, Processes()) == task.validate(task.network, Processes())


@pytest.mark.parametrize("variance", ["fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("predicts", ["eps", "velocity", "x_0"])
def test_the_loss_is_that_of_what_the_denoiser_predicts(predicts, variance):
    """A network that knows x_0 and eps has no simple loss, and a bound that its variance alone makes."""
    data = load_dataset("digits", 8)
    outputs = 2 if variance.startswith("learned") else 1
    denoiser = replace(tiny_denoiser(variance=variance, out_channels=outputs), predicts=predicts)
    images, y = data.train.batch(torch.arange(16))
    x_0, t, eps = to_x_0(images), 3 * torch.arange(16) + 1, draws(16).noise_like(to_x_0(images))
    exact = denoiser.target(x_0, t, eps)
    v = torch.full_like(x_0, -0.5)
    knowing = Exact(lambda x_t, t, y: torch.cat([exact, v], dim=1)[:, :outputs])
    losses = denoiser_task(denoiser, data).loss(knowing, x_0, y, t, draws(16))
    x_t, expected = SCHEDULE.add_noise(x_0, t, eps), torch.zeros(16)
    if outputs == 2:
        step = steps_of(SCHEDULE)(t)
        expected = 0.001 * 50 * bound_term(step, x_0, x_t, x_0, learned_log_variance(step, variance, v))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(replace(denoiser, network=knowing)(x_t, t).x0_hat, x_0, rtol=0, atol=1e-4)


def test_the_loss_tells_the_network_its_rescaled_t():
    told = []
    denoiser = replace(tiny_denoiser(variance="fixed_small", out_channels=1), rescaled_t=True)
    network = Exact(lambda x_t, t, y: told.append(t) or x_t)
    denoiser_task(denoiser, load_dataset("digits", 8)).loss(
        network, torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 49]), draws(3))
    assert told[0].tolist() == [0, 20, 980]  # 1000 t / T


def test_dropped_labels_are_of_the_null_class():
    names = ("a", "b", "c")
    denoiser = replace(tiny_denoiser(class_names=names, variance="fixed_small", out_channels=1), null_class=True)
    shown = []
    network = Exact(lambda x_t, t, y: shown.append(y) or x_t)
    task = denoiser_task(denoiser, load_dataset("digits", 8), drop_labels=0.2)
    y, t = torch.arange(2000) % 3, torch.zeros(2000, dtype=torch.int64)
    task.loss(network, torch.zeros(2000, 1, 8, 8), y, t, draws(2000))
    dropped = shown[0] == 3
    assert 0.17 < dropped.float().mean() < 0.23 and (shown[0] == y)[~dropped].all()
    task.loss(network, torch.zeros(100, 1, 8, 8), y[500:600], t[:100], Draws(0, range(500, 600), torch.device("cpu")))
    assert shown[1].equal(shown[0][500:600])  # whatever the batch
    assert task.options == {"drop_labels": 0.2} and task.model_config["null_class"] is True


def test_tables_go_to_the_device_once(monkeypatch):
    task = denoiser_task(tiny_denoiser(), load_dataset("digits", 8))
    made, from_numpy = [], torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: made.append(array.shape) or from_numpy(array))
    for _ in range(3):
        with torch.no_grad():
            task.loss(task.network, torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 7]), draws(2))
    assert made.count((50,)) == 9 and made.count((2, 50)) <= 1  # a Step's nine, and the schedule's two
