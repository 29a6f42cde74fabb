"""What every loader returns."""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from guided_sample.denoiser import Denoiser
from guided_sample.steps import nearest_steps
from noisy_clf.errors import UserError

DEFAULT_STEPS = {"ddpm": "250", "ddim": "ddim25"}  # ADM's


@dataclass(frozen=True)
class Advice:
    """How a model is best sampled, by sampler ("ddpm", "ddim"): with which classifier, scale and steps.

    A model folder's config.json says so under "sampling", where one scale may stand for all samplers.
    """

    classifier: str | None = None
    scale: float | dict[str, float] = 1.0
    steps: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scales = self.scale.values() if isinstance(self.scale, dict) else [self.scale]
        if not (isinstance(self.classifier, str | None)
                and all(isinstance(scale, int | float) and math.isfinite(scale) for scale in scales)
                and isinstance(self.steps, dict) and all(isinstance(spec, str) for spec in self.steps.values())):
            raise UserError(f"\"sampling\" must hold a classifier's name, a scale and steps by sampler, not {asdict(self)}.")

    def scale_for(self, sampler: str) -> float:
        return self.scale.get(sampler, self.scale.get("ddpm", 1.0)) if isinstance(self.scale, dict) else self.scale

    def steps_for(self, sampler: str, T: int) -> str:
        """The advised --steps, or else ADM's, as near as T timesteps allow."""
        return self.steps.get(sampler) or nearest_steps(DEFAULT_STEPS[sampler], T)


@dataclass(frozen=True)
class LoadedModel:
    """A frozen denoiser, in evaluation mode, on the CPU.

    digest  SHA-256 of its weights' file
    config  all else that its predictions depend on, as JSON has it: a run's manifest keeps it
    advice  how it is best sampled
    settings_given  by somebody, for a file that carries none
    """

    denoiser: Denoiser
    digest: str
    config: dict[str, Any]
    advice: Advice = Advice()
    settings_given: bool = False
