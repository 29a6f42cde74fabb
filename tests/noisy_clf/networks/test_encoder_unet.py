from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from guided_sample.guides.classifier import log_prob
from noisy_clf.checkpoints.model_folder import config_from
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.noisy_clf.conftest import TINY, tiny_network
from tests.reference import INDEX, arrays, encoder, relative_error, with_drawn_weights

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")


def log_prob_gradient(network: EncoderUNet, x_t: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, gradient of log p(y|x_t) with respect to x_t)"""
    schedule = NoiseSchedule.named("linear", 1000)
    classifier = NoisyClassifier(network, schedule, tuple(map(str, range(network.config.num_classes))))
    x_t = x_t.clone().requires_grad_()
    return classifier(x_t, t).detach(), torch.autograd.grad(log_prob(classifier, x_t, t, y).sum(), x_t)[0]


@pytest.mark.parametrize("name", INDEX["encoder"])
def test_tensors_are_named_and_shaped_as_theirs(name: str) -> None:
    ours = {key: list(tensor.shape) for key, tensor in encoder(name).state_dict().items()}
    assert list(ours.items()) == list(INDEX["encoder"][name]["state_dict"].items())


@pytest.mark.parametrize("name", INDEX["encoder"])
def test_logits_and_gradients_are_theirs(name: str) -> None:
    theirs = arrays(INDEX["encoder"][name]["file"])
    logits, gradient = log_prob_gradient(encoder(name), theirs["x"], theirs["t"], theirs["y"])
    assert relative_error(logits, theirs["logits"]) <= 1e-5
    assert relative_error(gradient, theirs["grad_log_prob"]) <= 1e-5


def test_spatial_v2_is_theirs() -> None:
    theirs = arrays("encoder_spatial_v2.npz")
    network = with_drawn_weights(EncoderUNet(replace(encoder("spatial").config, pool="spatial_v2")))
    logits, gradient = log_prob_gradient(network, theirs["x"], theirs["t"], theirs["y"])
    assert relative_error(logits, theirs["logits"]) <= 1e-5
    assert relative_error(gradient, theirs["grad_log_prob"]) <= 1e-5


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("image_size, in_channels, channel_mult", [(8, 1, (1,)), (12, 3, (1, 2)), (16, 3, (1, 1, 2))])
def test_a_batch_is_its_samples_one_by_one(
        pool: str, image_size: int, in_channels: int, channel_mult: tuple[int, ...]) -> None:
    network = with_drawn_weights(tiny_network(
        pool=pool, image_size=image_size, in_channels=in_channels, channel_mult=channel_mult, attention_at=[image_size]))
    x_t, t, y = torch.randn(3, in_channels, image_size, image_size), torch.tensor([0, 500, 999]), torch.tensor([9, 0, 4])
    logits, gradient = log_prob_gradient(network, x_t, t, y)
    assert logits.shape == (3, 10) and gradient.abs().amax(dim=(1, 2, 3)).min() > 0
    singles = [log_prob_gradient(network, x_t[i:i + 1], t[i:i + 1], y[i:i + 1]) for i in range(3)]
    assert_close(logits, torch.cat([single[0] for single in singles]), rtol=1e-5, atol=1e-5)
    assert_close(gradient, torch.cat([single[1] for single in singles]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_features_are_what_the_last_layer_tells_the_classes_by_and_each_levels_last_map(pool: str) -> None:
    network = with_drawn_weights(tiny_network(
        pool=pool, image_size=16, channel_mult=(1, 2, 1), res_blocks=2, attention_at=[4], head_channels=32))
    x_t, t = torch.randn(3, 1, 16, 16), torch.tensor([0, 500, 999])
    outputs: list[Tensor] = []
    for block in [*network.input_blocks, network.middle_block]:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    maps, embedding = network.features(x_t, t)
    first, second = outputs[2], outputs[5]  # of 3 blocks of 16 pixels, 3 of 8, 3 of 4 and the middle
    assert len(outputs) == 10 and all(map(torch.equal, maps, [first, second, outputs[9]]))
    assert [found.shape[1:] for found in maps] == [(32, 16, 16), (64, 8, 8), (32, 4, 4)]
    last: Any = network.out[-1].c_proj if pool == "attention" else network.out[-2 if pool == "adaptive" else -1]
    assert_close(F.linear(embedding, last.weight.flatten(1), last.bias), network(x_t, t))
    singles = [network.features(x_t[i:i + 1], t[i:i + 1]) for i in range(3)]
    assert_close(embedding, torch.cat([single.embedding for single in singles]))
    with torch.autocast("cpu", torch.bfloat16):
        half = network.features(x_t, t)
    assert all(found.dtype == torch.float32 for found in [*half.maps, half.embedding])
    assert 0 < (half.embedding - embedding).norm() < 0.1 * embedding.norm()


@pytest.mark.parametrize("resample", ["resblock", "conv", "plain"])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_each_way_to_resample_depends_on_image_and_time(resample: str, scale_shift: bool) -> None:
    network = with_drawn_weights(tiny_network(channel_mult=(1, 2), resample=resample, scale_shift=scale_shift))
    x_t = torch.randn(1, 1, 8, 8).repeat(3, 1, 1, 1)
    x_t[2] = -x_t[2]
    logits = network(x_t, torch.tensor([0, 900, 900]))
    assert (logits[0] - logits[1]).abs().max() > 1e-2 and (logits[1] - logits[2]).abs().max() > 1e-2


def test_dropout_acts_in_training_only() -> None:
    network = with_drawn_weights(tiny_network(dropout=0.5))
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    assert torch.equal(network(x_t, t), network(x_t, t))
    network.train()
    assert not torch.equal(network(x_t, t), network(x_t, t))


def test_lists_from_json_make_the_same_configuration() -> None:
    assert EncoderUNetConfig(**{**TINY, "channel_mult": [1], "attention_at": [8]}) \
        == EncoderUNetConfig(**{**TINY, "attention_at": (8,)})


@pytest.mark.parametrize("settings, sentence", [
    ({"image_size": 10, "channel_mult": (1, 1, 1)}, "image size 10 does not divide by 4"),
    ({"image_size": 2, "channel_mult": (1, 1, 1)}, "image size 2 does not divide by 4"),
    ({"channels": 48}, "a level 48 channels wide cannot be normalised in 32 groups"),
    ({"channel_mult": (1, 0.5)}, "a level 16 channels wide cannot be normalised in 32 groups"),
    ({"channels": 0}, "channels must be a whole number from 1 to 16384, not 0"),
    ({"head_channels": 24}, "32 channels do not divide into heads of 24 channels"),
    ({"head_channels": None, "heads": 5}, "32 channels do not divide into 5 heads"),
    ({"channel_mult": (3, 1), "head_channels": 64, "attention_at": (8,)}, "(32|96) channels do not divide into heads of 64"),
    ({"pool": "max"}, "unknown pool 'max'; there are: attention, adaptive, spatial, spatial_v2"),
    ({"attention_order": "old"}, "unknown attention_order 'old'; there are: legacy, new"),
    ({"resample": "pixel"}, "unknown resample 'pixel'; there are: resblock, conv, plain"),
    ({"channel_mult": ()}, "channel_mult .*for 1 to 16 levels"),
    ({"channel_mult": (float("nan"),)}, "channel_mult"),
    ({"channel_mult": (float("inf"),)}, "channel_mult"),
    ({"res_blocks": 0}, "res_blocks .*from 1 to .*, not 0"),
    ({"head_channels": -32}, "head_channels .*from 1 to .*, not -32"),
    ({"head_channels": 0}, "head_channels .*from 1 to .*, not 0"),
    ({"head_channels": None, "heads": 0}, "heads .*from 1 to .*, not 0"),
    ({"dropout": 2.0}, "dropout .*not 2.0"),
    ({"dropout": float("nan")}, "dropout .*not nan"),
])
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_network(**settings)


def test_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="here: unknown setting pooling, width; there are: image_size, .*, pool"):
        config_from(EncoderUNetConfig, {**TINY, "width": 3, "pooling": "attention"}, "here")


def test_missing_setting_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="here: .*missing.*'num_classes'"):
        config_from(EncoderUNetConfig, {name: value for name, value in TINY.items() if name != "num_classes"}, "here")
