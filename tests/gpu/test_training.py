"""Training on a GPU."""
import json

import pytest
import torch
from safetensors.torch import load_file

from guided_sample.training.denoiser_task import denoiser_task, new_denoiser
from guided_sample.unet_config import UNetConfig
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets import load_dataset
from noisy_clf.execution import exact_float32
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.loop import METRICS, train
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.run import Run
from tests.noisy_clf.conftest import tiny_network

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["classifier", "denoiser"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])  # compiling, which takes minutes, comes last
def test_training_learns_stops_and_goes_on(tmp_path, device, precision, compile, kind):
    """Stopped half-way or not, to the same weights, up to what sums in any order make of them."""
    exact_float32()
    data = load_dataset("digits", 8)
    config = TrainingConfig(iterations=60, batch_size=24, lr=2e-3, ema=0.9, precision=precision, random_crop=True,
                            random_flip=True, t_sampling="levels:0,0.2", validate_every=30, save_every=30)
    execution = Execution(device, compile=compile)

    def task():
        torch.manual_seed(0)
        schedule = NoiseSchedule.named("cosine", 50)
        if kind == "denoiser":
            unet = UNetConfig(image_size=8, in_channels=1, out_channels=2, channels=32, channel_mult=(1,), dropout=0.1)
            return denoiser_task(new_denoiser(unet, schedule, "learned_range", data, False, 0), data)
        return classifier_task(NoisyClassifier(tiny_network(dropout=0.1), schedule, data.class_names), data)

    train(task(), data, config, tmp_path / "whole", execution)
    stopped = Run(task(), config, data, tmp_path / "stopped", execution)
    for _ in range(30):
        stopped.train_step(*stopped.read(stopped.step))
    stopped.validate()
    stopped.losses = []
    stopped.save()
    train(task(), data, config, tmp_path / "stopped", execution)
    weights, others = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "stopped"))
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=0.05, atol=0.02)
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "whole" / METRICS).read_text().splitlines()]
    assert losses[-1] < losses[0] < 2.4
