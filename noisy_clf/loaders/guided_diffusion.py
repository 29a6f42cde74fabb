"""Classifiers in bare .pt files, as guided-diffusion writes them."""
from __future__ import annotations

from pathlib import Path

from noisy_clf.checkpoints.guided_diffusion import architecture, names_of_classes
from noisy_clf.checkpoints.settings import Settings, schedule_of
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig


def classifier_from_file(path: Path, settings: Settings | None) -> NoisyClassifier:
    """The classifier whose bare state dict `path` is; frozen, its weights memory-mapped."""
    tensors = read_tensors(path)
    network, settings = architecture(path, tensors, settings, "classifier",
                                     lambda fields: EncoderUNet(EncoderUNetConfig(**fields)),
                                     options='--classifier-config FILE, --classifier-flags "..."')
    if settings.get("rescaled_t"):
        raise UserError(f"{path}: a classifier that is told rescaled timesteps is not supported.")
    give_tensors(network, path, tensors)
    names = names_of_classes(path, settings, network.config.num_classes)
    return NoisyClassifier(network, schedule_of(settings), names).eval()
