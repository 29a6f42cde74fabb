from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from noisy_clf.errors import UserError
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.networks.timm_parameters import freeze_stages, parameter_groups


def network(name: str, **settings: Any) -> TimmClassifier:
    return TimmClassifier(TimmConfig(**{"name": name, "image_size": 32, "in_channels": 3, "num_classes": 7,
                                        "batch_norm": "frozen", **settings})).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "levit_128s"])
def test_parameter_groups_hold_every_parameter_once_and_scale_by_depth(name: str) -> None:
    ours = network(name)
    groups = parameter_groups(ours, weight_decay=0.1, layer_decay=0.5)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    parameters = list(ours.parameters())
    assert sum(len(group["params"]) for group in groups) == len(parameters) and scale.keys() == set(map(id, parameters))
    assert all(decay[id(parameter)] == 0 for parameter in parameters if parameter.ndim <= 1)
    time = [parameter for path, parameter in ours.named_parameters() if not path.startswith("backbone.")]
    assert time and all(scale[id(parameter)] == 1 for parameter in time)
    head = ours.backbone.get_classifier()
    assert all(scale[id(parameter)] == 1 for layer in (head if isinstance(head, tuple) else [head])
               for parameter in layer.parameters())
    depths = sorted({-torch.tensor(value).log2().item() for value in scale.values()})
    assert depths == list(range(len(depths))) and len(depths) >= 3  # 1, 1/2, 1/4, ... without a gap
    assert scale[id(next(iter(ours.backbone.parameters())))] == min(scale.values())
    torch.optim.AdamW(groups, lr=0.1)


def test_layer_decay_1_treats_all_alike_as_adm_does() -> None:
    ours = network("test_resnet")
    group, = parameter_groups(ours, weight_decay=0.1, layer_decay=1.0)
    assert (group["lr_scale"], group["weight_decay"]) == (1.0, 0.1)
    assert list(map(id, group["params"])) == list(map(id, ours.parameters()))


@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.1, float("nan")])
def test_a_layer_decay_out_of_range_is_refused(layer_decay: float) -> None:
    with pytest.raises(UserError, match="layer_decay must be above 0 and at most 1"):
        parameter_groups(network("test_resnet"), 0.1, layer_decay)


@pytest.mark.parametrize("name, count, first_to_learn", [
    ("test_resnet", 0, "conv1"), ("test_resnet", 1, "layer2"), ("test_resnet", 4, "fc"), ("test_convnext", 2, "stages.2"),
    ("test_vit", 1, "blocks.1"), ("regnetx_002", 3, "s4")])
def test_frozen_stages_do_not_learn_and_the_time_layers_do(name: str, count: int, first_to_learn: str) -> None:
    ours = network(name).train()
    freeze_stages(ours, count)
    learns = [path for path, parameter in ours.named_parameters() if parameter.requires_grad]
    backbone = [path.removeprefix("backbone.") for path in learns if path.startswith("backbone.")]
    assert backbone[0].startswith(first_to_learn)
    every = [path for path, _ in ours.backbone.named_parameters()]
    assert backbone == every[every.index(backbone[0]):] or name == "test_vit"
    assert {path for path, _ in ours.named_parameters() if not path.startswith("backbone.")} <= set(learns)
    for layer_decay in (1.0, 0.5):
        groups = parameter_groups(ours, 0.1, layer_decay)
        assert sum(len(group["params"]) for group in groups) == len(learns)
    for parameter in ours.modulations.parameters():
        nn.init.normal_(parameter, std=0.1)
    before = {path: parameter.clone() for path, parameter in ours.named_parameters()}
    F.cross_entropy(ours(torch.randn(2, 3, 32, 32), torch.tensor([0, 99])), torch.tensor([0, 1])).backward()
    torch.optim.AdamW(groups, lr=0.1).step()
    moved = {path for path, parameter in ours.named_parameters() if not torch.equal(parameter, before[path])}
    assert moved and moved <= set(learns) and any(path.startswith("modulations.") for path in moved)


@pytest.mark.parametrize("count", [-1, 5])
def test_more_stages_than_there_are_cannot_be_frozen(count: int) -> None:
    with pytest.raises(UserError, match=f"test_resnet has 4 stages, of which 0 to 4 can be frozen, not {count}"):
        freeze_stages(network("test_resnet"), count)


@pytest.mark.parametrize("error", [AssertionError("coarse grouping is not implemented"), AttributeError("group_matcher")])
def test_stages_that_timm_does_not_tell_cannot_be_frozen(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = network("test_convnext")
    monkeypatch.setattr(type(ours.backbone), "group_matcher", Mock(side_effect=error))
    with pytest.raises(UserError, match="timm does not tell which parameters of test_convnext are of which stage"):
        freeze_stages(ours, 1)
    freeze_stages(ours, 0)  # which asks for none, and so refuses no model
    assert all(parameter.requires_grad for parameter in ours.parameters())
