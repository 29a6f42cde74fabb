"""How a model is best sampled."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guided_sample.samplers import SAMPLERS
from guided_sample.steps import nearest_steps
from noisy_clf.checkpoints.model_folder import CONFIG, ModelFolder, config_from
from noisy_clf.schedule import NoiseSchedule

FAST = {"sampler": "unipc", "steps": "logsnr15", "threshold": "static"}  # the best known of 15 evaluations: README's table


@dataclass(frozen=True)
class Advice:
    """How a model is best sampled, by sampler ("ddpm", "ddim", ...): with which classifier, scale and steps; what --fast takes
    otherwise than FAST; and the encoders that compare its samples with pictures, and with words.

    A model folder's config.json says so under "sampling", where one scale may stand for all samplers.
    """

    classifier: str | None = None
    scale: float | dict[str, float] = 1.0
    steps: dict[str, str] = field(default_factory=dict)
    fast: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    text_encoder: str | None = None

    def scale_for(self, sampler: str) -> float:
        """That of the nearest sampler for which there is one."""
        if not isinstance(self.scale, dict):
            return self.scale
        return next((self.scale[name] for name in (sampler, SAMPLERS[sampler].like, "ddpm") if name in self.scale), 1.0)

    def steps_for(self, sampler: str, schedule: NoiseSchedule) -> str:
        """The advised --steps, or else the sampler's own, as near as the schedule allows."""
        return self.steps.get(sampler) or nearest_steps(SAMPLERS[sampler].steps, schedule)


def advice_of(folder: ModelFolder) -> Advice:
    """What a denoiser's config.json advises."""
    return config_from(Advice, folder.config.get("sampling") or {}, f"{folder.path / CONFIG}, in \"sampling\"")
