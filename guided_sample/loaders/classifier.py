"""From a name, a path or a module of one's own to a classifier that can guide."""
from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from guided_sample.guides.classifier import Classifier
from guided_sample.guides.file import load_object, told_in_a_sentence
from noisy_clf.checkpoints.by_name import CLEAN, classifier_folder
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.loaders.timm import weights_digest
from noisy_clf.space import Space
from noisy_clf.training.config import saw_no_noise


@dataclass(frozen=True)
class GuidingClassifier:
    """A frozen classifier on the CPU; digest and config: what its predictions depend on, as a manifest keeps them.

    clean  whether it never saw noise, and so is at home at x0_hat alone; None: nothing tells
    """

    classifier: Classifier
    digest: str
    config: dict[str, Any]
    clean: bool | None = None


def load_guiding_classifier(name: str, settings: Settings | None, space: Space) -> GuidingClassifier:
    """Any that `noisy_clf` loads, or FILE.py:NAME, a module in a Python file or a function without arguments that makes one.

    space  of the denoiser, which timm's clean classifiers take for theirs
    """
    source, _, own = name.rpartition(":")
    if not source.endswith(".py"):
        loaded = load_classifier_whole(name, settings, space)
        return GuidingClassifier(loaded.classifier, loaded.digest, loaded.config, never_saw_noise(name))
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


def never_saw_noise(name: str) -> bool | None:
    """Of a classifier that `noisy_clf` loads: by its name, or by the timesteps that its run's record has."""
    if name.startswith(CLEAN) or name in RELEASED["classifier"]:
        return name.startswith(CLEAN)
    folder = classifier_folder(name)
    return saw_no_noise(folder.config.get("training") if folder else None)


class Resized(nn.Module):
    """A clean classifier made to see images of another size, or grey ones in its colours, differentiably."""

    def __init__(self, classifier: Any, space: Space) -> None:
        super().__init__()
        self.classifier, self.space, self.class_names = classifier, space, classifier.class_names

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        size = self.classifier.space.image_size
        if size != self.space.image_size:
            x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
        return self.classifier(x.expand(-1, self.classifier.space.channels, -1, -1), t)


def resized(classifier: Any, space: Space) -> tuple[Any, str | None]:
    """(the clean classifier as one of the denoiser's space, what is to be told of it): what never saw noise has no schedule,
    images are resized to its size, and grey ones are given to all of its channels. UserError for colours to a grey one."""
    theirs = classifier.space
    if theirs.channels != space.channels and space.channels != 1:
        raise UserError(f"the classifier's images have {theirs.channels} channels and the denoiser's {space.channels}; only a "
                        f"grey image can be shown to a classifier of others: take one that learned on the denoiser's channels.")
    told = []
    if theirs.image_size != space.image_size:
        told.append(f"at {theirs.image_size} pixels a side, resized from {space.image_size} (bilinear, antialiased, "
                    f"differentiably)")
    if theirs.channels != space.channels:
        told.append(f"with their grey in all of its {theirs.channels} channels")
    return (Resized(classifier, space), f"The classifier sees the images {' and '.join(told)}.") if told else (classifier, None)


def softened(classifier: Any, beta: float = 3.0) -> Any:
    """A copy in which each nn.ReLU is a Softplus, whose gradient has no kinks (EluCD); the classifier itself where it has
    none, or is no torch module. What its code calls (F.relu) cannot be replaced, and stays."""
    if not isinstance(classifier, nn.Module) or not any(isinstance(module, nn.ReLU) for module in classifier.modules()):
        return classifier
    soft = copy.deepcopy(classifier)  # the classifier is still to judge by
    for parent in list(soft.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.ReLU):
                setattr(parent, name, nn.Softplus(beta))
    return soft
