"""train-ddpm, and sampling from what it made."""
import json
from pathlib import Path

import numpy as np
import pytest

from guided_sample.cli.train_ddpm import train_ddpm
from tests.commands import invoke, run


TINY = ["--image-size", 8, "--channels", 32, "--channel-mult", "1", "--attention-at", "", "--iterations", 4, "--batch-size", 4,
        "--validate-every", 4, "--T", 20]


@pytest.mark.parametrize("variance, outputs", [("learned_range", 2), ("fixed_small", 1)])
def test_train_a_ddpm_then_sample_from_it(variance, outputs):
    result = invoke(train_ddpm, "--out", "ddpm", "--variance", variance, *TINY)
    assert result.exit_code == 0, result.output
    config = json.loads(Path("ddpm/best/config.json").read_text())
    assert config["variance"] == variance and config["network"]["out_channels"] == outputs
    assert config["schedule"] == {"name": "cosine", "T": 20} and config["training"]["dataset"] == "digits"
    result = run("--model", "ddpm", "--class", "none", "--steps", 3, "--num-samples", 2)
    assert result.exit_code == 0 and Path("samples/ddpm-class-none-scale-0-ddpm-3-seed-0/grid.png").exists(), result.output


def test_class_conditional_ddpm_is_sampled_by_class():
    assert invoke(train_ddpm, "--out", "ddpm", "--class-conditional", *TINY).exit_code == 0
    result = run("--model", "ddpm", "--class", "seven", "--scale", 0, "--steps", 3, "--num-samples", 2, "--out", "out")
    assert result.exit_code == 0 and np.load("out/samples.npz")["arr_1"].tolist() == [7, 7], result.output


def test_help_shows_examples():
    assert "guided-sample --class 207 --scale 10" in run("--help").output
    assert "train-ddpm --dataset digits" in invoke(train_ddpm, "--help").output
