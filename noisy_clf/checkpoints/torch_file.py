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

from noisy_clf.checkpoints.state_dict import state_dict_of
from noisy_clf.errors import UserError, disk_trouble, one_line, out_of_memory

AGAIN = "remove it, and copy or download it again"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, floating point numbers as float32, without the names of wrappers around the network.

    Of a training checkpoint it is the average of the weights, or else the model's (state_dict.py); all else is refused.
    """
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
    tensors = state_dict_of(path, found)
    odd = next((name for name, tensor in tensors.items() if not is_plain(tensor)), None)
    if odd is not None:
        raise UserError(f"{path}: {odd} is a sparse, quantised, complex or empty tensor, which no network here has; save the "
                        f"model's state_dict() with plain ones.")
    return in_float32(path, tensors)


def in_float32(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating point numbers of any precision; whole numbers, which few tensors may be, stay."""
    found = {}
    for name, tensor in tensors.items():
        try:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
        except NotImplementedError as error:  # of which torch knows little but the name
            raise UserError(f"{path}: {name} is of {tensor.dtype}, which cannot be read; save the model's state_dict() in "
                            f"float32, float16 or bfloat16.") from error
    return found


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


def read_safetensors(path: Path, again: str = AGAIN) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{path} is not a whole safetensors file ({one_line(error)}); {again}.") from error


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
        if out_of_memory(error):
            raise
        if "TorchScript" in str(error):  # as OpenAI's own CLIP files are
            raise UserError(f"{path} is a program in TorchScript, which is not run here; give its tensors alone: save its "
                            f"state_dict(), or for CLIP have them downloaded, clip:ViT-B-32@openai.") from error
        raise UserError(f"{path} is not a whole checkpoint of torch ({one_line(error)}); {AGAIN}.") from error
