"""From a name or a path to a Denoiser. One file for each kind of checkpoint; foreign ones are adapted there, at the door."""
from __future__ import annotations

from pathlib import Path

from guided_sample.denoiser import Denoiser
from guided_sample.loaders.loaded import Advice, LoadedModel
from guided_sample.loaders.model_folder import load_model_folder
from noisy_clf.checkpoint import ModelFolder

__all__ = ["Advice", "LoadedModel", "load_denoiser", "load_model"]


def load_model(name_or_path: str | Path) -> LoadedModel:
    """A bundled model by name, or one from its folder or from its training run's."""
    return load_model_folder(ModelFolder.open(name_or_path, "denoiser"))


def load_denoiser(name_or_path: str | Path) -> Denoiser:
    """The frozen denoiser of that name or path, in evaluation mode, on the CPU."""
    return load_model(name_or_path).denoiser
