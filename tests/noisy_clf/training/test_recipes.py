"""The recipes of the released classifiers are theirs, and every recipe makes a network."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noisy_clf import imagenet
from noisy_clf.cli import train as cli
from noisy_clf.datasets import DATASETS
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.released import CLASSIFIERS, shapes_digest
from noisy_clf.training.recipes import IMAGENET, classifier_recipe
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.config import TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.task import Task
from tests.commands import invoke

PUBLISHED = {  # pixels -> batch, iterations, lr, weight decay, millions of parameters (ADM's tables)
    64: (1024, 300_000, 6e-4, 0.2, 65.4), 128: (256, 300_000, 3e-4, 0.05, 42.6),
    256: (256, 500_000, 3e-4, 0.05, 54.1), 512: (256, 500_000, 3e-4, 0.05, 54.4)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_adms_recipes_are_the_released_classifiers(size: int) -> None:
    recipe = IMAGENET[size]
    with torch.device("meta"):
        network = EncoderUNet(EncoderUNetConfig(**recipe.network, image_size=size, in_channels=3, num_classes=1000))
    released = CLASSIFIERS[f"imagenet{size}"]
    assert shapes_digest((name, tensor.shape) for name, tensor in network.state_dict().items()) == released.shapes
    assert (network.config.head_channels, network.config.attention_order) == (64, released.settings["attention_order"])
    assert NoiseSchedule.named(recipe.schedule).same_as(released.schedule)
    *training, millions = PUBLISHED[size]
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    config = TrainingConfig(**recipe.training)
    assert [config.batch_size, config.iterations, config.lr, config.weight_decay] == training
    assert (config.ema, config.warmup, config.precision, config.t_sampling) == (0, 0, "float32", "uniform")
    assert config.random_crop and config.random_flip and config.lr_at(0) == config.lr and config.lr_at(config.iterations) == 0


def test_the_command_typed_exactly_so_is_the_64_px_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train-noisy-clf --dataset imagenet64`: what reaches the training loop."""
    images = LabelledImages(ArrayImages(np.zeros((2, 3, 64, 64), np.uint8)), torch.tensor([0, 207]))
    asked: list[tuple[object, ...]] = []

    def load(*given: object) -> Dataset:
        asked.append(given)
        return Dataset("imagenet64", images, images, imagenet.class_names())

    def train(task: Task, data: Dataset, config: TrainingConfig, folder: Path, execution: Execution) -> None:
        assert config == TrainingConfig(**IMAGENET[64].training) and folder == Path("runs/imagenet64-classifier")
        assert task.multiple == 1 and task.T == 1000
        assert task.options == {"label_smoothing": 0.0, "mixup": 0.0, "entropy_weight": 0.0}
        assert NoiseSchedule.from_config(task.model_config["schedule"]).same_as(NoiseSchedule.named("cosine"))
        assert task.model_config["class_names"][207] == "golden retriever"
        shapes = ((name, tensor.shape) for name, tensor in task.network.state_dict().items())
        assert shapes_digest(shapes) == CLASSIFIERS["imagenet64"].shapes
        asked.append(())

    monkeypatch.setattr(cli, "load_dataset", load)
    monkeypatch.setattr("noisy_clf.training.loop.train", train)
    result = invoke(cli.train_noisy_clf, "--dataset", "imagenet64")
    assert result.exit_code == 0, result.output
    assert asked == [("imagenet64", 64, None, False), ()]


@pytest.mark.parametrize("dataset, size", [*((name, None) for name in DATASETS), *(("photos/", size) for size in (
    16, 32, 48, 64, 96, 128, 160, 256, 320, 512))])
def test_every_recipe_makes_a_network(dataset: str, size: int | None) -> None:
    recipe = classifier_recipe(dataset, size)
    TrainingConfig(**recipe.training)
    EncoderUNetConfig(**recipe.network, image_size=recipe.image_size, in_channels=3, num_classes=5)
    assert size is None or recipe.image_size == size


def test_imagenet_at_a_size_without_a_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="there is no recipe for ImageNet at 100 pixels; there are: 64, 128, 256, 512"):
        classifier_recipe("imagenet", 100)
