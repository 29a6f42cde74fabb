"""A classifier that is to be trained on a dataset: its network of the data's shape, its weights at the start, its task."""
from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import Dataset
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.loaders.timm_weights import start_from
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.networks.timm_parameters import freeze_stages, parameter_groups
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.classifier_task import classifier_task
from noisy_clf.training.config import ClassifierLoss, FineTuning, TrainingConfig
from noisy_clf.training.task import Task


def adm_task(config: EncoderUNetConfig, schedule: NoiseSchedule, data: Dataset, loss: ClassifierLoss,
             training: TrainingConfig) -> Task:
    """ADM's encoder, for the data's channels and classes whatever the config says of them."""
    torch.manual_seed(training.seed)
    network = EncoderUNet(replace(config, in_channels=data.channels, num_classes=len(data.class_names)))
    return classifier_task(NoisyClassifier(network, schedule, data.class_names), data, loss)


def timm_task(settings: dict[str, Any], schedule: NoiseSchedule, data: Dataset, loss: ClassifierLoss,
              training: TrainingConfig, tuning: FineTuning) -> Task:
    """A backbone of timm's; `settings` are TimmConfig's, but for what the data tell."""
    torch.manual_seed(training.seed)
    network = TimmClassifier(TimmConfig(
        image_size=data.image_size, in_channels=data.channels, num_classes=len(data.class_names), **settings))
    if tuning.pretrained:
        start_from(network, tuning.pretrained)
    freeze_stages(network, tuning.freeze_stages)
    return classifier_task(NoisyClassifier(network, schedule, data.class_names), data, loss, options=asdict(tuning),
                           parameter_groups=parameter_groups(network, training.weight_decay, tuning.layer_decay))
