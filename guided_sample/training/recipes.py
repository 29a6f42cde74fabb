"""What is known to work: for a dataset, or images of some size, a denoiser's architecture and its training."""
from __future__ import annotations

from typing import Any

from noisy_clf.errors import UserError
from noisy_clf.training.recipes import Recipe

PUBLISHED: dict[str, Any] = {"ema": 0.9999, "random_flip": True, "validate_every": 5000, "save_every": 1000}


def adm(schedule: str, image_size: int, channel_mult: tuple[float, ...], network: dict[str, Any], **training: Any) -> Recipe:
    """As the released models were trained. (ADM appendix, table of diffusion models' hyperparameters)"""
    return Recipe(schedule, image_size, network={
        "channels": 256, "channel_mult": channel_mult, "res_blocks": 2, "attention_at": (32, 16, 8), **network},
        training=PUBLISHED | {"batch_size": 256, "lr": 1e-4} | training)


IMAGENET = {
    64: adm("cosine", 64, (1, 2, 3, 4), {"channels": 192, "res_blocks": 3, "head_channels": 64, "attention_order": "new",
                                         "dropout": 0.1}, iterations=540_000, batch_size=2048, lr=3e-4),
    128: adm("linear", 128, (1, 1, 2, 3, 4), {"heads": 4}, iterations=4_360_000),
    256: adm("linear", 256, (1, 1, 2, 2, 4, 4), {"head_channels": 64}, iterations=1_980_000),
    512: adm("linear", 512, (0.5, 1, 1, 2, 2, 4, 4), {"head_channels": 64}, iterations=1_940_000),
}
CIFAR10 = Recipe(  # Improved DDPM sec. 4, but with T = 1000, not 4000
    schedule="cosine", image_size=32,
    network={"channels": 128, "channel_mult": (1, 2, 2, 2), "res_blocks": 3, "attention_at": (16, 8), "heads": 4,
             "attention_order": "new", "resample": "conv", "dropout": 0.3},
    training=PUBLISHED | {"iterations": 500_000, "batch_size": 128, "lr": 1e-4})
WRITTEN = Recipe("cosine", 32, CIFAR10.network | {"channels": 64, "dropout": 0.1}, CIFAR10.training | {
    "iterations": 100_000, "lr": 2e-4})
SMALL = Recipe(  # for less than 32 pixels: not published
    schedule="cosine", image_size=16, network={
        "channels": 64, "channel_mult": (1, 2, 2), "res_blocks": 1, "attention_at": (8, 4), "head_channels": 32,
        "attention_order": "new", "resample": "conv", "dropout": 0.1}, training=PUBLISHED)
NAMED = {
    "digits": Recipe(  # some 20 minutes on two cores
        schedule="cosine", image_size=16, network=SMALL.network | {"channels": 32},
        training={"iterations": 5000, "batch_size": 64, "lr": 1e-3, "warmup": 200, "ema": 0.999, "grad_clip": 1.0,
                  "validate_every": 500, "save_every": 500}),
    "imagenet64": IMAGENET[64],
    "imagenet32": Recipe("cosine", 32, CIFAR10.network | {"dropout": 0.0}, CIFAR10.training),
    "imagenet": IMAGENET[256],
    "cifar10": CIFAR10,
    "cifar100": CIFAR10,
    "mnist": Recipe("cosine", 32, WRITTEN.network, WRITTEN.training | {"random_flip": False}),  # mirrored, it is another digit
    "fashion-mnist": WRITTEN,
}
OWN: dict[str, Any] = {"iterations": 500_000, "batch_size": 128, "lr": 1e-4}  # Improved DDPM's, of any size


def denoiser_recipe(dataset: str, image_size: int | None) -> Recipe:
    """A dataset's own; for images of one's own (64 pixels unless told), the published one of the nearest size below."""
    if dataset == "imagenet" and image_size is not None:
        if image_size not in IMAGENET:
            raise UserError(f"there is no recipe for ImageNet at {image_size} pixels; there are: "
                            f"{', '.join(map(str, IMAGENET))}.")
        return IMAGENET[image_size]
    if dataset in NAMED:
        return NAMED[dataset]
    size = image_size or 64
    known = max((recipe for recipe in (SMALL, CIFAR10, *IMAGENET.values()) if recipe.image_size <= size),
                key=lambda recipe: recipe.image_size, default=SMALL)
    at = tuple(size * pixels // known.image_size for pixels in known.network["attention_at"])
    return Recipe(known.schedule, size, known.network | {"attention_at": at, "dropout": 0.1}, known.training | OWN)
