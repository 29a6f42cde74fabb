"""Networks of clean images, timm's: "timm:NAME" with timm's own weights, "timm:NAME@WEIGHTS" with those of a file."""
from __future__ import annotations

from torch import Tensor, nn

from noisy_clf import imagenet
from noisy_clf.checkpoints.by_name import CLEAN
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.checkpoints.tensors import tensors_digest
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.loaders.loaded import LoadedClassifier
from noisy_clf.loaders.timm_weights import TIMM, find_tensors, give, names_of
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig, pretrained_cfg
from noisy_clf.space import Space


def load_clean(name: str, settings: Settings | None, space: Space | None) -> LoadedClassifier:
    """One that never saw noise and is not told t, for the images and the schedule of `space`.

    Its classes have ImageNet's names where there are 1000, else numbers.
    """
    if settings is not None:
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    space = needed(space, name)
    model, source = model_and_source(name)
    tensors = find_tensors(model, source)
    layer = next(iter(names_of(pretrained_cfg(model).classifier)), "head")
    if f"{layer}.weight" not in tensors:
        raise UserError(f"{source} has no {layer}.weight, the last layer of timm's {model}: it is no classifier of that name.")
    K = len(tensors[f"{layer}.weight"])
    names = imagenet.class_names() if K == 1000 else tuple(map(str, range(K)))
    network = clean_network(model, source, tensors, space, K)
    classifier = NoisyClassifier(network, space.schedule, names).eval().requires_grad_(False)
    return LoadedClassifier(classifier, weights_digest(network), classifier.config())


def load_clean_backbone(name: str, space: Space) -> TimmClassifier:
    """Any model of timm's without its last layer, for the images of `space`; it never saw noise and is not told t."""
    model, source = model_and_source(name)
    return clean_network(model, source, find_tensors(model, source), space, num_classes=0)


def needed(space: Space | None, name: str) -> Space:
    """UserError where there is none."""
    if space is None:
        raise UserError(f"{name} learned on clean images and has no noise schedule of its own; it can guide a denoiser, whose "
                        f"schedule it then takes.")
    return space


def model_and_source(name: str) -> tuple[str, str]:
    """timm's name of the model, and where its weights are from. UserError where timm has no such model."""
    model, _, file = name.removeprefix(CLEAN).partition("@")
    pretrained_cfg(model)
    return model, file or TIMM


def clean_network(model: str, source: str, tensors: dict[str, Tensor], space: Space, num_classes: int) -> TimmClassifier:
    network = TimmClassifier(TimmConfig(
        name=model, image_size=space.image_size, in_channels=space.channels, num_classes=num_classes, time_conditional=False,
        input_size=pretrained_cfg(model).input_size[-1], batch_norm="frozen"))
    give(network, tensors, source)
    return network


def weights_digest(network: nn.Module) -> str:
    """Of the network's weights."""
    return tensors_digest(network.state_dict())
