"""From a name, a path or a module of one's own to a classifier that can guide."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from guided_sample.guides.classifier import Classifier
from guided_sample.guides.file import load_object, told_in_a_sentence
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.loaders.timm import weights_digest
from noisy_clf.space import Space


@dataclass(frozen=True)
class GuidingClassifier:
    """A frozen classifier on the CPU; digest and config: what its predictions depend on, as a manifest keeps them."""

    classifier: Classifier
    digest: str
    config: dict[str, Any]


def load_guiding_classifier(name: str, settings: Settings | None, space: Space) -> GuidingClassifier:
    """Any that `noisy_clf` loads, or FILE.py:NAME, a module in a Python file or a function without arguments that makes one.

    space  of the denoiser, which timm's clean classifiers take for theirs
    """
    source, _, own = name.rpartition(":")
    if not source.endswith(".py"):
        loaded = load_classifier_whole(name, settings, space)
        return GuidingClassifier(loaded.classifier, loaded.digest, loaded.config)
    if settings is not None:
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    if not Path(source).is_file():
        raise UserError(f"there is no file {source!r}; a classifier of your own is given as FILE.py:NAME.")
    found: Any = load_object(source, own)
    if isinstance(found, type) or callable(found) and not hasattr(found, "space"):
        with told_in_a_sentence(f"{name} fails when it makes the classifier", source):
            found = found()
    made = in_memory(found, name)
    digest = hashlib.sha256((file_digest(Path(source)) + made.digest).encode()).hexdigest()
    return GuidingClassifier(Own(made.classifier, name, source), digest,
                             {"kind": "classifier", "network": {"type": f"{Path(source).name}:{own}"}})


class Own(nn.Module):
    """A classifier from somebody's file: what it stumbles over is told in a sentence."""

    def __init__(self, classifier: Any, name: str, source: str) -> None:
        super().__init__()
        self.classifier, self.name, self.source = classifier, name, source
        self.space, self.class_names = classifier.space, classifier.class_names

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        with told_in_a_sentence(lambda: f"{self.name} failed at t = {int(t[0])}", self.source):
            return self.classifier(x_t, t)


def in_memory(classifier: Any, name: str = "the classifier") -> GuidingClassifier:
    """A module of somebody's, frozen. UserError where it is not what `Classifier` in guides/classifier.py says."""
    lacks = [what for what, fits in (
        ("space, a noisy_clf.space.Space", isinstance(getattr(classifier, "space", None), Space)),
        ("class_names, a tuple of names", is_names(getattr(classifier, "class_names", None))),
        ("a call (x_t, t) -> logits [B,K]", callable(classifier))) if not fits]
    if lacks:
        raise UserError(f"{name} cannot guide as a classifier: it lacks {' and '.join(lacks)}.")
    digest = ""
    if isinstance(classifier, nn.Module):
        classifier.eval().requires_grad_(False)
        digest = weights_digest(classifier)
    return GuidingClassifier(classifier, digest, {"kind": "classifier", "network": {"type": type(classifier).__name__}})


def is_names(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)
