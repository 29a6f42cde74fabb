"""Multistep solvers: the numbers of their authors' programs, their order on an exact mixture, and what they share with DDIM."""
from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_sample.denoiser import unet_denoiser
from guided_sample.model import Model, Prediction, dynamic, labelled, steered, thresholded
from guided_sample.samplers import SAMPLERS
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.dpm_solver import dpm_solver
from guided_sample.samplers.dpm_solver_sde import dpm_solver_sde
from guided_sample.samplers.unipc import unipc, weights
from guided_sample.steps import Step, steps
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.guidance_family import VECTORS, arrays, sharp_classifier, velocity_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error, unet
from tests.seam import adm, classified, last, normal_noise, run

GRIDS = {"time_uniform": "uniform", "logSNR": "logsnr"}
SOLVERS = {name: vector for name, vector in VECTORS.items() if name.startswith(("dpmpp2m", "unipc"))}


def at_points(t: Any, alpha: Any) -> list[Step]:
    """The chain through these points, the noisiest first, which ends at the last of them."""
    alpha_bar = np.append(np.asarray(alpha) ** 2, 1.0)
    return [Step(float(t[i]), i, *alpha_bar[i:i + 2].tolist(), *[math.nan] * 5) for i in range(len(alpha) - 1)]


def denoiser_of(config: dict[str, Any]) -> Any:
    if config.get("model_type", "v") == "v":
        return velocity_denoiser(config.get("unet", "new_order"), config["schedule"])
    network = unet(config["unet"])
    names = tuple("0123456789") if network.config.num_classes else None
    return unet_denoiser(network, NoiseSchedule.named(config["schedule"], 1000), "learned_range", class_names=names)


def as_told(denoiser: Any, y: Tensor | None) -> Model:
    """As `labelled`, but with the step's own alpha_bar: on the cosine schedule their program tells the network another t."""
    def model(x_t: Tensor, step: Step) -> Prediction:
        output, _ = denoiser.predicted(x_t, torch.full((len(x_t),), step.t), y)
        signal, noise = step.alpha_bar ** 0.5, (1 - step.alpha_bar) ** 0.5
        velocity = denoiser.predicts == "velocity"
        return Prediction(signal * x_t - noise * output if velocity else (x_t - noise * output) / signal, 0.0)
    return model


@pytest.mark.parametrize("name", SOLVERS)
def test_authors_numbers(name: str):
    theirs, config = arrays(name), SOLVERS[name]["config"]
    schedule = NoiseSchedule.named(config["schedule"], 1000)
    chain = at_points(theirs["t_model"].tolist(), theirs["alpha"].tolist())
    if config["schedule"] == "linear":  # on cosine, t and alpha are not the same timestep's there
        ours = steps(f"{GRIDS[config['skip_type']]}{config['steps'] + 1}", schedule, fractional=True)[:-1]
        assert np.allclose([step.t for step in ours], theirs["t_model"], atol=1e-9)
        assert np.allclose([step.alpha_bar for step in ours], theirs["alpha"][:-1] ** 2, rtol=1e-9)
        chain = ours
    denoiser, y = denoiser_of(config), theirs["y"]
    model = as_told if config["schedule"] == "cosine" else labelled
    model = steered(model(denoiser, y if denoiser.class_names else None),
                    classified(sharp_classifier(config["encoder"], config["schedule"]), y, config["scale"]))
    if "correcting_x0_fn" in config:
        model = thresholded(model, dynamic(0.995))
    if name.startswith("unipc"):
        found = run(unipc, model, chain, lambda: theirs["x_T"], order=config["order"], variant=config["variant"])
    else:
        found = run(dpm_solver, model, chain, lambda: theirs["x_T"])
    # theirs corrects x after it was evaluated; what ours yields is the prediction, but at the end
    worst = relative_error(found[-1].x_t, theirs["x"][-1])
    if name.startswith("dpmpp2m"):
        worst = max(relative_error(moment.x_t, x) for moment, x in zip(found, theirs["x"]))
    estimates = max(relative_error(moment.x0_hat, x0_hat) for moment, x0_hat in zip(found, theirs["x0_hat"]))
    print(f"{name}: x {worst:.1e}, x0_hat {estimates:.1e}")
    assert worst < 5e-5 and estimates < 5e-5


def test_diffusers_numbers_of_the_sde_form():
    name = "diffusers_sde_dpmpp2m_linear_linspace_6_v"
    theirs, config = arrays(name), VECTORS[name]["config"]
    schedule = NoiseSchedule.named(config["schedule"], 1000)
    chain = steps(sorted(theirs["timesteps"].tolist()), schedule)
    denoiser, y = velocity_denoiser("new_order", config["schedule"]), theirs["y"]
    model = steered(labelled(denoiser, None), classified(sharp_classifier("attention", config["schedule"]), y, config["scale"]))
    drawn = iter([theirs["x_T"], *theirs["noise"]])
    found = run(dpm_solver_sde, model, chain, lambda: next(drawn))
    worst = max(relative_error(moment.x_t, x) for moment, x in zip(found, theirs["x"]))
    print(f"{name}: x {worst:.1e}")
    assert worst < 5e-5 and len(list(drawn)) == 1  # at the last step none is drawn


LINEAR = NoiseSchedule.named("linear", 1000)
SHAPE = (1, 2, 2)
MIXTURE = Mixture(torch.tensor([-0.7, 0.2, 0.8]).view(3, 1, 1, 1) * torch.tensor([[1.0, -0.5], [0.3, 1.0]]), 0.25, LINEAR,
                  [0.5, 0.2, 0.3])


def exact(scale: float = 0.0) -> Model:
    """The mixture's own x0_hat at any alpha_bar, float64; the gradient of scale * log p(component 2 | x_t) beside it."""
    def model(x_t: Tensor, step: Step) -> Prediction:
        signal, v = step.alpha_bar ** 0.5, step.alpha_bar * MIXTURE.std ** 2 + 1 - step.alpha_bar
        away = (x_t[:, None] - signal * MIXTURE.means).square().flatten(2).sum(dim=2)
        expected = torch.einsum("bk,kchw->bchw", (MIXTURE.log_weights - away / (2 * v)).softmax(dim=1), MIXTURE.means)
        x0_hat = expected + signal * MIXTURE.std ** 2 / v * (x_t - signal * expected)
        return Prediction(x0_hat, 0.0, scale * signal * (MIXTURE.means[2] - expected) / v if scale else None)
    return model


def solved(sampler: Any, chain: list[Step], scale: float = 0.0, **knobs: Any) -> Tensor:
    x_T = normal_noise((64, *SHAPE))().double()
    return last(list(sampler(exact(scale), x_T, chain, lambda: None, **knobs)))


def slope(sampler: Any, scale: float, **knobs: Any) -> float:
    """Of log error over log steps, at t = 0's noise."""
    truth = solved(unipc, steps("logsnr1281", LINEAR, fractional=True)[:-1], scale, order=3)
    counts = [40, 57, 80, 113, 160]
    errors = [(solved(sampler, steps(f"logsnr{N + 1}", LINEAR, fractional=True)[:-1], scale, **knobs) - truth).abs().mean()
              for N in counts]
    print(sampler.__name__, knobs, scale, [f"{error:.1e}" for error in errors])
    return -np.polyfit(np.log(counts), np.log([float(error) for error in errors]), 1)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("sampler, knobs, least, most", [
    (ddim, {}, 0.9, 1.1), (dpm_solver, {}, 1.8, 2.5), (unipc, {"variant": "bh1"}, 2.7, 3.5),
    (unipc, {"variant": "bh2"}, 2.7, 3.5), (unipc, {"order": 3}, 2.3, 5)])  # its first steps are of lower order
def test_errors_fall_as_the_order_says(sampler: Any, knobs: dict[str, Any], least: float, most: float, scale: float):
    found = slope(sampler, scale, **knobs)
    print(f"slope {found:.2f}")
    assert least < found < most


def test_whole_timesteps_cost_little_and_grids_even_in_t_cost_much():
    """The end of the chain at t = 0's noise, against the ODE's, of 20 evaluations."""
    truth = solved(unipc, steps("logsnr1281", LINEAR, fractional=True)[:-1], 1.0, order=3)

    def error(sampler: Any, spec: str, fractional: bool) -> float:
        return float((solved(sampler, steps(spec, LINEAR, fractional)[:-1], 1.0) - truth).abs().mean())

    for sampler in (dpm_solver, unipc):
        exactly, rounded = error(sampler, "logsnr21", True), error(sampler, "logsnr21", False)
        print(sampler.__name__, exactly, rounded, error(sampler, "uniform21", True))
        assert rounded < 1.5 * exactly and error(sampler, "uniform21", True) > 3 * exactly
    assert error(ddim, "logsnr21", True) > 4 * error(dpm_solver, "logsnr21", True)


def test_one_step_of_each_is_ddims():
    """Of first order they are DDIM, and the SDE form DDIM with its own sigma."""
    x_T, step = normal_noise((5, *SHAPE))().double(), steps("logsnr8", LINEAR)[3]
    for sampler in (dpm_solver, unipc):
        found, = sampler(exact(2.0), x_T, [step], lambda: None)
        expected, = ddim(exact(2.0), x_T, [step], lambda: None)
        assert relative_error(found.x_t, expected.x_t) < 1e-12
    drawn = torch.ones_like(x_T)
    found, = dpm_solver_sde(exact(2.0), x_T, [step], lambda: drawn)
    sigma = ((1 - step.alpha_bar_prev) * -math.expm1(-2 * step.h)) ** 0.5
    eta = sigma / ((1 - step.alpha_bar_prev) / (1 - step.alpha_bar) * (1 - step.alpha_bar / step.alpha_bar_prev)) ** 0.5
    expected, = ddim(exact(2.0), x_T, [step], lambda: drawn, eta=eta)
    assert relative_error(found.x_t, expected.x_t) < 1e-12 and eta == pytest.approx(1)


def test_the_sde_form_draws_the_distribution():
    """Of a Gaussian: mean and variance of 4,096 numbers, within their standard errors."""
    single = Mixture(torch.tensor([[[[0.3]]]]), 0.5, LINEAR)

    def model(x_t: Tensor, step: Step) -> Prediction:
        signal, v = step.alpha_bar ** 0.5, step.alpha_bar * 0.25 + 1 - step.alpha_bar
        return Prediction(0.3 + signal * 0.25 / v * (x_t - signal * 0.3), 0.0)

    assert single.std == 0.5
    x_0 = last(run(dpm_solver_sde, model, steps("logsnr50", LINEAR), normal_noise((4096, 1, 1, 1))))
    assert abs(x_0.mean() - 0.3) < 3 * 0.5 / 64 and abs(x_0.std() - 0.5) < 3 * 0.5 / 128 ** 0.5 / 8


@pytest.mark.parametrize("sampler", [name for name, entry in SAMPLERS.items() if entry.memory])
@pytest.mark.parametrize("predicts", ["eps", "velocity", "x_0"])
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_batch_of_n_equals_n_singles_by_whatever_network(sampler: str, predicts: str, variance: str):
    denoiser = tiny_denoiser(variance=variance, **({} if variance == "learned_range" else {"out_channels": 1}))
    denoiser, classifier, y = replace(denoiser, predicts=predicts), tiny_classifier(), torch.tensor([0, 1, 2])
    solver = SAMPLERS[sampler].load()

    def drawn(which: list[int]) -> Tensor:
        own = [normal_noise((1, 1, 8, 8), seed) for seed in which]
        model = thresholded(adm(denoiser, classified(classifier, y[which], 3.0), clipped=False), dynamic())
        return last(run(solver, model, steps("logsnr6", denoiser.schedule), lambda: torch.cat([noise() for noise in own])))

    assert relative_error(drawn([0, 1, 2]), torch.cat([drawn([i]) for i in range(3)])) < 1e-5


def test_a_solver_remembers_what_was_guided_and_thresholded():
    """Its second step extrapolates from the first one's x0_hat as the model has it."""
    chain, x_T = steps("logsnr12", LINEAR)[:2], normal_noise((5, *SHAPE))().double()
    model = thresholded(exact(50.0), dynamic())
    first, second = islice(dpm_solver(model, x_T, steps("logsnr12", LINEAR), lambda: None), 2)
    assert first.x0_hat.abs().max() <= 1
    D = second.x0_hat + chain[1].h / (2 * chain[0].h) * (second.x0_hat - first.x0_hat)
    shrunk = ((1 - chain[1].alpha_bar_prev) / (1 - chain[1].alpha_bar)) ** 0.5
    assert relative_error(second.x_t, shrunk * first.x_t - chain[1].alpha_bar_prev ** 0.5 * math.expm1(-chain[1].h)
                          * D) < 1e-12


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("r", [[-1.0, 1.0], [-0.7, -1.9, 1.0], [-0.5, -1.5]])
def test_unipcs_weights_integrate_polynomials_exactly(variant: str, r: list[float]):
    """An x0_hat that is a polynomial in lambda of degree len(r), 0 at the step's start, gives the integral of e^(l - h) times
    it."""
    h = 0.6
    B = math.expm1(-h) if variant == "bh2" else -h
    rho = weights(h, r, B)
    for n in range(1, len(r) + 1):
        grid = np.linspace(0, 1, 20001)
        values = np.exp(h * (grid - 1)) * grid ** n  # exp(lambda) f(lambda), to the step's end
        integral = (values[1:] + values[:-1]).mean() / 2 * h
        found = -B * sum(rho_k / r_k * r_k ** n for rho_k, r_k in zip(rho, r))
        assert found == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("sampler, knobs, count, low", [
    (dpm_solver, {}, 10, True), (dpm_solver, {}, 11, False), (unipc, {"order": 3}, 15, True), (dpm_solver_sde, {}, 8, False)])
def test_the_order_towards_t_0_is_as_in_their_programs(sampler: Any, knobs: dict[str, Any], count: int, low: bool):
    """The step to clean is one more, as their denoise_to_zero: those before it are what a chain without it takes."""
    chain = steps(f"logsnr{count}", LINEAR)
    x_T, noise = normal_noise((8, *SHAPE))().double(), torch.zeros(8, *SHAPE)
    whole, without = (list(sampler(exact(2.0), x_T, some, lambda: noise, **knobs)) for some in (chain, chain[:-1]))
    assert all(torch.equal(one.x_t, other.x_t) for one, other in zip(whole, without))
    assert relative_error(whole[-1].x_t, exact(2.0)(whole[-2].x_t, chain[-1]).x0_hat) < 1e-2  # guided, beside
    x_t, step = whole[-3].x_t, chain[-2]
    first, = ddim(exact(2.0), x_t, [step], lambda: None)
    assert (relative_error(whole[-2].x_t, first.x_t) < 1e-9) == (low and sampler is dpm_solver)
