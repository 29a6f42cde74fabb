"""How a model is best sampled."""
from __future__ import annotations

from dataclasses import dataclass, field

from guided_sample.samplers import SAMPLERS
from guided_sample.steps import nearest_steps
from noisy_clf.checkpoints.model_folder import CONFIG, ModelFolder, config_from


@dataclass(frozen=True)
class Advice:
    """How a model is best sampled, by sampler ("ddpm", "ddim"): with which classifier, scale and steps.

    A model folder's config.json says so under "sampling", where one scale may stand for all samplers.
    """

    classifier: str | None = None
    scale: float | dict[str, float] = 1.0
    steps: dict[str, str] = field(default_factory=dict)

    def scale_for(self, sampler: str) -> float:
        return self.scale.get(sampler, self.scale.get("ddpm", 1.0)) if isinstance(self.scale, dict) else self.scale

    def steps_for(self, sampler: str, T: int) -> str:
        """The advised --steps, or else ADM's, as near as T timesteps allow."""
        return self.steps.get(sampler) or nearest_steps(SAMPLERS[sampler].steps, T)


def advice_of(folder: ModelFolder) -> Advice:
    """What a denoiser's config.json advises."""
    return config_from(Advice, folder.config.get("sampling") or {}, f"{folder.path / CONFIG}, in \"sampling\"")
