"""Models in this toolkit's own format: config.json and model.safetensors."""
from __future__ import annotations

from typing import Any

import torch

from noisy_clf.checkpoints.model_folder import ModelFolder, config_from
from noisy_clf.classifier import NETWORKS, NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.loaders.loaded import LoadedClassifier


def load_model_folder(folder: ModelFolder) -> LoadedClassifier:
    classifier = NoisyClassifier(network_in(folder, NETWORKS), folder.schedule, folder.class_names).eval().requires_grad_(False)
    return LoadedClassifier(classifier, folder.digest, classifier.config())


def network_in(folder: ModelFolder, networks: dict[str, tuple[Any, Any]]) -> Any:
    """A folder's network, with its weights.

    networks  config.json's type of network -> (its config, the network)
    """
    fields = dict(folder.config["network"])
    kind = str(fields.pop("type", None))
    if kind not in networks:
        raise UserError(f"{folder.path}: unknown type of {folder.config['kind']}; there is: {', '.join(networks)}.")
    config, network_of = networks[kind]
    with torch.device("meta"):
        network = network_of(config_from(config, fields, folder.path))
    folder.load_weights(network)
    return network
