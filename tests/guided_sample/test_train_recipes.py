"""The recipes of the released denoisers are theirs, and every recipe makes a network."""
from __future__ import annotations

import pytest
import torch

from guided_sample.training.recipes import IMAGENET, denoiser_recipe
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.checkpoints.released import DENOISERS, shapes_digest
from noisy_clf.datasets import DATASETS
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.config import TrainingConfig

PUBLISHED = {64: (2048, 540_000, 3e-4, 0.1), 128: (256, 4_360_000, 1e-4, 0), 256: (256, 1_980_000, 1e-4, 0),
             512: (256, 1_940_000, 1e-4, 0)}  # pixels -> batch, iterations, lr, dropout (ADM's table)


@pytest.mark.parametrize("size", PUBLISHED)
def test_adms_recipes_are_the_released_denoisers(size: int) -> None:
    recipe, released = IMAGENET[size], DENOISERS[f"imagenet{size}"]
    with torch.device("meta"):
        network = UNet(UNetConfig(**recipe.network, image_size=size, in_channels=3, out_channels=6, num_classes=1000))
    assert shapes_digest((name, tensor.shape) for name, tensor in network.state_dict().items()) == released.shapes
    assert network.config.attention_order == released.settings["attention_order"]
    told = ("head_channels", network.config.head_channels) if network.config.head_channels else ("heads", network.config.heads)
    assert released.settings[told[0]] == told[1]
    assert NoiseSchedule.named(recipe.schedule).same_as(released.schedule)
    config = TrainingConfig(**recipe.training)
    assert (config.batch_size, config.iterations, config.lr, network.config.dropout) == PUBLISHED[size]
    assert (config.ema, config.weight_decay, config.random_crop, config.random_flip) == (0.9999, 0, False, True)


def test_cifar10_is_improved_diffusions() -> None:
    recipe = denoiser_recipe("cifar10", None)
    config, training = UNetConfig(**recipe.network, image_size=32, in_channels=3, out_channels=6), recipe.training
    assert (config.widths, config.res_blocks, config.attention_at, config.heads_of(128), config.dropout, config.resample) == (
        (128, 256, 256, 256), 3, (16, 8), 4, 0.3, "conv")
    assert (recipe.schedule, training["batch_size"], training["iterations"], training["lr"], training["ema"]) == (
        "cosine", 128, 500_000, 1e-4, 0.9999)


@pytest.mark.parametrize("dataset, size", [*((name, None) for name in DATASETS), *(("photos/", size) for size in (
    8, 16, 24, 28, 32, 48, 64, 96, 128, 160, 256, 320, 512))])
def test_every_recipe_makes_a_network(dataset: str, size: int | None) -> None:
    recipe = denoiser_recipe(dataset, size)
    TrainingConfig(**recipe.training)
    config = UNetConfig(**recipe.network, image_size=recipe.image_size, in_channels=3, out_channels=6)
    assert (size is None or recipe.image_size == size) and sum(map(config.attends, range(6))) >= 2


def test_imagenet_at_a_size_without_a_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="there is no recipe for ImageNet at 100 pixels; there are: 64, 128, 256, 512"):
        denoiser_recipe("imagenet", 100)
