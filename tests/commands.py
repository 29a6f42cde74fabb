"""Commands as people type them, and what a mistake may look like."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from guided_sample.cli.sample import guided_sample


def invoke(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def run(*arguments: object) -> Result:
    """guided-sample with these arguments."""
    return invoke(guided_sample, *arguments)


def assert_refused(result: Result, *words: str) -> None:
    """The command ended with status 1 or 2 and one sentence that has these words in it, not with a traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
    assert result.output.count("Error: ") == 1, result.output
    told = result.output.split("Error: ")[1].strip()
    assert told[-1] in ".?" and "\n" not in told, told
    for word in words:
        assert word in told, told


def sample(denoiser_folder: Path, *arguments: object) -> Path:
    """A run of six samples, in out/."""
    result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", *arguments)
    assert result.exit_code == 0, result.output
    return Path("out")


def contents(folder: Path) -> dict[str, Any]:
    """Everything of a run but what a clock tells; log-probabilities to 3 digits, as they vary in the last one by the batch."""
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    with np.load(folder / "samples.npz") as archive:
        arrays = {name: archive[name].tolist() for name in archive.files}
    manifest = json.loads((folder / "manifest.json").read_text())
    request = {key: value for key, value in manifest["request"].items() if key not in ("model", "classifier")}  # mere names
    return {path.name: path.read_bytes() for path in folder.glob("*.png")} | arrays | {
        "manifest": [request, manifest["digests"], manifest["configs"]],
        "lines": [line | {"log_prob": pytest.approx(line["log_prob"], abs=1e-3)} for line in lines]}
