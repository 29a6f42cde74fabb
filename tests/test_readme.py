"""What the README shows works as it stands there."""
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from guided_sample.cli.eval_ddpm import eval_ddpm
from guided_sample.cli.eval_samples import eval_samples
from guided_sample.cli.make_reference import make_reference
from guided_sample.cli.sample import guided_sample
from guided_sample.cli.sweep import guided_sweep
from guided_sample.cli.train_ddpm import train_ddpm
from guided_sample.experiments import read_experiment
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.cli.evaluate import eval_noisy_clf
from noisy_clf.cli.evaluate_encoder import eval_noisy_encoder
from noisy_clf.cli.train_encoder import train_noisy_encoder
from noisy_clf.checkpoints.settings import read_settings

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = {"guided-sample": guided_sample, "train-ddpm": train_ddpm, "train-noisy-clf": train_noisy_clf,
            "eval-noisy-clf": eval_noisy_clf, "eval-samples": eval_samples, "make-reference": make_reference,
            "guided-sweep": guided_sweep, "eval-ddpm": eval_ddpm, "train-noisy-encoder": train_noisy_encoder,
            "eval-noisy-encoder": eval_noisy_encoder}
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
LINES = [line for line in re.split(r"\n|&&", SHELL) if line.split("#")[0].strip().startswith(tuple(COMMANDS))]
LINES += re.findall(rf"`((?:{'|'.join(COMMANDS)}) [^`\n]+)`", README)


def test_its_first_command_installs_and_runs_and_its_second_tests():
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    assert first.startswith("pip install . && guided-sample --model digits") and second == "pip install '.[test]' && pytest"


def test_nothing_in_it_waits_to_be_filled_in():
    assert re.findall(r"^[A-Z_]{5,}$|TODO|FIXME", README, re.MULTILINE) == []


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_is_understood(line):
    name, *arguments = shlex.split(line, comments=True)
    try:
        COMMANDS[name].make_context(name, arguments)
    except click.exceptions.Exit as ended:  # --list-models, and that is all
        assert ended.exit_code == 0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_settings_it_shows_are_understood():
    block = next(block for block in blocks("toml") if "attention_order" in block)
    Path("model.toml").write_text(block, encoding="utf-8")
    assert read_settings("model.toml", None, "denoiser")["attention_order"] == "legacy"


def test_the_guides_and_the_request_it_shows_draw_images():
    guides, request = (next(block for block in blocks(language) if word in block)
                       for language, word in (("python", "# my_guides.py"), ("toml", "my_guides.py")))
    Path("my_guides.py").write_text(guides, encoding="utf-8")
    Path("request.toml").write_text(request, encoding="utf-8")
    result = CliRunner().invoke(guided_sample, "--request request.toml --num-samples 2 --steps ddim5 --out out".split())
    assert result.exit_code == 0, result.output
    line, = [line for line in LINES if "darker,scale" in line]
    result = CliRunner().invoke(guided_sample, [*shlex.split(line)[1:], *"--num-samples 2 --steps 5 --out both".split()])
    assert result.exit_code == 0, result.output


def test_the_request_of_wishes_and_the_experiment_of_kinds_it_shows_are_drawn():
    Path("request.toml").write_text(next(block for block in blocks("toml") if "eight" in block), encoding="utf-8")
    result = CliRunner().invoke(guided_sample, "--request request.toml --steps 4 --no-check --out out".split())
    assert result.exit_code == 0, result.output
    Path("kinds.toml").write_text(next(block for block in blocks("toml") if "[[kind]]" in block), encoding="utf-8")
    assert [cell.kind for cell in read_experiment("kinds.toml").cells()[0]] == ["classifier"] * 3 + ["CFG"] * 3


def test_the_experiment_it_shows_is_understood():
    Path("mine.toml").write_text(next(block for block in blocks("toml") if "[sweep]" in block), encoding="utf-8")
    assert read_experiment("mine.toml").sweep["seed"] == [0, 1, 2]


def test_the_python_examples_run():
    _, plan, seam = blocks("python")
    names = {}
    exec(plan, names)
    assert names["batch"].images.shape == (4, 16, 16, 1) and len(plan.strip().splitlines()) <= 6
    exec(seam, names)
    assert names["moment"].t == -1 and names["moment"].x_t.shape == (3, 1, 16, 16)


def test_every_picture_and_file_it_names_is_there():
    root = Path(__file__).parent.parent
    named = re.findall(r"\]\(([\w/.]+)\)", README)
    named += re.findall(r"`((?:scripts|tests|noisy_clf|guided_sample)/[\w/.]*)`", README)
    for package, table in re.findall(r"^\| `(\w+/)` (.*?)\n\n", README, re.DOTALL | re.MULTILINE):
        named += [f"{package}{path}" for path in re.findall(r"`([\w/]+(?:/|\.py))`", table)]
    assert len(named) > 40 and [path for path in named if not (root / path).exists()] == []
