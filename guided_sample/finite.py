"""Is the guidance made of finite numbers? Asked without making a GPU wait at each step."""
from __future__ import annotations

import torch
from torch import Tensor

from guided_sample.model import Model, Prediction
from guided_sample.steps import Step
from noisy_clf.errors import UserError


class NotFinite(UserError):
    """A log-density or gradient with NaN or infinity in it: at timestep `t`, for these samples."""

    def __init__(self, t: int, samples: list[int], guides: str) -> None:
        super().__init__(f"the log-density of {guides}, or its gradient, is not finite at t = {t} for sample "
                         f"{', '.join(map(str, samples))}; try a smaller scale, one in an interval of small "
                         f"sigma (interval=0:3), or --precision float32.")
        self.t, self.samples = t, samples


class Watch:
    """Of one batch's guidance. What is found stays on the device until `read`, but on a CPU is told at once.

    indices  what messages call the batch's samples
    guides   who guides, in words
    """

    def __init__(self, indices: list[int], guides: str) -> None:
        self.indices, self.guides = indices, guides
        self.found: list[tuple[int, Tensor]] = []  # t, and whether all of each sample's is finite [B]

    def over(self, model: Model) -> Model:
        """The same model, watched."""
        def watched(x_t: Tensor, step: Step) -> Prediction:
            prediction = model(x_t, step)
            if prediction.log_density is not None:
                finite = prediction.log_density.isfinite()
                if prediction.gradient is not None:
                    finite = finite & prediction.gradient.isfinite().flatten(1).all(dim=1)
                self.found.append((step.t, finite))
                if x_t.device.type == "cpu":
                    self.read()
            return prediction
        return watched

    def read(self) -> None:
        """NotFinite for the first step that was not."""
        found, self.found = self.found, []
        if found and not bool(torch.stack([finite for _, finite in found]).all()):
            t, finite = next((t, finite) for t, finite in found if not finite.all())
            lost = dict.fromkeys(self.indices[i] for i in (~finite).nonzero().flatten().tolist())  # once, of several chains
            raise NotFinite(t, list(lost), self.guides)
