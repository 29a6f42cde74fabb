"""An encoder that is to be tuned on a dataset's noised images: its copy that learns, of the data's shape, and its task."""
from __future__ import annotations

from typing import Any

import torch

from noisy_clf.datasets.images import Dataset
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.loaders.encoder import learning, load_encoder
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from noisy_clf.training.encoder_task import encoder_task
from noisy_clf.training.task import Task


def new_encoder_task(name: str, schedule: NoiseSchedule, data: Dataset, group: int, logit_scale: float, seed: int,
                     device: torch.device, record: dict[str, Any]) -> Task:
    """The task of the encoder of that name, on this schedule whatever its own. UserError where its images are not the data's.

    group   of images that are told from each other
    device  where the frozen one is to be
    record  what the run's config.json tells beside
    """
    if len(data.validation) < 2:
        raise UserError(f"{data.name} has {len(data.validation)} images to validate by, and there must be two to tell apart.")
    loaded = load_encoder(name, Space(schedule, data.image_size, data.channels))
    torch.manual_seed(seed)
    pupil = learning(loaded.encoder)
    own = pupil.space
    if (own.image_size, own.channels) != (data.image_size, data.channels):
        raise UserError(f"{name} sees images of {own.image_size} pixels a side in {own.channels} channels, and {data.name} has "
                        f"{data.image_size} and {data.channels}; give a --dataset or an --image-size that fits it, --grey for "
                        f"one channel of images of your own, or another --encoder.")
    return encoder_task(NoisyEncoder(pupil.network, schedule, pupil.text), loaded.encoder.to(device), data, group,
                        logit_scale, record=record,
                        options={"negatives": group, "logit_scale": logit_scale, "encoder_digest": loaded.digest})
