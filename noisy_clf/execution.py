"""Where and how precisely to compute."""
from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from noisy_clf.errors import UserError

if TYPE_CHECKING:  # imported where it is used: commands name precisions, and refuse them, before they load it
    import torch
    from torch import nn

PRECISIONS = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # and their names in torch


def dtype_of(precision: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU there is, else the CPU; one that is not there is refused.

    Of the processes that torchrun starts on a machine, or the tasks of an srun, `auto` and `cuda` give each a GPU of its own.
    """
    import torch

    mine, task = (os.environ.get(name) for name in ("LOCAL_RANK", "SLURM_LOCALID"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and mine is not None:
        name = f"cuda:{mine}"
    elif name == "cuda" and task is not None and torch.cuda.device_count():
        name = f"cuda:{int(task) % torch.cuda.device_count()}"  # with --gpus-per-task, each task sees its own alone
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


def device_name(device: torch.device) -> str:
    import torch

    threads = torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({threads} thread{'s' * (threads > 1)})"


def exact_float32() -> None:
    """Convolutions of float32 on a GPU in float32, for this process; torch's own default is TF32, with 10 bits."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


def refuse_precision(precision: str, device: torch.device) -> None:
    """UserError for half precision where it is no use."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError("fp16 is for GPUs, and the networks would run on the CPU; give --precision bf16 or float32, or "
                        "--device cuda.")


def refuse_uncompilable(device: torch.device) -> None:
    """UserError where torch.compile would find no compiler."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise UserError("--compile on a GPU needs triton, which is not installed; pip install triton, or leave --compile out.")
    if device.type == "cuda":  # triton's
        language, variable, usual = "C", "CC", ["gcc", "clang"]
    else:
        language, variable, usual = "C++", "CXX", [{"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")]
    compilers = os.environ.get(variable, "").split()[:1] or usual
    if not any(map(shutil.which, compilers)):
        raise UserError(f"--compile needs a {language} compiler, and there is none ({', '.join(compilers)}); install one, name "
                        f"one by {variable}, or leave --compile out.")


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compiles a network, on its device, for each shape that it is given; on a GPU with CUDA graphs, whose outputs the next
    pass overwrites."""
    network.compile(dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)


def quicken(network: nn.Module, precision: str, channels_last: bool) -> None:
    """Brings a frozen network, on its device, to the precision and the memory layout."""
    import torch

    from noisy_clf.networks.torso import store_torso_as

    if channels_last:
        network.to(memory_format=torch.channels_last)
    if precision != "float32":
        store_torso_as(dtype_of(precision), network)
