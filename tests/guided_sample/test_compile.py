"""--compile, half precision of GPUs, and noise drawn ahead: what changes nothing but time."""
from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import guided_sample.plan
import guided_sample.step_time
import noisy_clf.noise
from guided_sample.plan import Plan
from guided_sample.request import Request
from guided_sample.step_time import compiled
from guided_sample.unet import UNet
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.noise import SampleNoise
from tests.commands import assert_refused, invoke, run


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are traced, as for a compiler, and run as they are: seconds instead of a minute."""
    torch.compiler.reset()
    monkeypatch.setattr(guided_sample.plan, "compile_network", lambda network, device: network.compile(
        backend="eager", dynamic=False))


def test_compiled_networks_draw_the_same_images_to_a_grey_level(denoiser_folder: Path):
    command = ["--model", denoiser_folder, "--num-samples", 5, "--batch-size", 3, "--no-check"]
    assert run(*command, "--out", "eager").exit_code == 0
    result = run(*command, "--compile", "--out", "compiled")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Compiled in ") == 1 and ("which pays from " in result.stderr or "does not pay" in result.stderr)
    eager, compiled = (np.load(f"{out}/samples.npz")["arr_0"].astype(int) for out in ("eager", "compiled"))
    assert np.abs(eager - compiled).max() <= 1  # the last batch, of another size, runs eagerly
    told = [json.loads(Path(out, "manifest.json").read_text())["last_run"].get("compiled") for out in ("eager", "compiled")]
    assert told == [None, True]


def test_the_networks_alone_are_compiled(denoiser_folder: Path):
    plan = Plan.of(Request(model=str(denoiser_folder)), "cpu", compile=True)
    plan.started
    assert plan.denoiser.network._compiled_call_impl is not None and plan.classifier.network._compiled_call_impl is not None
    assert plan.classifier._compiled_call_impl is None
    eager = Plan.of(Request(model=str(denoiser_folder)), "cpu")
    eager.started
    assert eager.denoiser.network._compiled_call_impl is None


def test_nothing_is_compiled_after_it_was_told(denoiser_folder: Path, traced: None):
    plan = Plan.of(Request(model=str(denoiser_folder), scale_every="2"), "cpu", compile=True)
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    assert "Compiled in " in compiled(plan, 3)
    told = graphs["unique_graphs"]
    for indices in (range(3), range(3, 6), range(6, 8)):  # steps with and without the classifier, its log p, fewer samples
        plan.draw(indices)
    assert before < told == graphs["unique_graphs"]


def test_what_fits_is_compiled(denoiser_folder: Path, traced: None, monkeypatch: pytest.MonkeyPatch):
    forward, sizes = UNet.forward, []

    def tight(network: UNet, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if len(x_t) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(network, x_t, t, y)

    monkeypatch.setattr(UNet, "forward", tight)
    monkeypatch.setattr(Plan, "eager", lambda plan: sizes.append("eager") or nullcontext())
    command = ["--model", denoiser_folder, "--num-samples", 8, "--batch-size", 4, "--no-check", "--compile", "--out", "out"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "a step of 2 images takes" in result.stderr and "A batch of 4 does not fit" in result.stderr
    assert len(sizes) == 4  # batches' log p alone: their steps are compiled ones


def test_a_compiler_that_fails_is_told(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch):
    import torch._inductor.config as config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path("empty").absolute()))
    monkeypatch.setattr(config.cpp, "cxx", (None, "false"))
    torch.compiler.reset()
    result = run("--model", denoiser_folder, "--compile", "--no-check", "--out", "out")
    assert_refused(result, "torch cannot compile the networks here (InvalidCxxCompiler: No working C++ compiler found")
    torch.compiler.reset()


def test_training_without_a_compiler_is_refused_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler -march=native")
    assert_refused(invoke(train_noisy_clf, "--compile", "--device=cpu", "--out=run"),
                   "--compile needs a C++ compiler, and there is none (no-such-compiler);")


def test_without_a_compiler_it_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_refused(run("--model", "digits", "--compile", "--out", "out"),
                   "--compile needs a C++ compiler, and there is none (no-such-compiler); install one, name one by CXX, or")
    assert not Path("out").exists()


def test_fp16_on_a_cpu_is_refused():
    assert_refused(run("--model", "digits", "--precision", "fp16", "--device", "cpu", "--out", "out"),
                   "fp16 is for GPUs, and the networks would run on the CPU; give --precision bf16 or float32, or --device")
    assert not Path("out").exists()


@pytest.mark.parametrize("indices", [[0], [3, 1, 4], range(9)])
def test_noise_drawn_ahead_is_the_samples_own(indices, monkeypatch: pytest.MonkeyPatch):
    """As a GPU's is drawn, here into ordinary memory."""
    expected, noise = (SampleNoise(5, indices, (2, 3, 3), torch.device("cpu")) for _ in range(2))
    noise.device = Elsewhere()
    moved = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda draw, where, **how: draw if isinstance(where, Elsewhere) else
                        moved(draw, where))
    monkeypatch.setattr(noisy_clf.noise, "fill", slowly)
    for _ in range(4):
        assert torch.equal(noise(), expected())


class Elsewhere:
    """A device that is no CPU."""

    type = "elsewhere"


def slowly(streams, rows) -> None:
    time.sleep(0.02)
    for stream, row in zip(streams, rows):
        stream.standard_normal(dtype=np.float32, out=row)


def test_from_how_many_images_on_it_pays(denoiser_folder: Path, traced: None, monkeypatch: pytest.MonkeyPatch):
    """A step of 4 images takes 1 s in place of 3, and 5 of these steps an image: 100 s of compiling pay from 40 images on."""
    plan = Plan.of(Request(model=str(denoiser_folder)), "cpu", compile=True)
    seconds, clock = iter([3.0, 1.0]), iter([0.0, 104.0])
    monkeypatch.setattr(guided_sample.step_time, "step_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(guided_sample.step_time, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert compiled(plan, 4) == "Compiled in 100 s: a step of 4 images takes 1e+03 ms, where it took 3e+03, which pays from " \
                                "40 images on."
