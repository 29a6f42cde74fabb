"""What is known to work: for each dataset a classifier's architecture and training, and how an encoder is tuned on noise."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noisy_clf.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Settings for a dataset, each of which a flag overrides: of the network's config, of TrainingConfig, and of an encoder's
    loss."""

    schedule: str
    image_size: int
    network: dict[str, Any]
    training: dict[str, Any]
    logit_scale: float = 100.0


def adm(image_size: int, schedule: str, channel_mult: tuple[float, ...], depth: int, **training: Any) -> Recipe:
    """As the released classifiers were trained. (ADM appendix, table of classifiers' hyperparameters)"""
    return Recipe(
        schedule, image_size,
        network={"channels": 128, "channel_mult": channel_mult, "res_blocks": depth, "attention_at": (32, 16, 8),
                 "head_channels": 64, "pool": "attention"},
        training={"ema": 0.0, "random_crop": True, "random_flip": True, "validate_every": 5000, "save_every": 1000, **training})


IMAGENET = {
    64: adm(64, "cosine", (1, 2, 3, 4), 4, iterations=300_000, batch_size=1024, lr=6e-4, weight_decay=0.2),
    128: adm(128, "linear", (1, 1, 2, 3, 4), 2, iterations=300_000, batch_size=256, lr=3e-4, weight_decay=0.05),
    256: adm(256, "linear", (1, 1, 2, 2, 4, 4), 2, iterations=500_000, batch_size=256, lr=3e-4, weight_decay=0.05),
    512: adm(512, "linear", (0.5, 1, 1, 2, 2, 4, 4), 2, iterations=500_000, batch_size=256, lr=3e-4, weight_decay=0.05),
}
SMALL = {  # for 32 pixels and less: of the same make, but not published
    "channels": 64, "channel_mult": (1, 2, 2, 2), "res_blocks": 2, "attention_at": (16, 8), "head_channels": 64, "dropout": 0.1,
    "pool": "attention"}
OWN = {"iterations": 50_000, "batch_size": 128, "lr": 3e-4, "warmup": 500, "weight_decay": 0.05, "ema": 0.999,
       "random_crop": True, "random_flip": True, "validate_every": 1000, "save_every": 1000}
WRITTEN = OWN | {"iterations": 10_000, "random_flip": False}  # a mirrored digit is another one
NAMED = {
    "digits": Recipe(  # 97-99 % at t = 0; some 5 minutes on two cores
        schedule="cosine", image_size=16,
        network={"channels": 32, "channel_mult": (1, 2, 2), "res_blocks": 1, "attention_at": (8, 4), "head_channels": 32,
                 "dropout": 0.1, "pool": "attention"},
        training={"iterations": 2000, "batch_size": 128, "lr": 6e-4, "weight_decay": 0.2, "ema": 0.995,
                  "validate_every": 250, "save_every": 250}),
    "imagenet64": IMAGENET[64],
    "imagenet32": Recipe("cosine", 32, {**IMAGENET[64].network, "channel_mult": (1, 2, 2, 2), "attention_at": (16, 8)},
                         IMAGENET[64].training),
    "imagenet": IMAGENET[256],
    "cifar10": Recipe("cosine", 32, SMALL, OWN),
    "cifar100": Recipe("cosine", 32, SMALL, OWN),
    "mnist": Recipe("cosine", 32, {**SMALL, "channels": 32, "head_channels": 32}, WRITTEN),
    "fashion-mnist": Recipe("cosine", 32, {**SMALL, "channels": 32, "head_channels": 32}, OWN | {"iterations": 20_000}),
}


def classifier_recipe(dataset: str, image_size: int | None) -> Recipe:
    """A dataset's own; for images of one's own (64 pixels unless told), a network by their size."""
    if dataset == "imagenet" and image_size is not None:
        if image_size not in IMAGENET:
            raise UserError(f"there is no recipe for ImageNet at {image_size} pixels; there are: "
                            f"{', '.join(map(str, IMAGENET))}.")
        return IMAGENET[image_size]
    if dataset in NAMED:
        return NAMED[dataset]
    size = image_size or 64
    if size < 64:
        return Recipe("cosine", size, SMALL, OWN)
    known = max(published for published in IMAGENET if published <= size)
    return Recipe(IMAGENET[known].schedule, size, {**IMAGENET[known].network, "res_blocks": 2}, OWN)


SDG: dict[str, Any] = {  # AdamW, 1e-4, no decay, t uniform (SDG's program; how long and in which batches is not published)
    "iterations": 50_000, "batch_size": 256, "lr": 1e-4, "weight_decay": 0.0, "ema": 0.999, "random_flip": True,
    "validate_every": 1000, "save_every": 1000}
ENCODERS = {
    "digits": {"iterations": 600, "batch_size": 128, "lr": 1e-3, "ema": 0.99, "validate_every": 200, "save_every": 200},
    "cifar10": SDG | {"iterations": 20_000},
    "mnist": SDG | {"iterations": 5000, "random_flip": False},
}
LOGIT_SCALES = {"digits": 10.0}  # at 100 the embeddings of all images come out alike, with a cosine of .86
ENCODERS |= {"cifar100": ENCODERS["cifar10"], "fashion-mnist": ENCODERS["cifar10"]}


def encoder_recipe(dataset: str, image_size: int | None) -> Recipe:
    """How a clean encoder is tuned on a dataset's noised images, of the schedule and size that its classifiers are for."""
    classifiers = classifier_recipe(dataset, image_size)
    return Recipe(classifiers.schedule, classifiers.image_size, {}, ENCODERS.get(dataset, SDG),
                  LOGIT_SCALES.get(dataset, 100.0))
