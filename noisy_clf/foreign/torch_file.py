"""Tensors out of a checkpoint's file (.pt of torch.save, .safetensors), memory-mapped. No code in it is ever run."""
from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from noisy_clf.checkpoint import refuse_other_tensors
from noisy_clf.errors import UserError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, half-precision tensors as float32; whatever else the file is, is told and refused."""
    refuse_no_checkpoint(path)
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds a {type(found).__name__}, not tensors by name; give a state dict.")
    if {"state", "param_groups"} <= set(found):
        raise UserError(f"{path} is an optimizer's state (opt*.pt); give the model beside it, best its moving average "
                        f"(ema_*.pt).")
    other = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise UserError(f"{path} is not a bare state dict (its {', '.join(other[:4])} {'is' if len(other) == 1 else 'are'} no "
                        f"tensor); save the model's state_dict() alone.")
    return {str(name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def refuse_no_checkpoint(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(512).lstrip()
    if not head:
        raise UserError(f"{path} is empty; copy or download it again.")
    if head[:1] == b"<":
        raise UserError(f"{path} is a web page, not a checkpoint: something was downloaded in its place; download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({one_line(error)}); copy or download it again.") from error


def read_torch(path: Path) -> object:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles: these are opened as data only
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"global (\S+)", str(error))
        if found:
            raise UserError(f"{path} carries code ({found[1]}) and is not opened; only tensors are loaded: save the model's "
                            f"state_dict() alone.") from error
        raise UserError(f"{path} is not a checkpoint of torch, or is damaged; copy or download it again.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole checkpoint of torch ({one_line(error)}); copy or download it again.") from error


def one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:120]


def give_tensors(network: nn.Module, path: Path, tensors: dict[str, Tensor]) -> None:
    """Makes the tensors the network's own, without a copy, and freezes it; what does not fit is refused by name."""
    refuse_other_tensors(path, tensors, network.state_dict())
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)
