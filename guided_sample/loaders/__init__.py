"""From a name or a path to a Denoiser. One file for each kind of checkpoint; foreign ones are adapted there, at the door."""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from guided_sample.denoiser import Denoiser
from guided_sample.loaders.model_folder import load_model_folder
from guided_sample.timesteps import nearest_steps
from noisy_clf.checkpoint import ModelFolder, config_from
from noisy_clf.errors import UserError


@dataclass(frozen=True)
class Advice:
    """How a model is best sampled, as its config.json says under "sampling": by which classifier, scale and steps."""

    classifier: str | None = None
    scale: float = 1.0
    steps: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.classifier, str | None) and isinstance(self.scale, int | float) and math.isfinite(self.scale)
                and isinstance(self.steps, dict) and all(isinstance(spec, str) for spec in self.steps.values())):
            raise UserError(f"\"sampling\" must hold a classifier's name, a scale and steps by sampler, not {asdict(self)}.")

    def steps_for(self, sampler: str, T: int) -> str:
        """The advised --steps, or else ADM's: 250 for ddpm and ddim25 for ddim, as near as T timesteps allow."""
        return self.steps.get(sampler) or nearest_steps({"ddpm": "250", "ddim": "ddim25"}[sampler], T)


@dataclass(frozen=True)
class LoadedModel:
    """A frozen denoiser, the SHA-256 of its weights, and the advice that came with it."""

    denoiser: Denoiser
    digest: str
    advice: Advice


def load_model(name_or_path: str | Path) -> LoadedModel:
    """A bundled model by name, or one from its folder or from its training run's."""
    folder = ModelFolder.open(name_or_path, "denoiser")
    advice = config_from(Advice, folder.config.get("sampling") or {}, folder.path)
    return LoadedModel(load_model_folder(folder), folder.digest, advice)


def load_denoiser(name_or_path: str | Path) -> Denoiser:
    """The frozen denoiser of that name or path, in evaluation mode, on the CPU."""
    return load_model(name_or_path).denoiser
