"""Too little memory, of a device or of the machine, is told in a sentence wherever it runs out."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from torch import Tensor

import guided_sample.plan
from guided_sample.unet import UNet
from noisy_clf.cli.evaluate import eval_noisy_clf
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.errors import FriendlyCommand, UserError, out_of_memory
from noisy_clf.networks.encoder_unet import EncoderUNet
from tests.commands import assert_refused, invoke, run, sample

PETABYTES = 10 ** 15  # more than any machine can map


def more_than_there_is(*given: Any, **more: Any) -> Tensor:
    return torch.empty(PETABYTES)


def raises(error: BaseException) -> None:
    raise error


WAYS: list[Callable[[], object]] = [
    more_than_there_is, lambda: np.empty(PETABYTES), lambda: bytearray(PETABYTES * 100),
    lambda: raises(torch.OutOfMemoryError("CUDA")), lambda: raises(OSError(12, "Cannot allocate memory")),
    lambda: raises(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_which_memory_runs_out_ends_a_command_in_a_sentence(way: Callable[[], object]) -> None:
    def command(**given: Any) -> None:
        way()

    assert_refused(invoke(FriendlyCommand("plain", callback=command)),
                   "there is too little memory for this; choose a smaller model, or end other programs.")
    batches = [click.Option(["--batch-size"]), click.Option(["--microbatch"])]
    assert_refused(invoke(FriendlyCommand("batches", callback=command, params=batches)), "give a smaller --microbatch, ")
    assert_refused(invoke(FriendlyCommand("batches", callback=command, params=batches[:1])), "give a smaller --batch-size, ")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), UserError("out of memory"), ValueError("memory")])
def test_no_other_trouble_is_taken_for_it(error: Exception) -> None:
    assert not out_of_memory(error)


def test_a_batch_that_the_machine_has_no_memory_for(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(UNet, "forward", more_than_there_is)
        result = run("--model", denoiser_folder, "--num-samples", 6, "--out", "out", "--batch-size", 4, "--no-check")
        assert_refused(result, "not even one sample fits into the memory of cpu; choose a smaller model, or end other "
                               "programs: the 0 finished images stay.")
    sample(denoiser_folder)
    assert len(list(Path("out").glob("0*.png"))) == 6


def test_a_guide_of_ones_own_and_its_gradient(denoiser_folder: Path) -> None:
    Path("mine.py").write_text("import torch\n\ndef huge(look):\n    return torch.empty(10 ** 15)\n")
    result = run("--model", denoiser_folder, "--class", "none", "--guide", "mine.py:huge", "--out", "out", "--no-check")
    assert_refused(result, "not even one sample fits into the memory of cpu")


def test_a_model_that_the_machine_has_no_memory_for(denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided_sample.plan, "load", more_than_there_is)
    assert_refused(run("--model", denoiser_folder), "too little memory for this; give a smaller --batch-size, choose a smaller")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_that_do_not_fit_are_not_taken_for_damaged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    from noisy_clf.checkpoints import torch_file

    tensors = {"weight": torch.ones(3)}
    torch.save(tensors, name) if name.endswith(".pt") else save_file(tensors, name)
    monkeypatch.setattr(torch_file.torch, "load", more_than_there_is)
    monkeypatch.setattr(torch_file, "safe_open", lambda *given, **more: raises(OSError(12, "Cannot allocate memory")))
    with pytest.raises((RuntimeError, OSError), match="allocate memory"):
        torch_file.read_tensors(Path(name))


def test_training_names_a_microbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderUNet, "forward", more_than_there_is)
    result = invoke(train_noisy_clf, "--device=cpu", "--iterations=1", "--batch-size=8", "--threads=0", "--out=run")
    assert_refused(result, "cpu has too little memory for 8 images at a time; the same command goes on with fewer: "
                           "--microbatch 4.")


def test_evaluation_names_a_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderUNet, "forward", more_than_there_is)
    assert_refused(invoke(eval_noisy_clf, "digits", "--device=cpu", "--levels=0.5", "--images=2", "--out=out"),
                   "a batch does not fit into the memory; give a smaller --batch-size: the result stays the same.")
