from pathlib import Path

import pytest

from guided_sample.steps import kept_timesteps, nearest_steps, unreached_noise
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.commands import run


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


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("T", [21, 30, 34, 37, 50, 100, 250, 1000, 4000])
def test_steps_that_never_reach_the_noise_are_doubted_and_usual_ones_are_not(name: str, T: int):
    schedule = NoiseSchedule.named(name, T)
    for spec in ("1", "ddim1", "10,10,0", [0], [0, T // 4, T // 2]):
        if T >= 37 or "," not in spec:  # of fewer, linear's x_t is all but noise at two thirds
            assert "and sampling, which starts from pure noise" in str(unreached_noise(spec, schedule))
    for spec in (nearest_steps("250", T), nearest_steps("ddim25", T), nearest_steps("ddim10", T), "2", "0,0,2", [T - 1]):
        assert unreached_noise(spec, schedule) is None


def test_one_timestep_is_all_that_there_is():
    assert unreached_noise("1", NoiseSchedule.named("cosine", 1)) is None


@pytest.mark.parametrize("arguments, told", [
    ("--steps 1", "Warning: --steps 1 keeps no t above 0 of 0 to 49: x_t is 100% image there, and sampling, which starts from "
                  "pure noise, would take noise for it; try --steps 50."),
    ("--sampler ddim --steps ddim1", "try --steps ddim25."), ("--steps 10,10,0", "keeps no t above 33 of 0 to 49: x_t is 48%"),
    ("--steps 5", None), ("--sampler ddim --steps ddim25", None)])
def test_the_command_warns_once_and_draws_all_the_same(denoiser_folder: Path, arguments: str, told: str | None):
    command = ["--model", denoiser_folder, "--num-samples", 1, "--out", "out", *arguments.split()]
    for result in (run(*command, "--dry-run"), run(*command)):
        assert result.exit_code == 0, result.output
        assert result.stderr.count("Warning: --steps") == bool(told) and (told or "") in result.stderr
        assert "Warning" not in result.stdout
    assert Path("out/grid.png").exists()


def test_a_dry_run_warns_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    result = run("--steps", "10,10,0", "--dry-run")
    assert "would be downloaded first" in result.stdout
    assert "Warning: --steps 10,10,0 keeps no t above 666 of 0 to 999: x_t is 10% image there" in result.stderr
