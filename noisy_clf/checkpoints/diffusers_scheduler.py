"""A diffusers scheduler's configuration: what it says of the training that the model had. And where the files lie."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from noisy_clf.errors import UserError
from noisy_clf.files import read_json
from noisy_clf.schedule import MOST_T, SCHEDULES, NoiseSchedule, cosine_betas

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # the first that is there, as in diffusers
PREDICTS = {"epsilon": "eps", "v_prediction": "velocity", "sample": "x_0"}
BETA_SCHEDULES: dict[str, Callable[[float, float, int], np.ndarray]] = {  # the middle two: latent-diffusion's, GeoDiff's
    "linear": np.linspace, "scaled_linear": lambda start, end, T: np.linspace(start ** 0.5, end ** 0.5, T) ** 2,
    "sigmoid": lambda start, end, T: start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, T))),
    "squaredcos_cap_v2": lambda start, end, T: cosine_betas(T)}

# its settings: those that say what the model is; those that must be off; those of a sampler, ours to choose
FACTS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
         "prediction_type": "epsilon", "variance_type": None}
OFF = ("rescale_betas_zero_snr", "thresholding")
OF_THE_SAMPLER = ("timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample", "clip_sample_range",
                  "dynamic_thresholding_ratio", "sample_max_value", "tensor_format")


def is_diffusers_folder(path: Path) -> bool:
    """Whether it is a pipeline's folder, or that of one of diffusers' models."""
    if (path / INDEX).is_file():
        return True
    try:
        return (path / CONFIG).is_file() and "_class_name" in read_json(path / CONFIG)
    except UserError:  # not JSON: nobody's
        return False


def find_scheduler(path: Path) -> Path:
    for file in (path / "scheduler" / SCHEDULER, path / SCHEDULER):
        if file.is_file():
            return file
    raise UserError(f"{path} has no {SCHEDULER}, in it or in scheduler/, that tells the noise schedule; save the DDPMScheduler "
                    f"of its training there, or give its pipeline's folder.")


def unet_folder(path: Path) -> Path:
    """Where a pipeline's UNet is; pipelines on the hub may be flat too."""
    return path / "unet" if (path / "unet").is_dir() else path


def find_weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(file.name for file in folder.glob("diffusion_*"))  # sharded, or a variant such as .fp16
    raise UserError(f"{folder} has neither {' nor '.join(WEIGHTS)}"
                    + (f", only {others[0]}, and sharded or variant weights are not read" if others else "")
                    + "; save the model with save_pretrained into one file (max_shard_size=\"1000GB\", no variant).")


def read_scheduler(file: Path) -> dict[str, Any]:
    """The training facts in a DDPMScheduler's or DDIMScheduler's configuration, defaults filled in."""
    config = read_json(file)
    refuse_unless(file, "_class_name", config.get("_class_name"), ("DDPMScheduler", "DDIMScheduler"))
    epsilon = config.get("prediction_type", "epsilon") == "epsilon"
    if config.pop("predict_epsilon", epsilon) != epsilon:  # of early versions
        raise UserError(f"{file}: \"predict_epsilon\" is no longer read by diffusers; write \"prediction_type\" in its place: "
                        f"{', '.join(PREDICTS)}.")
    refuse_unknown(file, config, (*FACTS, *OFF, *OF_THE_SAMPLER))
    for name in OFF:
        if config.get(name):
            raise UserError(f"{file}: \"{name}\" is on, which is not supported; there are only models without it.")
    if config.get("clip_sample", True) and config.get("clip_sample_range", 1) != 1:
        raise UserError(f"{file}: \"clip_sample_range\" {json.dumps(config['clip_sample_range'])} is not supported; there are "
                        f"only models of images in [-1, 1], with the range 1.")
    refuse_unless(file, "prediction_type", config.setdefault("prediction_type", "epsilon"), PREDICTS)
    return {name: config.get(name, default) for name, default in FACTS.items()}


def read_schedule(facts: dict[str, Any], file: Path) -> NoiseSchedule:
    """The schedule in double precision; one that is ADM's linear or cosine schedule is called so."""
    T, betas = facts["num_train_timesteps"], facts["trained_betas"]
    refuse_unless_whole(file, "num_train_timesteps", T, MOST_T)
    if betas is None:
        kind = refuse_unless(file, "beta_schedule", facts["beta_schedule"], BETA_SCHEDULES)
        for name in ("beta_start", "beta_end"):
            if not isinstance(facts[name], int | float) or not 0 < facts[name] < 1:
                raise UserError(f"{file}: \"{name}\" must be a number between 0 and 1, not {json.dumps(facts[name])}.")
        betas = BETA_SCHEDULES[kind](facts["beta_start"], facts["beta_end"], T)
    elif not isinstance(betas, list) or len(betas) != T or not all(isinstance(beta, int | float) for beta in betas):
        raise UserError(f"{file}: \"trained_betas\" must be {T} numbers, one for each of \"num_train_timesteps\".")
    try:
        schedule = NoiseSchedule.from_betas(betas)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for name in SCHEDULES:
        with suppress(UserError):  # the linear one needs more timesteps than some have
            if (named := NoiseSchedule.named(name, T)).same_as(schedule):
                return named
    return schedule


def refuse_unless(file: Path, name: str, value: Any, possible: Iterable[Any]) -> Any:
    choices = list(possible)  # a value from JSON may be a list, which no set or dictionary could be asked for
    if value not in choices:
        told = ", ".join("null" if choice is None else str(choice) for choice in choices)
        raise UserError(f"{file}: \"{name}\" {json.dumps(value)} is not supported; possible: {told}.")
    return value


def refuse_unless_whole(file: Path, name: str, value: Any, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{file}: \"{name}\" must be a whole number from 1 to {most}, not {json.dumps(value)}.")


def refuse_unknown(file: Path, config: dict[str, Any], known: Iterable[str]) -> None:
    unknown = [name for name in config if name not in known and not name.startswith("_")]
    if unknown:
        raise UserError(f"{file}: unknown setting {', '.join(unknown)}, which may change what the model is; there are: "
                        f"{', '.join(known)}.")
