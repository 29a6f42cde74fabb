import json
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_sample.steps import kept_timesteps, nearest_steps, steps, unreached_noise
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.commands import run


def cosine(T: int) -> NoiseSchedule:
    return NoiseSchedule.named("cosine", T)


def test_fractional_stride_keeps_both_ends_and_whole_stride_starts_at_0():
    assert kept_timesteps("4", cosine(10)) == [0, 3, 6, 9]
    assert kept_timesteps("ddim5", cosine(10)) == [0, 2, 4, 6, 8]
    assert kept_timesteps("10", cosine(10)) == list(range(10))
    assert kept_timesteps("1", cosine(10)) == [0]
    assert kept_timesteps("1,0,2", cosine(10)) == [0, 7, 9]  # sections of 4, 3 and 3


@pytest.mark.parametrize("T", [1, 7, 24, 60, 250, 1000])
def test_nearest_steps_can_be_made(T):
    assert len(kept_timesteps(nearest_steps("250", cosine(T)), cosine(T))) == min(250, T)
    assert len(kept_timesteps(nearest_steps("ddim25", cosine(T)), cosine(T))) == {
        1: 1, 7: 7, 24: 24, 60: 20, 250: 25, 1000: 25}[T]
    for grid in ("logsnr15", "uniform20", "quadratic300"):
        assert len(kept_timesteps(nearest_steps(grid, cosine(T)), cosine(T))) in (T - 1, T, 15, 20, 300)


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
        kept_timesteps(spec, cosine(10))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("T", [21, 30, 34, 37, 50, 100, 250, 1000, 4000])
def test_steps_that_never_reach_the_noise_are_doubted_and_usual_ones_are_not(name: str, T: int):
    schedule = NoiseSchedule.named(name, T)
    for spec in ("1", "ddim1", "10,10,0", [0], [0, T // 4, T // 2]):
        if T >= 37 or "," not in spec:  # of fewer, linear's x_t is all but noise at two thirds
            assert "and sampling, which starts from pure noise" in str(unreached_noise(spec, schedule))
    for spec in (*(nearest_steps(usual, schedule) for usual in ("250", "ddim25", "ddim10", "logsnr15", "quadratic15")), "2",
                 "0,0,2", [T - 1]):
        assert unreached_noise(spec, schedule) is None


def test_one_timestep_is_all_that_there_is():
    assert unreached_noise("1", NoiseSchedule.named("cosine", 1)) is None


@pytest.mark.parametrize("arguments, told", [
    ("--steps 1", "Warning: --steps 1 keeps no t above 0 of 0 to 49: x_t is 100% image there, and sampling, which starts from "
                  "pure noise, would take noise for it; try --steps 50."),
    ("--sampler ddim --steps ddim1", "try --steps ddim25."), ("--steps 10,10,0", "keeps no t above 33 of 0 to 49: x_t is 48%"),
    ("--steps 5", None), ("--sampler ddim --steps ddim25", None), ("--sampler ddim --steps 5 --eta 1", None),
    ("--sampler ddim --steps 5", "Warning: --steps 5 begins at t = 49, where x_t tells nothing of the image, and without fresh "
                                 "noise what is made up there stays; try --steps ddim25."),
    ("--sampler unipc --steps 5", "try --steps logsnr20."), ("--sampler dpm++sde --steps 5", None),
    ("--sampler unipc --steps uniform5", None)])
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


@pytest.mark.parametrize("name, noisiest", [("linear", 999), ("cosine", 995)])
@pytest.mark.parametrize("grid, of", [("uniform", lambda t, alpha_bar: t), ("quadratic", lambda t, alpha_bar: np.sqrt(t + 1)),
                                      ("logsnr", lambda t, alpha_bar: np.log(alpha_bar / (1 - alpha_bar)))])
def test_grids_are_even_in_what_they_are_called_after(grid: str, of, name: str, noisiest: int):
    schedule = NoiseSchedule.named(name, 1000)
    exactly = np.array(kept_timesteps(f"{grid}15", schedule, fractional=True))
    assert len(exactly) == 15 and exactly[0] == 0 and exactly[-1] == noisiest
    apart = np.diff(of(exactly, schedule.alpha_bar_at(exactly)))
    assert np.allclose(apart, apart.mean(), rtol=1e-6)
    whole = kept_timesteps(f"{grid}15", schedule)
    assert all(type(t) is int for t in whole) and np.abs(np.array(whole) - exactly).max() <= 0.5
    half = np.log(schedule.alpha_bar / (1 - schedule.alpha_bar)) / 2
    assert half[noisiest] >= -5.1 and (noisiest == 999 or half[noisiest + 1] < -5.1)


def test_timesteps_nearest_to_the_same_go_to_the_next_ones():
    schedule = NoiseSchedule.named("linear", 1000)
    for grid in ("logsnr", "quadratic", "uniform"):
        for count in (1, 2, 50, 250, 999, 1000):
            kept = kept_timesteps(f"{grid}{count}", schedule)
            assert len(kept) == count and kept == sorted(set(kept)) and kept[-1] == 999 and (count == 1 or kept[0] == 0)
    assert kept_timesteps("logsnr200", schedule)[:8] == list(range(8))  # of which 4 would be t = 0 and 1


def test_a_step_at_fractional_t_has_the_alpha_bar_of_there():
    schedule = NoiseSchedule.named("linear", 1000)
    for step in steps("logsnr7", schedule, fractional=True):
        low = min(int(step.t), 998)
        between = (step.t - low) * np.log(schedule.alpha_bar[low + 1]) + (1 - step.t + low) * np.log(schedule.alpha_bar[low])
        assert np.log(step.alpha_bar) == pytest.approx(between, rel=1e-12)
        signal, noise = schedule.at(torch.tensor([step.t]))  # what networks predict is taken apart by the same numbers
        assert signal.item() == pytest.approx(step.alpha_bar ** 0.5, rel=3e-6)
        assert noise.item() == pytest.approx((1 - step.alpha_bar) ** 0.5, rel=3e-6)
    assert torch.allclose(schedule.at(torch.tensor([7.25], dtype=torch.float64))[0], schedule.at(torch.tensor([7.25]))[0])
    t = torch.arange(1000)
    for whole, exactly in zip(schedule.at(t), schedule.at(t.float())):
        assert torch.allclose(whole, exactly, rtol=1e-5)


@pytest.mark.parametrize("spec, fractional, message", [
    ("logsnr1001", False, "steps 'logsnr1001' cannot be made: of 1000 timesteps 1000 are not all but noise, so 1 to 1000"),
    ("uniform0", False, "1 to 1000 can be kept"), ("logsnr", False, "or a grid's name and a number"),
    ("logsnr-5", False, "be read"), ([1, 5], True, "fractional t are for"),
    ("250", True, "fractional t are for grids, and steps '250' are none; write logsnr15")])
def test_grids_that_cannot_be_made_say_what_can(spec, fractional: bool, message: str):
    with pytest.raises(UserError, match=message):
        kept_timesteps(spec, NoiseSchedule.named("linear", 1000), fractional)


def test_whole_or_fractional_samples_of_one_grid_are_near(denoiser_folder: Path):
    """By the command, of a network that takes both; the manifest says which."""
    command = ["--model", denoiser_folder, "--num-samples", 2, "--sampler", "unipc", "--steps", "logsnr6", "--no-check"]
    for out, more in (("whole", []), ("between", ["--fractional-t"])):
        assert run(*command, *more, "--out", out).exit_code == 0
    told = [json.loads(Path(out, "manifest.json").read_text())["request"]["fractional_t"] for out in ("whole", "between")]
    assert told == [False, True]
    whole, between = (np.load(f"{out}/samples.npz")["arr_0"].astype(float) for out in ("whole", "between"))
    assert 0 < np.abs(whole - between).mean() < 30
    result = run(*command, "--fractional-t", "--out", "whole")
    assert result.exit_code == 1 and "fractional_t False there, True now" in result.output
    refused = run("--model", denoiser_folder, "--fractional-t", "--no-check")
    assert refused.exit_code == 1 and "leave out --fractional-t" in refused.output


def test_fractional_grids_may_be_finer_than_the_schedule(denoiser_folder: Path):
    assert len(kept_timesteps("logsnr2000", NoiseSchedule.named("linear", 1000), fractional=True)) == 2000
    command = ["--model", denoiser_folder, "--sampler", "dpm++", "--steps", "logsnr70", "--fractional-t", "--dry-run"]
    assert run(*command).exit_code == 0
    with pytest.raises(UserError, match="so 1 to 1 can be kept"):
        kept_timesteps("logsnr2", cosine(1), fractional=True)


@pytest.mark.parametrize("arguments, words", [
    (["--sampler", "unipc", "--order", 3, "--steps", "logsnr2"],
     "unipc of order 3 needs 3 steps, and of --steps there are 2; take more, or --order 2."),
    (["--sampler", "unipc", "--steps", "logsnr1"], "unipc of order 2 needs 2 steps, and of --steps there is 1; take more."),
    (["--sampler", "unipc", "--order", 4], "4 is not in the range 2<=x<=3"),
    (["--order", 3], "order belongs to --sampler unipc"),
    (["--sampler", "dpm++", "--steps", "logsnr60"], "of 50 timesteps 49 are not all but noise, so 1 to 49 can be kept"),
    (["--sampler", "dpm++", "--recur", 2], "--recur changes what dpm++ remembers"),
    (["--sampler", "dpm++", "--guide", "colour:0.5"], "colour:0.5, by push, changes what dpm++ remembers of the steps before; "
     "give --sampler ddim or ddpm, or scale= in its stead."),
    (["--sampler", "dpm++", "--particles", 2], "dpm++ is sampled without one; give --sampler ddpm")])
def test_what_solvers_cannot_do_is_refused(denoiser_folder: Path, arguments: list, words: str):
    result = run("--model", denoiser_folder, *arguments, "--no-check")
    assert result.exit_code in (1, 2) and words in " ".join(result.output.split())
