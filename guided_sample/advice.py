"""How a model is best sampled."""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from guided_sample.samplers import SAMPLERS
from guided_sample.steps import nearest_steps
from noisy_clf.checkpoints.model_folder import ModelFolder, config_from
from noisy_clf.errors import UserError


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
        return self.steps.get(sampler) or nearest_steps(SAMPLERS[sampler].steps, T)


def advice_of(folder: ModelFolder) -> Advice:
    """What a denoiser's config.json advises."""
    return config_from(Advice, folder.config.get("sampling") or {}, folder.path)
