"""On a GPU the same numbers as on the CPU."""
import pytest
import torch

from guided_sample.guidance import ClassifierGuidance
from guided_sample.noise import SampleNoise
from guided_sample.posterior import reverse_steps
from guided_sample.samplers import ddim, ddpm
from noisy_clf.device import exact_float32
from tests.conftest import tiny_classifier, tiny_denoiser
from tests.reference import relative_error

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_guided_samples_are_those_of_the_cpu(sampler):
    exact_float32()
    samples = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        denoiser, classifier = tiny_denoiser(), tiny_classifier().to(device)
        denoiser.network.to(device)
        guide = ClassifierGuidance(classifier, torch.tensor([0, 1, 2], device=device), 2.0)
        noise = SampleNoise(0, [0, 1, 2], denoiser.shape, device)
        *_, moment = sampler(denoiser, reverse_steps(denoiser.schedule, range(0, 50, 7)), guide, noise)
        samples.append(moment.x_t.cpu())
    assert relative_error(samples[1], samples[0]) < 1e-3
