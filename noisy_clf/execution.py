"""Where and how precisely to compute."""
from __future__ import annotations

import os

import torch

from noisy_clf.errors import UserError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU there is, else the CPU; one that is not there is refused.

    Of the processes that torchrun starts on a machine, `auto` and `cuda` give each a GPU of its own.
    """
    mine = os.environ.get("LOCAL_RANK")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and mine is not None:
        name = f"cuda:{mine}"
    elif name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(f"device {name!r} would be that of all processes; give --device cuda: each takes a GPU of its own.")
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())] + (
        ["mps"] if torch.backends.mps.is_available() else [])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (str(device) not in there and not (str(device) == "cuda" and "cuda:0" in there)):
        raise UserError(f"device {name!r} is not there; this machine has: {', '.join(there)}.")
    return device


def exact_float32() -> None:
    """Convolutions of float32 on a GPU in float32, for this process; torch's own default is TF32, with 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
