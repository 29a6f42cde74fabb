"""Classifiers in this toolkit's own format: config.json and model.safetensors."""
from __future__ import annotations

import torch

from noisy_clf.checkpoints.model_folder import ModelFolder, config_from
from noisy_clf.classifier import NETWORKS, NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.loaders.loaded import LoadedClassifier


def load_model_folder(folder: ModelFolder) -> LoadedClassifier:
    fields = dict(folder.config["network"])
    kind = str(fields.pop("type", None))
    if kind not in NETWORKS:
        raise UserError(f"{folder.path}: unknown type of classifier; there is: {', '.join(NETWORKS)}.")
    config, network_of = NETWORKS[kind]
    with torch.device("meta"):
        network = network_of(config_from(config, fields, folder.path))
    folder.load_weights(network)
    classifier = NoisyClassifier(network, folder.schedule, folder.class_names).eval().requires_grad_(False)
    return LoadedClassifier(classifier, folder.digest, classifier.config())
