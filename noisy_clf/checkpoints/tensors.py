"""A file's tensors become a network's, if they are exactly those that it wants."""
from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from noisy_clf.errors import UserError


def refuse_other_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """UserError that names a tensor of the file `path` that is missing, unknown, of another shape or of whole numbers."""
    missing, extra = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    if missing or extra:
        raise UserError(f"{path} does not fit its configuration: " + "; ".join(
            f"{len(names)} {what} tensor{'s' * (len(names) > 1)}, such as {names[0]}"
            for what, names in (("missing", missing), ("unknown", extra)) if names) + ".")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise UserError(f"{path} does not fit its configuration: {name} has shape {list(found[name].shape)}, "
                            f"not {list(tensor.shape)}.")
        if tensor.is_floating_point() and not found[name].is_floating_point():
            raise UserError(f"{path}: {name} is of {found[name].dtype}, and weights are floating point numbers; save the "
                            f"model's state_dict() in float32, float16 or bfloat16.")


def give_tensors(network: nn.Module, path: Path, tensors: dict[str, Tensor]) -> None:
    """Makes the tensors the network's own, without a copy, and freezes it; what does not fit is refused by name."""
    refuse_other_tensors(path, tensors, network.state_dict())
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of them as a safetensors file, in hexadecimal digits."""
    return hashlib.sha256(save({name: tensor.contiguous() for name, tensor in tensors.items()})).hexdigest()
