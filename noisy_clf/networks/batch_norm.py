"""No BatchNorm: a sample's logits must not depend on the others of its batch. Frozen statistics, or GroupNorm in its place."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisy_clf.errors import UserError


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The layers of any kind that hold statistics of batches."""
    return [module for module in network.modules() if hasattr(module, "running_var")]


def in_plain_order(norm: nn.Module, inputs: Any, output: Tensor) -> None:
    """A hook that has the gradient of a single sample arrive channel by channel: torch 2.15's batch_norm on the CPU returns
    a wrong one where it arrives token by token."""
    if len(output) == 1 and output.requires_grad and not torch.compiler.is_compiling():
        output.register_hook(torch.Tensor.contiguous)


def replace_batch_norm(model: nn.Module, name: str) -> None:
    """Puts GroupNorm in the place of each BatchNorm, with its affine parameters and its activation."""
    from timm.layers import BatchNormAct2d, GroupNormAct

    for parent in list(model.modules()):
        norm: Any
        for child_name, norm in list(parent.named_children()):
            new: nn.Module
            if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
                new = nn.GroupNorm(groups_of(norm.num_features), norm.num_features, norm.eps, norm.affine)
            elif type(norm) is BatchNormAct2d:
                new = GroupNormAct(norm.num_features, groups_of(norm.num_features), norm.eps, norm.affine)
                new.act, new.drop = norm.act, norm.drop
            elif hasattr(norm, "running_var"):
                raise UserError(f"{name} normalises over the batch by {type(norm).__name__}, for which there is no GroupNorm; "
                                f"choose batch_norm frozen, or another model.")
            else:
                continue
            if norm.affine:
                new.weight, new.bias = norm.weight, norm.bias
            setattr(parent, child_name, new)


def groups_of(channels: int) -> int:
    """At most 32 groups, of at least 8 channels: fewer would leave little of a map that has shrunk to one pixel."""
    return max((groups for groups in range(1, 33) if channels % groups == 0 and channels // groups >= 8), default=1)
