"""Guidance that moves x0_hat: on Gaussians, where all of it is known, and beside the programs of universal guidance and TFG."""
import math

import pytest
import torch

from guided_sample.finite import NotFinite, Watch
from guided_sample.guides.classifier import log_prob
from guided_sample.guides.scales import scheduled
from guided_sample.guides.through import ascended, draws, pushed, tfg
from guided_sample.model import Guide, clip, guided, labelled, steered, thresholded
from guided_sample.recurrence import recurrent
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.errors import UserError
from noisy_clf.noise import SampleNoise
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.guidance_family import VECTORS, arrays, sharp_classifier, velocity_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error
from tests.seam import last, normal_noise, run

LINEAR = NoiseSchedule.named("linear", 1000)
STEP = {step.t: step for step in steps("10", LINEAR)}[333]
MEAN, STD = 0.25, 0.5
GAUSSIAN = Mixture(torch.full((1, 1, 2, 2), MEAN), STD, LINEAR)
TARGET = torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1, 1)
EXACT = labelled(GAUSSIAN.denoiser(), None)


def near_target(look):
    """Its gradient at x0_hat is TARGET - x0_hat."""
    return -(look.x0_hat - TARGET[:len(look.x_t)]).square().sum(dim=(1, 2, 3)) / 2


def points(seed=3):
    return torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def slope_and_x0_hat(x_t, step=STEP):
    """d x0_hat / d x_t, one number, and E[x_0 | x_t] of the Gaussian."""
    signal, _, v = (number.item() for number in GAUSSIAN.spread(torch.tensor([step.t])))
    slope = signal * STD ** 2 / v
    return slope, MEAN + slope * (x_t - signal * MEAN)


# the two parts, in closed form


def test_the_gradient_through_the_denoiser_moves_x0_hat_and_leaves_eps():
    x_t, (slope, x0_hat) = points(), slope_and_x0_hat(points())
    found = tfg(EXACT, Guide(near_target, 3.0), rho=0.5)(x_t, STEP)
    delta_t = 0.5 * 3 * slope * (TARGET - x0_hat)
    torch.testing.assert_close(found.x0_hat, x0_hat + delta_t / STEP.alpha_bar ** 0.5, rtol=1e-5, atol=1e-5)
    assert relative_error(found.eps, GAUSSIAN.eps(x_t, torch.full((3,), STEP.t))) < 1e-5
    torch.testing.assert_close(found.log_density, -1.5 * (x0_hat - TARGET).square().sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)
    assert found.gradient is None and not found.x0_hat.requires_grad and not found.eps.requires_grad


def test_the_ascent_at_x0_hat_is_iterated_where_it_has_come_to():
    x_t, (_, x0_hat) = points(), slope_and_x0_hat(points())
    found = tfg(EXACT, Guide(near_target, 2.0), mu=0.1, iterations=4)(x_t, STEP)
    torch.testing.assert_close(found.x0_hat, TARGET + (1 - 0.1 * 2) ** 4 * (x0_hat - TARGET), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_density, -(x0_hat - TARGET).square().sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler, knobs", [(ddim, {}), (ddim, {"eta": 1.0}), (ddpm, {})], ids=["ddim", "eta 1", "ddpm"])
def test_a_step_is_the_samplers_and_both_moves_as_the_algorithm_adds_them(sampler, knobs):
    """x_{t-1} = S(x_t, x0_hat) + Delta_t / sqrt(alpha_t) + sqrt(alpha_bar_{t-1}) Delta_0."""
    x_t, (slope, x0_hat) = points(), slope_and_x0_hat(points())

    def after(model):
        return next(sampler(model, x_t, [STEP], normal_noise((3, 1, 2, 2)), **knobs)).x_t

    both = tfg(EXACT, Guide(near_target), rho=0.5, mu=0.25, iterations=2)
    delta_t, delta_0 = 0.5 * slope * (TARGET - x0_hat), (1 - 0.75 ** 2) * (TARGET - x0_hat)
    expected = after(EXACT) + delta_t / (1 - STEP.beta) ** 0.5 + STEP.alpha_bar_prev ** 0.5 * delta_0
    torch.testing.assert_close(after(both), expected, rtol=1e-5, atol=1e-5)
    pushing = after(tfg(EXACT, Guide(near_target), rho=pushed(0.4)))
    torch.testing.assert_close(pushing, after(EXACT) + 0.4 * slope * (TARGET - x0_hat), rtol=1e-5, atol=1e-5)


def test_smoothing_averages_the_density_and_not_its_logarithm():
    x_t, (slope, x0_hat) = points(), slope_and_x0_hat(points())
    around = 0.8 * torch.randn(5, 3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    guide = Guide(near_target, 2.0)
    found = tfg(EXACT, guide, rho=0.5, mu=0.25, smoothing=lambda step: around)(x_t, STEP)
    off = x0_hat + around - TARGET  # [n,B,C,H,W]
    logs = -off.square().sum(dim=(2, 3, 4))
    gradient = -2 * (logs.softmax(dim=0)[:, :, None, None, None] * off).sum(dim=0)
    expected = x0_hat + 0.5 * slope * gradient / STEP.alpha_bar ** 0.5 + 0.25 * gradient
    torch.testing.assert_close(found.x0_hat, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.log_density, logs.exp().mean(dim=0).log(), rtol=1e-4, atol=1e-5)


def test_draws_have_the_steps_noise_times_sigma_and_are_each_samples_own():
    noise = SampleNoise(0, range(50), (1, 8, 8), torch.device("cpu"), stream=(7,))
    found = draws(0.3, 4, noise)(STEP)
    assert found.shape == (4, 50, 1, 8, 8)
    assert found.std().item() == pytest.approx(0.3 * (1 - STEP.alpha_bar) ** 0.5, rel=0.03)
    alone = draws(0.3, 4, SampleNoise(0, [7], (1, 8, 8), torch.device("cpu"), stream=(7,)))(STEP)
    assert torch.equal(alone[:, 0], found[:, 7])


def test_without_rho_nothing_runs_back_through_the_denoiser_and_all_run_it_once():
    denoiser, graphs = tiny_denoiser(), []
    denoiser.network.requires_grad_(False)

    def watched(x_t, step):
        found = labelled(denoiser, None)(x_t, step)
        graphs.append(found.x0_hat.requires_grad)
        return found

    x_t, step = torch.zeros(2, 1, 8, 8), steps("10", denoiser.schedule)[4]
    bright = Guide(lambda look: look.x0_hat.sum(dim=(1, 2, 3)))
    with torch.no_grad():
        tfg(watched, bright, mu=0.1, iterations=3, smoothing=lambda step: torch.zeros(2, 2, 1, 8, 8))(x_t, step)
        ascended(watched, bright, 3)(x_t, step)
        assert graphs == [False, False]
        found = tfg(watched, bright, rho=0.1, mu=0.1, iterations=3)(x_t, step)
    assert graphs == [False, False, True] and not found.variance.requires_grad


@pytest.mark.parametrize("asleep", [{}, {"rho": 0.0, "mu": lambda step: 0.0}, {"rho": torch.zeros(3)},
                                    {"rho": 1.0, "scale": 0.0}])
def test_what_is_asleep_leaves_the_model_as_it_is(asleep):
    def fails(look):
        raise AssertionError

    guide = Guide(fails, asleep.pop("scale", 1.0))
    found, plain = tfg(EXACT, guide, **asleep)(points(), STEP), EXACT(points(), STEP)
    assert torch.equal(found.x0_hat, plain.x0_hat) and found.eps is None and found.log_density is None
    assert torch.equal(ascended(EXACT, Guide(fails, 0.0), 3)(points(), STEP).x0_hat, plain.x0_hat)


def test_rho_and_mu_may_be_each_samples_own():
    x_t, each = points(), torch.tensor([0.0, 0.5, 1.0])
    for part in ("rho", "mu"):
        found = tfg(EXACT, Guide(near_target), **{part: each})(x_t, STEP)
        for i in range(3):
            alone = tfg(EXACT, Guide(near_target), **{part: each[i].item()})(x_t, STEP)
            torch.testing.assert_close(found.x0_hat[i], alone.x0_hat[i])
        with pytest.raises(UserError, match=f"the scale of {part} is shaped "):
            tfg(EXACT, Guide(near_target), **{part: each[:2]})(x_t, STEP)


# universal guidance's backward part


def test_plain_ascent_is_known_and_adams_steps_have_its_rate():
    x_t, (_, x0_hat) = points(), slope_and_x0_hat(points())
    far = Guide(lambda look: -(look.x0_hat - 5).square().sum(dim=(1, 2, 3)) / 2)
    free = ascended(EXACT, far, 3, rate=0.1, adam=False, how=lambda x0_hat: x0_hat)(x_t, STEP)
    torch.testing.assert_close(free.x0_hat, 5 + 0.9 ** 3 * (x0_hat - 5), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(free.log_density, -(x0_hat - 5).square().sum(dim=(1, 2, 3)) / 2, rtol=1e-5, atol=1e-5)
    assert free.eps is None  # it is that of the moved x0_hat
    adam = ascended(EXACT, far, 1, rate=0.1, how=lambda x0_hat: x0_hat)(x_t, STEP)
    torch.testing.assert_close(adam.x0_hat, x0_hat + 0.1, rtol=1e-5, atol=1e-5)


def test_x0_hat_is_kept_within_before_each_step_and_after_the_last():
    seen = []

    def record(look):
        seen.append(look.x0_hat.detach())
        return look.x0_hat.sum(dim=(1, 2, 3))

    found = ascended(lambda x_t, step: EXACT(x_t, step)._replace(x0_hat=torch.full_like(x_t, 3)), Guide(record), 2, rate=0.1)
    assert found(points(), STEP).x0_hat.eq(1).all() and all(x0_hat.eq(1).all() for x0_hat in seen) and len(seen) == 2


def test_each_sample_stops_by_itself_where_it_is_enough():
    there = EXACT(points(), STEP)._replace(x0_hat=torch.tensor([0.0, 0.1, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2))
    near_0 = Guide(lambda look: -look.x0_hat.square().mean(dim=(1, 2, 3)))
    found = ascended(lambda x_t, step: there, near_0, 20, rate=0.05, enough=-0.02)(points(), STEP)
    assert torch.equal(found.x0_hat[:2], there.x0_hat[:2])
    assert found.x0_hat[2].square().mean() <= 0.02 < found.x0_hat[2].add(0.05).square().mean()


def test_a_gradient_that_the_model_carries_stays_and_its_density_is_added():
    pull = Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)))
    carrying, (_, x0_hat) = steered(EXACT, pull), slope_and_x0_hat(points())
    for moving in (ascended(carrying, Guide(near_target), 1, rate=0.1, adam=False), tfg(carrying, Guide(near_target), mu=0.1)):
        found = moving(points(), STEP)
        torch.testing.assert_close(found.x0_hat, x0_hat + 0.1 * (TARGET - x0_hat), rtol=1e-5, atol=1e-5)
        assert found.gradient.eq(1).all()
        expected = points().sum(dim=(1, 2, 3)) - (x0_hat - TARGET).square().sum(dim=(1, 2, 3)) / 2
        torch.testing.assert_close(found.log_density, expected, rtol=1e-5, atol=1e-5)
        noise = (1 - STEP.alpha_bar) ** 0.5
        shift = noise + (STEP.alpha_bar ** 0.5 / noise * 0.1 * (TARGET - x0_hat) if found.eps is None else 0)
        eps = GAUSSIAN.eps(points(), torch.full((3,), STEP.t)) - shift
        torch.testing.assert_close(guided(found, points(), STEP)[1], eps.float(), rtol=1e-4, atol=1e-5)


# recurrence


def test_recurrence_keeps_the_marginals_of_an_exact_model():
    N, chain, passes = 10_000, steps("500", LINEAR), []
    model = labelled(Mixture(torch.full((1, 1, 1, 1), MEAN), STD, LINEAR).denoiser(), None)

    def counted(x_t, step):
        passes.append(step.t)
        return model(x_t, step)

    moments = run(recurrent(ddim, lambda step: 3 if step.t < 500 else 1), counted, chain, normal_noise((N, 1, 1, 1)))
    assert [moment.t for moment in moments] == [step.t_prev for step in chain]
    assert len(passes) == sum(3 if step.t < 500 else 1 for step in chain)
    for moment in moments[99::100]:
        alpha_bar = LINEAR.alpha_bar[moment.t] if moment.t >= 0 else 1.0
        std = math.sqrt(alpha_bar * STD ** 2 + 1 - alpha_bar)
        assert moment.x_t.mean().item() == pytest.approx(math.sqrt(alpha_bar) * MEAN, abs=4 * std / math.sqrt(N) + 0.005)
        assert moment.x_t.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * N) + 0.01)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_once_is_the_sampler_itself(sampler):
    once, plain = (run(one, EXACT, steps("10", LINEAR), normal_noise((3, 1, 2, 2))) for one in (recurrent(sampler, 1), sampler))
    assert torch.equal(last(once), last(plain))


# all together


def test_a_batch_of_3_is_3_singles():
    denoiser, classifier, y = tiny_denoiser(), tiny_classifier(), torch.tensor([0, 1, 2])

    def drawn(indices):
        def density(look):
            return log_prob(classifier, look.x0_hat, torch.zeros_like(look.t), y[indices])
        noise, own = (SampleNoise(0, indices, denoiser.shape, torch.device("cpu"), stream) for stream in ((), (5,)))
        guide, plain = Guide(density, 2.0), thresholded(labelled(denoiser, None), clip)
        model = tfg(ascended(plain, guide, 2), guide, rho=0.5, mu=0.5, iterations=2, smoothing=draws(0.2, 3, own))
        return last(run(recurrent(ddpm, 2), model, steps("5", denoiser.schedule), noise))

    together = drawn([0, 1, 2])
    assert relative_error(together, torch.cat([drawn([i]) for i in range(3)])) < 1e-5


def test_a_guide_must_look_at_what_is_moved():
    blind = Guide(lambda look: look.x_t.sum(dim=(1, 2, 3)), name="mine")
    assert tfg(EXACT, blind, rho=1.0)(points(), STEP).x0_hat.isfinite().all()
    for model in (tfg(EXACT, blind, mu=1.0), ascended(EXACT, blind, 1)):
        with pytest.raises(UserError, match="mine is to move x0_hat and does not depend on it; compute it from look.x0_hat"):
            model(points(), STEP)


def test_what_moves_x0_hat_is_a_constant_for_guides_around():
    x_t, (slope, x0_hat) = points(), slope_and_x0_hat(points())
    moves = [tfg(EXACT, Guide(near_target), rho=0.5), tfg(EXACT, Guide(near_target), mu=0.5),
             ascended(EXACT, Guide(near_target), 1, rate=0.5, adam=False, how=lambda x0_hat: x0_hat)]
    for model, step in zip(moves, (0.5 * slope / STEP.alpha_bar ** 0.5, 0.5, 0.5)):
        there = x0_hat + step * (TARGET - x0_hat)
        found = steered(model, Guide(near_target))(x_t, STEP)
        torch.testing.assert_close(found.x0_hat, there, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.gradient, slope * (TARGET - there), rtol=1e-4, atol=1e-5)
        assert not any(part.requires_grad for part in found if isinstance(part, torch.Tensor))
    twice, share = tfg(moves[0], Guide(near_target), rho=0.5)(x_t, STEP), 0.5 * slope / STEP.alpha_bar ** 0.5
    torch.testing.assert_close(twice.x0_hat, TARGET + (1 - share) ** 2 * (x0_hat - TARGET), rtol=1e-5, atol=1e-5)
    assert relative_error(twice.eps, GAUSSIAN.eps(x_t, torch.full((3,), STEP.t))) < 1e-5


def infinite(look):
    return look.x0_hat.sum(dim=(1, 2, 3)) * torch.tensor([1, math.inf, 1])


def infinitely_steep(look):
    """Finite, of no finite gradient."""
    away = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    return (look.x0_hat - look.x0_hat.detach() + away).sqrt().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("density", [infinite, infinitely_steep])
@pytest.mark.parametrize("move", [lambda guide: tfg(EXACT, guide, rho=1.0), lambda guide: tfg(EXACT, guide, mu=1.0),
                                  lambda guide: ascended(EXACT, guide, 1)], ids=["rho", "mu", "ascended"])
def test_what_is_not_finite_is_watched(move, density):
    with pytest.raises(NotFinite, match=f"at t = {STEP.t} for sample 1;"):
        Watch([0, 1, 2], "it").over(move(Guide(density)))(points(), STEP)


# beside the programs


class Reference:
    """One of their runs: the arrays, the settings, their denoiser as a model, and log p(y | x0_hat) of their classifier.

    drawn  which of their noise we draw, and in this order: they renew x_t after a step's last pass, too, and use it for nothing
    """

    def __init__(self, name, drawn=()):
        self.theirs, self.config = arrays(name), VECTORS[name]["config"]
        schedule = self.config["schedule"]
        self.steps = steps(sorted(self.theirs["timesteps"].tolist()), NoiseSchedule.named(schedule, 1000))
        self.model = labelled(velocity_denoiser(self.config["net"], schedule), None)
        self.clipped = thresholded(self.model, clip)
        self.classifier = sharp_classifier(self.config["clf"], schedule, self.config.get("sharp", 10.0))
        self.draws = iter([self.theirs["x_T"], *(self.theirs["noise"][i] for i in drawn)])

    def log_p(self, look):
        return log_prob(self.classifier, look.x0_hat, torch.zeros_like(look.t), self.theirs["y"])

    def noise(self):
        return next(self.draws)

    def errors(self, sampler, model, **knobs):
        """The worst relative error of x_{t-1}, and of x0_hat where they tell it, over the steps; all noise must be drawn."""
        moments = run(sampler, model, self.steps, self.noise, **knobs)
        assert next(self.draws, None) is None
        pairs = [("x", [moment.x_t for moment in moments]), ("pred_x0", [moment.x0_hat for moment in moments])]
        return [relative_error(torch.stack(ours), self.theirs[key]) for key, ours in pairs if key in self.theirs]


def test_universal_guidance_forward_is_steering_through_the_denoiser_and_clipping():
    them = Reference("universal_forward_one_step")
    model = thresholded(steered(them.model, Guide(them.log_p, them.config["weight"])), clip)
    assert max(them.errors(ddim, model)) < 3e-5
    for x_t, step, theirs in zip((them.theirs["x_T"], them.theirs["x"][0]), them.steps, them.theirs["forward_gradient"]):
        assert relative_error(steered(them.model, Guide(them.log_p))(x_t, step).gradient, theirs) < 3e-5


def test_universal_guidance_backward_is_adam_at_x0_hat_and_recurrence():
    """Each step from where theirs begins: at t = 0 their own chain turns by 0.17 where x_T is another by 1e-6."""
    them = Reference("universal_forward_backward_recurrent", drawn=[1, 5])
    forward = thresholded(steered(them.model, Guide(them.log_p, them.config["weight"])), clip)
    model = ascended(forward, Guide(them.log_p), them.config["m"], them.config["lr"], enough=-1e-5)
    sampler, starts = recurrent(ddim, them.config["recur"]), (them.noise(), them.theirs["x"][0])
    for x_t, step, x, pred_x0 in zip(starts, them.steps, them.theirs["x"], them.theirs["pred_x0"]):
        moment, = sampler(model, x_t, [step], them.noise)
        assert max(relative_error(moment.x_t, x), relative_error(moment.x0_hat, pred_x0)) < 3e-5
    assert next(them.draws, None) is None


def test_tfgs_universal_guidance_ascends_from_the_unguided_x0_hat():
    """Which is clipped for the ascent alone: what that moves it by is added to what is not clipped."""
    them = Reference("tfg_universal_4")
    strength, m = them.config["guidance_strength"], them.config["iter_steps"] - 1
    forward = steered(them.model, Guide(them.log_p, strength))
    backward = ascended(them.clipped, Guide(them.log_p), m, strength, adam=False, how=lambda x0_hat: x0_hat)

    def both(x_t, step):
        guided_forward = forward(x_t, step)
        move = backward(x_t, step).x0_hat - guided_forward.x0_hat.clamp(-1, 1)
        return guided_forward._replace(x0_hat=guided_forward.x0_hat + move)

    assert max(them.errors(ddim, both)) < 3e-5


def test_dps_is_a_push_through_the_denoiser():
    """TFG's program divides the gradient of log p by |log p|: it is that of -log(-log p)."""
    them = Reference("tfg_dps_4", drawn=[0, 1, 2])
    model = tfg(them.model, Guide(lambda look: -(-them.log_p(look)).log()), rho=pushed(them.config["guidance_strength"]))
    assert max(them.errors(ddim, model, eta=them.config["eta"])) < 3e-5


def test_freedom_is_a_scheduled_push_and_recurrence():
    them = Reference("tfg_freedom_3", drawn=[0, 1, 2, 4, 5, 6, 8])
    rho = pushed(scheduled("alpha", them.steps, them.config["guidance_strength"]))
    sampler = recurrent(ddim, them.config["recur_steps"])
    assert max(them.errors(sampler, tfg(them.model, Guide(them.log_p), rho), eta=them.config["eta"])) < 3e-5


def test_mpgd_is_one_step_of_ascent_at_x0_hat():
    """In their program clipping leaves eps as it was."""
    them = Reference("tfg_mpgd_4")

    def clipped(x_t, step):
        found = them.model(x_t, step)
        return found._replace(x0_hat=found.x0_hat.clamp(-1, 1), eps=guided(found, x_t, step)[1])

    assert max(them.errors(ddim, tfg(clipped, Guide(them.log_p), mu=them.config["guidance_strength"]))) < 3e-5


def test_tfg_is_tfg():
    them = Reference("tfg_tfg_3", drawn=[0, 1, 2, 4, 5, 6, 8, 9])
    config = them.config
    rho, mu = (scheduled("alpha", them.steps, config[part]) for part in ("rho", "mu"))
    model = tfg(them.clipped, Guide(them.log_p), rho, mu, config["iter_steps"],
                draws(config["sigma"], config["eps_bsz"], them.noise))
    assert max(them.errors(ddim, model, eta=config["eta"])) < 3e-5
