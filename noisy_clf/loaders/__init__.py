"""From a name or a path to a NoisyClassifier. One file for each kind of checkpoint."""
from __future__ import annotations

from pathlib import Path

from noisy_clf.checkpoints.bare_file import released_or_bare_file
from noisy_clf.checkpoints.by_name import CLEAN
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.loaders.guided_diffusion import classifier_from_file
from noisy_clf.loaders.loaded import LoadedClassifier
from noisy_clf.loaders.model_folder import load_model_folder
from noisy_clf.loaders.timm import load_clean
from noisy_clf.space import Space


def load_classifier(name_or_path: str | Path, settings: Settings | None = None,
                    space: Space | None = None) -> NoisyClassifier:
    """A bundled or released classifier by name, one from its folder or its bare .pt file, or a clean one of timm's
    ("timm:NAME", "timm:NAME@WEIGHTS"); frozen, in evaluation mode.

    settings  for a bare file, what the shapes of its tensors do not tell
    space     for timm's, what it is to look at
    """
    return load_classifier_whole(name_or_path, settings, space).classifier


def load_classifier_whole(name_or_path: str | Path, settings: Settings | None = None,
                          space: Space | None = None) -> LoadedClassifier:
    if str(name_or_path).startswith(CLEAN):
        return load_clean(str(name_or_path), settings, space)
    file = released_or_bare_file(name_or_path, settings, "classifier")
    if file is not None:
        classifier = classifier_from_file(file.path, file.settings)
        return LoadedClassifier(classifier, file.digest(), classifier.config())
    return load_model_folder(ModelFolder.open(name_or_path, "classifier"))
