"""From a name or a path to a Denoiser. One file for each kind of checkpoint; foreign ones are adapted there, at the door."""
from __future__ import annotations

from pathlib import Path

from guided_sample.advice import Advice
from guided_sample.denoiser import Denoiser
from guided_sample.loaders.diffusers_folder import load_diffusers_folder
from guided_sample.loaders.guided_diffusion import denoiser_from_file
from guided_sample.loaders.loaded import LoadedModel
from guided_sample.loaders.model_folder import load_model_folder
from guided_sample.released import MODELS
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.diffusers_scheduler import is_diffusers_folder
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.checkpoints.bare_file import released_or_bare_file

__all__ = ["LoadedModel", "load_denoiser", "load_model"]


def load_model(name_or_path: str | Path, settings: Settings | None = None) -> LoadedModel:
    """A bundled or released model by name, or one from its folder, its training run's, a diffusers folder or a .pt file.

    settings  for a bare .pt file, what the shapes of its tensors do not tell (`noisy_clf/checkpoints/settings.py`)
    """
    file = released_or_bare_file(name_or_path, settings, "denoiser")
    if file is not None:
        denoiser = denoiser_from_file(file.path, file.settings)
        released = next((name for name in MODELS if settings is None and DENOISERS[name].file == file.path.name), None)
        advice = MODELS[released].advice if released else Advice()  # it was recognised: else settings had been asked for
        return LoadedModel(denoiser, file.digest(), denoiser.config(), advice, settings_given=settings is not None)
    if is_diffusers_folder(Path(name_or_path)):
        return load_diffusers_folder(Path(name_or_path))
    return load_model_folder(ModelFolder.open(name_or_path, "denoiser"))


def load_denoiser(name_or_path: str | Path, settings: Settings | None = None) -> Denoiser:
    """The frozen denoiser of that name or path, in evaluation mode, on the CPU."""
    return load_model(name_or_path, settings).denoiser
