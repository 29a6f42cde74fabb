"""From a name or a path to a NoisyClassifier, and to the noise schedule of a denoiser."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisy_clf.backbone_weights import CLEAN, NoisedImages, clean_classifier, weights_digest
from noisy_clf.checkpoint import CONFIG, WEIGHTS, Kind, ModelFolder, bundled_models, config_from, file_digest
from noisy_clf.classifier import NETWORKS, NoisyClassifier
from noisy_clf.foreign.diffusers_scheduler import find_scheduler, is_diffusers_folder, read_schedule, read_scheduler
from noisy_clf.foreign.download import checked_digest, obtain
from noisy_clf.errors import UserError
from noisy_clf.foreign.guided_diffusion import classifier_from_file
from noisy_clf.foreign.settings import Settings
from noisy_clf.foreign.released import DENOISERS, RELEASED
from noisy_clf.schedule import NoiseSchedule


@dataclass(frozen=True)
class LoadedClassifier:
    """A frozen classifier, in evaluation mode, on the CPU.

    digest  SHA-256 of its weights' file
    config  all else that its predictions depend on, as JSON has it
    """

    classifier: NoisyClassifier
    digest: str
    config: dict[str, Any]


def load_classifier(name_or_path: str | Path, settings: Settings | None = None,
                    images: NoisedImages | None = None) -> NoisyClassifier:
    """A bundled or released classifier by name, one from its folder or its bare .pt file, or a clean one of timm's
    ("timm:NAME", "timm:NAME@WEIGHTS"); frozen, in evaluation mode.

    settings  for a bare file, what the shapes of its tensors do not tell
    images    for timm's, what it is to look at
    """
    return load_classifier_whole(name_or_path, settings, images).classifier


def load_classifier_whole(name_or_path: str | Path, settings: Settings | None = None,
                          images: NoisedImages | None = None) -> LoadedClassifier:
    if str(name_or_path).startswith(CLEAN):
        return load_clean(str(name_or_path), settings, images)
    file = released_or_bare_file(name_or_path, settings, "classifier")
    if file is not None:
        classifier = classifier_from_file(file.path, file.settings)
        return LoadedClassifier(classifier, file.digest(), classifier.config())
    folder = ModelFolder.open(name_or_path, "classifier")
    fields = dict(folder.config["network"])
    kind = str(fields.pop("type", None))
    if kind not in NETWORKS:
        raise UserError(f"{folder.path}: unknown type of classifier; there is: {', '.join(NETWORKS)}.")
    config, network_of = NETWORKS[kind]
    with torch.device("meta"):
        network = network_of(config_from(config, fields, folder.path))
    folder.load_weights(network)
    classifier = NoisyClassifier(network, folder.schedule, folder.class_names).eval().requires_grad_(False)
    return LoadedClassifier(classifier, folder.digest, classifier.config())


def load_clean(name: str, settings: Settings | None, images: NoisedImages | None) -> LoadedClassifier:
    if settings is not None:
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    if images is None:
        raise UserError(f"{name} learned on clean images and has no noise schedule of its own; it can guide a denoiser, whose "
                        f"schedule it then takes.")
    model, _, weights = name.removeprefix(CLEAN).partition("@")
    classifier = clean_classifier(model, weights or None, images)
    return LoadedClassifier(classifier, weights_digest(classifier.network), classifier.config())


@dataclass(frozen=True)
class BareFile:
    """A checkpoint that carries no configuration, and the settings that make up for it."""

    path: Path
    settings: Settings | None
    in_cache: bool

    def digest(self) -> str:
        return checked_digest(self.path) if self.in_cache else file_digest(self.path)


def released_or_bare_file(name_or_path: str | Path, settings: Settings | None, kind: Kind) -> BareFile | None:
    """The released file of that name, downloaded where it is not in the cache yet, or the file at that path; None for
    all else, which brings settings of its own."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in RELEASED[kind]:  # a folder of that name is ./NAME
        if settings is not None:
            raise UserError(f"{name} brings settings of its own; leave out --{'model' if kind == 'denoiser' else kind}-config "
                            f"and -flags.")
        return BareFile(obtain(RELEASED[kind][name].file), dict(RELEASED[kind][name].settings), in_cache=True)
    if path.is_file():
        if path.name in (CONFIG, WEIGHTS) and (path.parent / CONFIG).is_file():
            raise UserError(f"{path} is part of a model that is a folder; give the folder, {path.parent}.")
        return BareFile(path, settings, in_cache=False)
    if settings is not None and (path.exists() or name in bundled_models(kind)):
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    return None


def denoiser_schedule(name_or_path: str | Path) -> NoiseSchedule:
    """The noise schedule of a denoiser: a bundled or released one by name, or one from its folder or diffusers'."""
    if str(name_or_path) in DENOISERS:
        return DENOISERS[str(name_or_path)].schedule
    if Path(name_or_path).is_file():
        raise UserError(f"{name_or_path} is a bare file, which does not tell its schedule; give --noise-schedule and "
                        f"--timesteps.")
    if is_diffusers_folder(Path(name_or_path)):
        file = find_scheduler(Path(name_or_path))
        return read_schedule(read_scheduler(file), file)
    return ModelFolder.open(name_or_path, "denoiser").schedule
