"""On a GPU the same numbers as on the CPU."""
import json

import pytest
import torch
from safetensors.torch import load_file

from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets import load_dataset
from noisy_clf.execution import exact_float32
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.noise import SampleNoise
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.loop import METRICS, train
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.run import Run
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.noisy_clf.conftest import tiny_network
from tests.reference import relative_error
from tests.seam import adm, classified, last, run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_guided_samples_are_those_of_the_cpu(sampler):
    exact_float32()
    samples = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        denoiser, classifier = tiny_denoiser(), tiny_classifier().to(device)
        denoiser.network.to(device)
        guide = classified(classifier, torch.tensor([0, 1, 2], device=device), 2.0)
        noise = SampleNoise(0, [0, 1, 2], denoiser.shape, device)
        samples.append(last(run(sampler, adm(denoiser, guide), steps(range(0, 50, 7), denoiser.schedule), noise)).cpu())
    assert relative_error(samples[1], samples[0]) < 1e-3


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True])
def test_training_learns_stops_and_goes_on(tmp_path, precision, compile):
    """Stopped half-way or not, to the same weights, up to what sums in any order make of them."""
    exact_float32()
    data = load_dataset("digits", 8)
    config = TrainingConfig(iterations=60, batch_size=24, lr=2e-3, ema=0.9, precision=precision, random_crop=True,
                            random_flip=True, t_sampling="levels:0,0.2", validate_every=30, save_every=30)
    execution = Execution(torch.device("cuda"), compile=compile)

    def task():
        torch.manual_seed(0)
        network = tiny_network(dropout=0.1)
        return classifier_task(NoisyClassifier(network, NoiseSchedule.named("cosine", 50), data.class_names), data)

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
