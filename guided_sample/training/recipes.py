"""What is known to work: for each dataset a denoiser's architecture and its training."""
from __future__ import annotations

from noisy_clf.errors import UserError
from noisy_clf.training.recipes import Recipe

DENOISERS = {
    "digits": Recipe(  # some 20 minutes on two cores
        schedule="cosine", image_size=16,
        network={"channels": 32, "channel_mult": (1, 2, 2), "res_blocks": 1, "attention_at": (8, 4), "head_channels": 32,
                 "attention_order": "new", "resample": "conv", "dropout": 0.1},
        training={"iterations": 5000, "batch_size": 64, "lr": 1e-3, "warmup": 200, "ema": 0.999, "grad_clip": 1.0,
                  "validate_every": 500, "save_every": 500}),
}


def denoiser_recipe(dataset: str) -> Recipe:
    if dataset not in DENOISERS:
        raise UserError(f"there is no recipe for a denoiser of {dataset!r} yet; there is: {', '.join(DENOISERS)}.")
    return DENOISERS[dataset]
