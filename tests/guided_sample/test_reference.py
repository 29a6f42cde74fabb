"""The same numbers as openai/guided-diffusion, from one forward pass to whole guided trajectories."""
from dataclasses import replace

import pytest
import torch

from guided_sample.denoiser import unet_denoiser
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import kept_timesteps, steps
from guided_sample.unet import UNet
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.schedule import NoiseSchedule
from tests.reference import INDEX, arrays, encoder, relative_error, unet, with_drawn_weights
from tests.seam import adm, classified, run


@pytest.mark.parametrize("name", INDEX["unet"])
def test_unet(name):
    network, expected = unet(name), arrays(INDEX["unet"][name]["file"])
    tensors = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert list(tensors.items()) == list(INDEX["unet"][name]["state_dict"].items())
    y = expected["y"] if network.config.num_classes else None
    assert relative_error(network(expected["x"], expected["t"], y), expected["output"]) < 5e-6


def test_unet_that_resamples_by_mean_and_nearest_neighbour():
    expected = arrays("unet_mean_pooled.npz")
    network = with_drawn_weights(UNet(replace(unet("plain_resample").config, resample="plain")))
    assert relative_error(network(expected["x"], expected["t"]), expected["output"]) < 5e-6


@pytest.mark.parametrize("spec", INDEX["respacing"])
def test_timesteps(spec):
    T, _, kept = spec.partition(":")
    assert kept_timesteps(kept, NoiseSchedule.named("cosine", int(T))) == INDEX["respacing"][spec]


@pytest.mark.parametrize("name", INDEX["samplers"])
def test_trajectory(name):
    theirs = INDEX["samplers"][name]
    expected = arrays(theirs["file"])
    schedule = NoiseSchedule.named(theirs["schedule"], theirs["T"])
    denoiser = unet_denoiser(unet(theirs["unet"]), schedule, theirs["variance"])
    classifier = NoisyClassifier(encoder(theirs["encoder"]), schedule, tuple("0123456789"))
    y = expected["y"]
    model = adm(denoiser, classified(classifier, y, theirs["scale"]), y=y if denoiser.network.config.num_classes else None,
                clipped=theirs["clip_denoised"])
    chain = steps(theirs["respacing"], schedule)
    assert [step.t for step in chain] == theirs["timesteps"][::-1]
    draws = iter([expected["x_T"], *expected["noise"]])
    knobs = {"eta": theirs["eta"]} if theirs["method"] == "ddim" else {}
    moments = run(SAMPLERS[theirs["method"]].load(), model, chain, lambda: next(draws), **knobs)

    assert len(moments) == len(expected["x"])
    for moment, x, pred_x0 in zip(moments, expected["x"], expected["pred_x0"]):
        assert relative_error(moment.x_t, x) < 1e-4
        assert relative_error(moment.x0_hat, pred_x0) < 1e-4
    assert torch.isfinite(moments[-1].x_t).all()
