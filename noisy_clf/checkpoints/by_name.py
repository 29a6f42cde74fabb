"""What is known of a model by its name or path alone: nothing is downloaded, loaded, or imported that takes seconds."""
from __future__ import annotations

from pathlib import Path

from noisy_clf.checkpoints.diffusers_scheduler import find_scheduler, is_diffusers_folder, read_schedule, read_scheduler
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.released import DENOISERS, RELEASED
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule

CLEAN = "timm:"  # how the name of a classifier of clean images begins


def classifier_folder(name: str) -> ModelFolder | None:
    """A classifier's folder; None for a released one, a bare file, or one of timm's. UserError if it is none of them."""
    if name in RELEASED["classifier"] or name.startswith(CLEAN) or Path(name).is_file():
        return None
    return ModelFolder.open(name, "classifier")


def training_set(name: str) -> str | None:
    """The dataset that a classifier says it learned from."""
    if name in RELEASED["classifier"]:
        return "imagenet64" if name == "imagenet64" else "imagenet"
    folder = classifier_folder(name)
    training = folder.config.get("training") if folder else None
    found = training.get("dataset") if isinstance(training, dict) else None
    return found if isinstance(found, str) else None


def denoiser_schedule(name_or_path: str | Path) -> NoiseSchedule:
    """The noise schedule of a denoiser: a bundled or released one by name, or one from its folder or diffusers'."""
    if str(name_or_path) in DENOISERS:
        return DENOISERS[str(name_or_path)].schedule
    if Path(name_or_path).is_file():
        raise UserError(f"{name_or_path} is a bare file, which does not tell its schedule; give --noise-schedule and --T.")
    if is_diffusers_folder(Path(name_or_path)):
        file = find_scheduler(Path(name_or_path))
        return read_schedule(read_scheduler(file), file)
    return ModelFolder.open(name_or_path, "denoiser").schedule
