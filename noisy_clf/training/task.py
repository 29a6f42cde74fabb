"""What is trained, and by which loss."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from noisy_clf.processes import Processes
from noisy_clf.training.draws import Draws


@dataclass(frozen=True)
class Task:
    """What is trained, and so all that differs between a classifier and a denoiser.

    network           whose parameters learn
    T                 timesteps
    loss              (network, x_0 [B,C,H,W], y [B], t [B], draws) -> loss [B]; all other chance comes from the draws
    validate          (network, processes) -> metrics; the lowest "loss" is the best model
    preview           (network) -> a picture of what it has learned, uint8 [h,w] or [h,w,3], drawn at each validation
    model_config      the config.json of the models it writes
    multiple          samples that a loss takes together: a batch's parts begin at multiples of it
    channels_last     whether the network learns faster in that memory layout
    parameter_groups  for the optimizer, each with an "lr_scale"; none: all parameters alike
    options           what else makes the run what it is
    record            what its config.json tells under "training" beside, without making the run another
    defaults          of the "model" and the "training" of a run's options: what counts for those that an older run's lack
    """

    network: nn.Module
    T: int
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor, Draws], Tensor]
    validate: Callable[[nn.Module, Processes], dict[str, float]]
    model_config: dict[str, Any]
    preview: Callable[[nn.Module], np.ndarray] | None = None
    multiple: int = 1
    channels_last: bool = False
    parameter_groups: list[dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
