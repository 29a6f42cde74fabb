"""What is known of a model by its name or path alone: nothing is downloaded, loaded, or imported that takes seconds."""
from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from noisy_clf.checkpoints.cache import cached, checked_digest
from noisy_clf.checkpoints.diffusers_scheduler import (
    find_scheduler, find_weights, is_diffusers_folder, read_schedule, read_scheduler, unet_folder)
from noisy_clf.checkpoints.model_folder import BUNDLED, ModelFolder, bundled_models, file_digest
from noisy_clf.checkpoints.released import DENOISERS, RELEASED
from noisy_clf.checkpoints.run_folder import RUNS_MODELS
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule

CLEAN = "timm:"  # how the name of a classifier of clean images begins
CLIP = "clip:"  # and that of a dual encoder of images and texts


def classifier_folder(name: str) -> ModelFolder | None:
    """A classifier's folder; None for a released one, a bare file, or one of timm's. UserError if it is none of them."""
    if name in RELEASED["classifier"] or name.startswith(CLEAN) or Path(name).is_file():
        return None
    return ModelFolder.open(name, "classifier")


def encoder_folder(name: str) -> ModelFolder | None:
    """An encoder's folder, or that of a classifier whose torso is one; None for one of timm's or CLIP's. UserError if it is
    none of them. Where a name is that of an encoder and of a classifier, the encoder is meant."""
    if name.startswith((CLEAN, CLIP)):
        return None
    try:
        return ModelFolder.open(name, "encoder")
    except UserError:
        with suppress(UserError):
            return ModelFolder.open(name, "classifier")
        raise


def encoder_name(name: str) -> str:
    """An encoder's name without paths."""
    folder = encoder_folder(name)
    if folder:
        return name if folder.path.is_relative_to(BUNDLED) else plain_name(folder.path)
    model, at, file = name.partition("@")
    kind, _, own = model.partition(":")
    return f"{kind}:{Path(own).name}{at}{Path(file).name}"


def plain_name(path: Path) -> str:
    """A model's, of its folder: a training run's, without best or last."""
    whole = Path(os.path.abspath(path))
    return whole.parent.name if whole.name in RUNS_MODELS else whole.name


def training_set(name: str) -> str | None:
    """The dataset that a classifier says it learned from."""
    if name in RELEASED["classifier"]:
        return "imagenet64" if name == "imagenet64" else "imagenet"
    folder = classifier_folder(name)
    return learned_from(folder) if folder else None


def learned_from(folder: ModelFolder) -> str | None:
    """The dataset that a model says it learned from."""
    training = folder.config.get("training")
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


def denoiser_record(name_or_path: str | Path) -> dict[str, Any]:
    """What a classifier keeps of the denoiser whose schedule it takes: {"name": without its path, "digest": SHA-256 of its
    weights or None where they are not here, "run": whether it is a training run's, whose weights may move on}."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in DENOISERS:
        file = cached(DENOISERS[name].file)
        return {"name": name, "digest": file and checked_digest(file), "run": False}
    foreign, digest = is_diffusers_folder(path), None
    model = None if foreign else ModelFolder.open(name, "denoiser")
    with suppress(UserError, FileNotFoundError):  # a schedule can be taken from a folder without weights
        digest = model.digest if model else file_digest(find_weights(unet_folder(path)))
    whole = model.path if model else path
    run = not foreign and Path(os.path.abspath(whole)).name in RUNS_MODELS
    return {"name": name if name in bundled_models("denoiser") else plain_name(whole), "digest": digest, "run": run}


def same_denoiser(one: Any, other: dict[str, Any]) -> bool:
    """Whether two such records are of one denoiser, by its weights, or of one training run, by its name."""
    if not isinstance(one, dict):
        return False
    same_weights = other["digest"] is not None and one.get("digest") == other["digest"]
    return same_weights or other["run"] and one.get("run") is True and one.get("name") == other["name"]
