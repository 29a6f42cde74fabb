"""The random Inception that eval_graph_vectors.npz was made with, under the names of the published weights' file."""
from __future__ import annotations

import torch
from torch import Tensor

from guided_sample.metrics.inception import Inception
from tests.guided_sample.metrics import inputs

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
SPLIT = {"2a": "mixed/conv", "2b": "mixed/conv_1", "3a": "mixed/conv", "3b": "mixed/conv_1"}


def node_of(module: str) -> str:
    """The graph's node for the convolution of this name."""
    if module in STEM:
        return "conv" + f"_{STEM.index(module)}" * (STEM.index(module) > 0)
    block, branch = module.removeprefix("Mixed_").split(".")
    number = MIXED.index(block)
    mixed = "mixed" + f"_{number}" * (number > 0)
    if branch == "branch_pool":
        return f"{mixed}/tower_2/conv"
    kind, _, place = branch.partition("_")
    if not place:
        return f"{mixed}/conv"
    tower = "tower" if kind in ("branch5x5", "branch7x7", "branch3x3") else "tower_1"
    if kind == "branch3x3dbl" and block == "6a":  # whose first branch has no tower
        tower = "tower"
    if place in SPLIT:
        return f"{mixed}/{tower}/{SPLIT[place]}"
    return f"{mixed}/{tower}/conv" + f"_{int(place) - 1}" * (place != "1")


def state_dict() -> dict[str, Tensor]:
    with torch.device("meta"):
        network = Inception()
    found = {}
    for name, weight in network.state_dict().items():
        if name.endswith(".conv.weight"):
            module = name.removesuffix(".conv.weight")
            node = node_of(module)
            found[name] = torch.from_numpy(inputs.conv_weight(node, *weight.shape))
            normalisation = zip(("weight", "bias", "running_mean", "running_var"), inputs.batch_norm(node, len(weight)))
            found |= {f"{module}.bn.{part}": torch.from_numpy(values) for part, values in normalisation}
    weight, bias = inputs.softmax_layer()
    return found | {"fc.weight": torch.from_numpy(weight), "fc.bias": torch.from_numpy(bias)}
