"""Tensors out of a checkpoint's file (.pt of torch.save, .safetensors), memory-mapped. No code in it is ever run."""
from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from noisy_clf.errors import UserError, disk_trouble, one_line

AGAIN = "remove it, and copy or download it again"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, as float32, without the "module." of DataParallel; whatever else the file is, is refused."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    refuse_no_checkpoint(path, head)
    found = read_safetensors(path) if path.suffix == ".safetensors" or head[8:10] == b'{"' else read_torch(path, head)
    if not isinstance(found, dict) or not found:
        what = "nothing" if found == {} else f"something else ({type(found).__name__})"
        raise UserError(f"{path} should hold tensors by name and holds {what}; save the model's state_dict().")
    if {"state", "param_groups"} <= set(found):
        raise UserError(f"{path} is an optimizer's state (opt*.pt); give the model beside it, best its moving average "
                        f"(ema_*.pt).")
    other = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise UserError(f"{path} is not a bare state dict (its {', '.join(other[:4])} "
                        f"{'is no tensor' if len(other) == 1 else 'are no tensors'}); save the model's state_dict() alone.")
    odd = next((str(name) for name, tensor in found.items() if not is_plain(tensor)), None)
    if odd is not None:
        raise UserError(f"{path}: {odd} is a sparse, quantised, complex or empty tensor, which no network here has; save the "
                        f"model's state_dict() with plain ones.")
    names = list(map(str, found))
    parallel = "module." if all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(parallel): tensor.float() for name, tensor in zip(names, found.values())}


def is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)


def refuse_no_checkpoint(path: Path, head: bytes) -> None:
    text = b"" if b"\0" in head else head.lstrip(b" \t\r\n\xef\xbb\xbf")  # the sizes in a model's file have zeros
    if not head.strip():
        raise UserError(f"{path} is empty; {AGAIN}.")
    if text[:1] == b"<":
        raise UserError(f"{path} is a web page, not a checkpoint: something was downloaded in its place; download it again.")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({one_line(error)}); {AGAIN}.") from error


def read_torch(path: Path, head: bytes) -> object:
    zipped = head[:2] == b"PK"
    if zipped and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a whole checkpoint of torch (its end is missing); {AGAIN}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles: these are opened as data only
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"global (\S+)", str(error))
        if found:
            raise UserError(f"{path} carries code ({found[1]}) and is not opened; only tensors are loaded: save the model's "
                            f"state_dict() alone.") from error
        raise UserError(f"{path} is not a checkpoint of torch, or is damaged; {AGAIN}.") from error
    except Exception as error:  # what is no pickle at all makes torch's reader stumble in any way
        raise UserError(f"{path} is not a whole checkpoint of torch ({one_line(error)}); {AGAIN}.") from error
