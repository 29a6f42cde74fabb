"""Encoders are tuned by the contrastive loss of SDG, in the loop of all other training."""
from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf.checkpoints.model_folder import save_model
from noisy_clf.cli.train_encoder import train_noisy_encoder
from noisy_clf.datasets.images import Dataset, LabelledImages, to_x_0
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.evaluation.by_noise_level import LEVELS
from noisy_clf.loaders.encoder import load_encoder
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.draws import Draws
from noisy_clf.training.encoder_task import Embedding, contrastive, encoder_task, validation_images
from noisy_clf.training.execution import Execution
from noisy_clf.training.loop import METRICS, train
from noisy_clf.training.run import Run
from noisy_clf.training.task import Task
from tests.commands import invoke
from tests.noisy_clf.conftest import snapshot, tiny_network
from tests.reference import with_drawn_weights

SCHEDULE = NoiseSchedule.named("cosine", 50)
CONFIG = TrainingConfig(iterations=6, batch_size=12, lr=1e-3, ema=0.5, seed=3, validate_every=3, save_every=2)
TIMINGS = ("images_per_second", "waited_for_images")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clips_loss(noised: Tensor, clean: Tensor, logit_scale: float = 100) -> Tensor:
    """Each sample's, as CLIP's authors write it. (CLIP fig. 3)"""
    logits = logit_scale * F.normalize(noised, dim=1) @ F.normalize(clean, dim=1).T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels, reduction="none") + F.cross_entropy(logits.T, labels, reduction="none")) / 2


def test_the_loss_is_clips_among_the_images_of_a_group() -> None:
    noised, clean = drawn(0, 8, 5).requires_grad_(), drawn(1, 8, 5)
    ours = noised.detach().float().requires_grad_()
    expected = torch.cat([clips_loss(noised[part], clean[part]) for part in (slice(0, 4), slice(4, 8))])
    found = contrastive(ours, clean.float(), 4)
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, clips_loss(noised, clean).float(), rtol=0.01)  # groups matter
    assert_close(torch.autograd.grad(found.sum(), ours)[0], torch.autograd.grad(expected.sum(), noised)[0].float(),
                 rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive(ours, clean.float(), 4), found)
    assert_close(contrastive(3 * ours, 0.1 * clean.float(), 4), found, rtol=1e-5, atol=1e-5)
    assert_close(contrastive(ours, clean.float(), 8, 7.0), clips_loss(noised, clean, 7).float(), rtol=1e-5, atol=1e-5)


def encoder(text: dict[str, str] | None = None, **settings: Any) -> NoisyEncoder:
    """64 channels wide: a normalised group of one channel would forget its bias, and AdamW makes steps of its rounding."""
    return NoisyEncoder(with_drawn_weights(tiny_network(channels=64, **settings)), SCHEDULE, text)


def task(data: Dataset, group: int = 4, clean: NoisyEncoder | None = None, **more: Any) -> Task:
    learning = encoder({"tower": "clip:somebody", "digest": "1"}, dropout=0.3)
    clean = clean or encoder().requires_grad_(False)
    return encoder_task(learning, clean, data, group, **more)


def trained(data: Dataset, folder: Path, execution: Execution = Execution(), group: int = 4,
            config: TrainingConfig = CONFIG) -> dict[str, Tensor]:
    """The last weights of a whole run."""
    train(task(data, group), data, config, folder, execution)
    return load_file(folder / "last" / "model.safetensors")


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for how fast it was."""
    metrics = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {"metrics": [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in metrics],
            **{f"{name}/{file}": content for name in ("best", "last") for file, content in snapshot(folder / name).items()}}


@pytest.fixture(scope="module")
def whole(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trained(few_digits, folder)
    return folder


def test_the_frozen_encoder_sees_clean_images_told_t_0_and_the_learning_one_its_noised_ones(few_digits: Dataset) -> None:
    seen: list[tuple[str, Tensor, Tensor]] = []

    class Watched(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.scale = name, nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((self.name, x, t))
            return x.flatten(1) * self.scale

    made: Any = task(few_digits, clean=Watched("frozen"))  # type: ignore[arg-type]
    x_0, t = to_x_0(few_digits.train.batch(torch.arange(4))[0]), torch.tensor([1, 20, 30, 49])
    learning = Watched("learning")
    found = made.loss(learning, x_0, torch.zeros(4, dtype=torch.int64), t, Draws(0, range(4), torch.device("cpu")))
    x_t = SCHEDULE.add_noise(x_0, t, Draws(0, range(4), torch.device("cpu")).noise_like(x_0))
    assert [(name, t.tolist()) for name, _, t in seen] == [("learning", [1, 20, 30, 49]), ("frozen", [0, 0, 0, 0])]
    assert torch.equal(seen[0][1], x_t) and torch.equal(seen[1][1], x_0)
    assert_close(found, clips_loss(x_t.flatten(1), x_0.flatten(1)), rtol=1e-4, atol=1e-4)


def test_noised_images_learn_to_be_told_apart(few_digits: Dataset, tmp_path: Path) -> None:
    schedule = NoiseSchedule.from_alpha_bar(np.linspace(0.95, 0.9, 5))
    learning, clean = (NoisyEncoder(encoder().network, schedule) for _ in range(2))
    config = replace(CONFIG, iterations=60, validate_every=20, save_every=60)
    train(encoder_task(learning, clean.requires_grad_(False), few_digits, 12), few_digits, config, tmp_path)
    first, *_, last = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert first["train_loss"] > math.log(12) and last["train_loss"] < 1.7
    assert last["validation_loss"] < first["validation_loss"] - 0.5
    assert set(last) >= {f"validation_retrieval_at_{level}" for level in LEVELS}


def test_resumed_equals_uninterrupted(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finished", property(lambda run: run.validated == 3))
        trained(few_digits, tmp_path)
    torch.rand(100)  # the global generator's state is not part of a run
    trained(few_digits, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


def test_labels_are_not_looked_at(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    unlabelled = replace(few_digits, train=LabelledImages(few_digits.train.images, torch.zeros(30, dtype=torch.int64)))
    trained(unlabelled, tmp_path)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize("execution", [Execution(microbatch=5), Execution(microbatch=1), Execution(threads=0)], ids=str)
def test_parts_of_a_batch_change_nothing_but_rounding(few_digits: Dataset, whole: Path, tmp_path: Path,
                                                      execution: Execution) -> None:
    expected = load_file(whole / "last" / "model.safetensors")
    found = trained(few_digits, tmp_path, execution)
    for name in expected:
        if "qkv" not in name or "bias" not in name:  # see test_processes
            assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_other_negatives_train_another(few_digits: Dataset, whole: Path, tmp_path: Path) -> None:
    assert outcome(whole)["last/model.safetensors"] != (trained(few_digits, tmp_path, group=6) and outcome(tmp_path)[
        "last/model.safetensors"])


def test_a_compiled_network_is_one_of_embeddings_and_keeps_its_tensors_names(few_digits: Dataset) -> None:
    one = encoder()
    wrapped = Embedding(one.network)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 40])
    assert torch.equal(wrapped(x, t), one(x, t))
    assert wrapped.state_dict().keys() == one.network.state_dict().keys()
    other = Embedding(tiny_network(channels=64))
    other.load_state_dict(wrapped.state_dict())
    assert torch.equal(other.eval()(x, t), one(x, t)) and torch.equal(copy.deepcopy(other)(x, t), one(x, t))


def test_what_is_saved_loads_as_an_encoder_with_its_text_tower(whole: Path) -> None:
    loaded = load_encoder(whole).encoder
    assert loaded.text == {"tower": "clip:somebody", "digest": "1"} and loaded.schedule.same_as(SCHEDULE)
    weights = load_file(whole / "best" / "model.safetensors")
    assert torch.equal(loaded.network.state_dict()["time_embed.0.weight"], weights["time_embed.0.weight"])


def test_validation_is_by_fixed_groups_noise_and_levels(few_digits: Dataset) -> None:
    made, clean = task(few_digits, logit_scale=7.0), encoder()
    learning = encoder()
    found = made.validate(Embedding(learning.network), Processes())
    images, size = validation_images(12, 4)
    assert size == 4 and sorted(images.tolist()) == list(range(12))
    x_0 = to_x_0(few_digits.validation.batch(images)[0])
    eps, zero = fixed_noise(images, (1, 8, 8)), torch.zeros(12, dtype=torch.int64)
    with torch.no_grad():
        goal = clean(x_0, zero)
        losses = []
        for level, timestep in zip(LEVELS, (0, 12, 25, 37, 45)):
            t = torch.full((12,), timestep)
            seen = learning(SCHEDULE.add_noise(x_0, t, eps), t)
            losses.append(contrastive(seen, goal, 4, 7.0).mean())
            cosines = F.normalize(seen, dim=1).view(3, 4, -1) @ F.normalize(goal, dim=1).view(3, 4, -1).transpose(1, 2)
            right = (cosines.argmax(dim=2) == torch.arange(4)).double().mean().item()
            assert found[f"retrieval_at_{level}"] == pytest.approx(right, abs=1e-6)
    assert found["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert made.validate(Embedding(learning.network), Processes()) == found


@pytest.mark.parametrize("count, group, groups", [(12, 4, 3), (14, 4, 3), (3, 4, 1), (5000, 128, 8), (5000, 2000, 1)])
def test_validation_takes_whole_groups_of_a_part_drawn_once(count: int, group: int, groups: int) -> None:
    images, size = validation_images(count, group)
    assert size == min(count, group) and len(images) == groups * size == len(set(images.tolist()))
    assert torch.equal(images, validation_images(count, group)[0])
    assert not torch.equal(images.sort().values if len(images) < count else images, torch.arange(len(images)))


FLAGS = ["--image-size=8", "--batch-size=12", "--negatives=4", "--T=50", "--iterations=8", "--validate-every=4",
         "--save-every=4", "--ema=0.5", "--lr=1e-3", "--device=cpu", "--threads=1"]


def stored(folder: Path) -> Path:
    save_model(folder, encoder(dropout=0.2).config(), encoder().network, {})
    return folder


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    flags = [*FLAGS, f"--encoder={stored(tmp_path / 'clean')}"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
         "noisy_clf.cli.train_encoder", *flags, f"--out={tmp_path / 'two'}"], text=True, capture_output=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for name, more in (("one", []), ("other", ["--seed=1"])):
        result = invoke(train_noisy_encoder, *flags, f"--out={tmp_path / name}", *more)
        assert result.exit_code == 0, result.output

    def difference(other: str) -> float:
        ours, theirs = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", other))
        return max((ours[name] - theirs[name]).abs().max().item() for name in ours if "qkv" not in name or "bias" not in name)

    assert difference("two") < 2e-5 < 1e-3 < difference("other")
    ours, theirs = ([json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
                    for name in ("one", "two"))
    for mine, its in zip(ours, theirs, strict=True):
        for key in ("train_loss", "validation_loss", "validation_retrieval_at_0.5"):
            assert its[key] == pytest.approx(mine[key], rel=1e-3)
