"""Classifiers of clean images, timm's: "timm:NAME" with timm's own weights, "timm:NAME@WEIGHTS" with those of a file."""
from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import save
from torch import nn

from noisy_clf import imagenet
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.loaders.loaded import LoadedClassifier
from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig, pretrained_cfg
from noisy_clf.networks.timm_weights import TIMM, find_tensors, give, names_of
from noisy_clf.space import Space

CLEAN = "timm:"  # how the name of a classifier of clean images begins


def load_clean(name: str, settings: Settings | None, space: Space | None) -> LoadedClassifier:
    if settings is not None:
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    if space is None:
        raise UserError(f"{name} learned on clean images and has no noise schedule of its own; it can guide a denoiser, whose "
                        f"schedule it then takes.")
    model, _, weights = name.removeprefix(CLEAN).partition("@")
    classifier = clean_classifier(model, weights or None, space)
    return LoadedClassifier(classifier, weights_digest(classifier.network), classifier.config())


def clean_classifier(name: str, weights: str | Path | None, space: Space,
                     class_names: tuple[str, ...] | None = None) -> NoisyClassifier:
    """timm's classifier of that name, which never saw noise and is not told t; frozen, in evaluation mode.

    weights      a file; None: timm downloads its own
    class_names  None: ImageNet's where there are 1000, else numbers
    """
    trained = pretrained_cfg(name)
    source = weights or TIMM
    tensors = find_tensors(name, source)
    layer = next(iter(names_of(trained.classifier)), "head")
    if f"{layer}.weight" not in tensors:
        raise UserError(f"{source} has no {layer}.weight, the last layer of timm's {name}: it is no classifier of that name.")
    K = len(tensors[f"{layer}.weight"])
    network = TimmClassifier(TimmConfig(
        name=name, image_size=space.image_size, in_channels=space.channels, num_classes=K, time_conditional=False,
        input_size=trained.input_size[-1], batch_norm="frozen"))
    give(network, tensors, source)
    names = class_names or (imagenet.class_names() if K == 1000 else tuple(map(str, range(K))))
    return NoisyClassifier(network, space.schedule, names).eval().requires_grad_(False)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of the network's weights as a safetensors file, in hexadecimal digits."""
    return hashlib.sha256(save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})).hexdigest()
