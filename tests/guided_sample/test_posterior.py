import math

import numpy as np
import pytest
import torch

from guided_sample.posterior import learned_log_variance, posterior_mean, reverse_variance
from guided_sample.steps import step_table, steps
from guided_sample.training.denoiser_task import steps_of
from noisy_clf.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.named("cosine", 100)


def test_posterior_is_bayes_rule_for_gaussians():
    """q(x_prev | x_t, x_0) is N(x_prev; sqrt(a_prev) x_0, 1 - a_prev) N(x_t; sqrt(1 - beta) x_prev, beta), normalised."""
    for step in steps([3, 30, 70, 99], SCHEDULE)[:-1]:
        prior, likelihood = 1 / (1 - step.alpha_bar_prev), (1 - step.beta) / step.beta
        assert step.beta_tilde == pytest.approx(1 / (prior + likelihood), rel=1e-12)
        x_t, x_0 = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.8, dtype=torch.float64)
        weighted = prior * math.sqrt(step.alpha_bar_prev) * x_0 + likelihood * x_t / math.sqrt(1 - step.beta)
        assert posterior_mean(step, x_t, x_0).item() == pytest.approx((weighted * step.beta_tilde).item(), rel=1e-12)


def test_steps_of_a_kept_chain_multiply_to_the_schedule():
    table = step_table(SCHEDULE, [3, 30, 70, 99])
    np.testing.assert_allclose(np.cumprod(1 - table.beta), SCHEDULE.alpha_bar[[3, 30, 70, 99]], rtol=1e-10)
    assert [(step.t, step.t_prev) for step in steps([3, 30, 70, 99], SCHEDULE)] == [(99, 70), (70, 30), (30, 3), (3, -1)]


def test_last_step_is_x_0_itself_with_the_clipped_variance_of_the_step_before():
    *_, before, end = steps([3, 30, 70, 99], SCHEDULE)
    assert (end.alpha_bar_prev, end.mean_x0, end.mean_xt, end.beta_tilde) == (1, pytest.approx(1, rel=1e-12), 0, 0)
    assert end.beta_tilde_clipped == before.beta_tilde == before.beta_tilde_clipped


def test_a_batch_of_steps_reads_the_table():
    batch = steps_of(SCHEDULE)(torch.tensor([0, 57]))
    assert batch.beta.shape == (2, 1, 1, 1) and batch.beta.dtype == torch.float32
    assert batch.beta.flatten().tolist() == pytest.approx(SCHEDULE.betas[[0, 57]].tolist(), rel=1e-6)


def test_kinds_of_variance():
    *_, step, end = steps([3, 30, 70, 99], SCHEDULE)
    v = torch.tensor([-1.0, 0.0, 1.0])
    assert reverse_variance(step, "fixed_small", None) == step.beta_tilde
    assert reverse_variance(step, "fixed_large", None) == step.beta
    assert reverse_variance(end, "fixed_small", None) == 0
    assert reverse_variance(end, "fixed_large", None) == step.beta_tilde
    torch.testing.assert_close(reverse_variance(step, "learned", v), v.exp())
    between = [step.beta_tilde, math.sqrt(step.beta_tilde * step.beta), step.beta]  # of log-variances, not of variances
    torch.testing.assert_close(reverse_variance(step, "learned_range", v), torch.tensor(between))
    with pytest.raises(AssertionError, match="learned_range needs a network that predicts it"):
        learned_log_variance(step, "learned_range", None)
