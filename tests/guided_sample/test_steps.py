import pytest

from guided_sample.steps import kept_timesteps, nearest_steps
from noisy_clf.errors import UserError


def test_fractional_stride_keeps_both_ends_and_whole_stride_starts_at_0():
    assert kept_timesteps("4", 10) == [0, 3, 6, 9]
    assert kept_timesteps("ddim5", 10) == [0, 2, 4, 6, 8]
    assert kept_timesteps("10", 10) == list(range(10))
    assert kept_timesteps("1", 10) == [0]
    assert kept_timesteps("1,0,2", 10) == [0, 7, 9]  # sections of 4, 3 and 3


@pytest.mark.parametrize("T", [1, 7, 24, 60, 250, 1000])
def test_nearest_steps_can_be_made(T):
    assert len(kept_timesteps(nearest_steps("250", T), T)) == min(250, T)
    assert len(kept_timesteps(nearest_steps("ddim25", T), T)) == {1: 1, 7: 7, 24: 24, 60: 20, 250: 25, 1000: 25}[T]


@pytest.mark.parametrize("spec, message", [
    ("11", "steps '11' cannot be made: there are 10 timesteps, so 1 to 10 can be kept"),
    ("0", "there are 10 timesteps, so 1 to 10"),
    ("2,6", "section 2 has 5 timesteps, so 1 to 5"),
    ("0,0", "keep no timestep"),
    ("ddim6", "cannot be made from 10 timesteps at a whole stride; the nearest that can: ddim2, ddim3, ddim4, ddim5"),
    ("ddim2,3", "whole stride"),
    ("fast", "steps 'fast' cannot be read; write a number"),
    ("-5", "cannot be read"),
    ("²", "cannot be read"),
    ("", "cannot be read"),
])
def test_steps_that_cannot_be_made_say_what_can(spec, message):
    with pytest.raises(UserError, match=message):
        kept_timesteps(spec, 10)
