"""The models and guides that a request names, loaded on the CPU."""
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from guided_sample.cards import Card
from guided_sample.denoiser import Denoiser
from guided_sample.guides import GuideSpec
from guided_sample.guides.classifier import Classifier
from guided_sample.guides.file import load_guide
from guided_sample.labels import word_of
from guided_sample.loaders import LoadedModel, load_model
from guided_sample.loaders.classifier import GuidingClassifier, in_memory, load_guiding_classifier
from guided_sample.model import Guide
from guided_sample.released import MODELS
from guided_sample.request import Request
from guided_sample.resolve import resolve, resolve_names
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.class_names import same_classes
from noisy_clf.errors import UserError

IN_MEMORY = "a module in memory"  # what a request calls a classifier without a name
Loaded = TypeVar("Loaded")


class Shelf:
    """Where requests that share models find those that are loaded already."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def kept(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        if key not in self._kept:
            self._kept[key] = load()
        return self._kept[key]


@dataclass(frozen=True)
class Models:
    """Of a request: its denoiser; its classifier, where one is used; its other guides, with their files' SHA-256 by name."""

    denoiser: LoadedModel
    classifier: GuidingClassifier | None
    guides: tuple[Guide, ...]
    guide_digests: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of all that was loaded, as a manifest keeps them."""
        guiding = {"classifier": self.classifier.digest} if self.classifier else {}
        return {"model": self.denoiser.digest, **guiding, **self.guide_digests}

    @property
    def configs(self) -> dict[str, Any]:
        """All else that their predictions depend on."""
        guiding = {"classifier": without_names(self.classifier.config)} if self.classifier else {}
        return {"model": without_names(self.denoiser.config), **guiding}


def load(request: Request, classifier: Classifier | None = None, shelf: Shelf | None = None) -> tuple[Request, Models]:
    """(the request, its classifier named, its models): what names alone can refuse is refused before any is downloaded.

    classifier  a module in memory to guide with, in place of a named one; it is frozen
    shelf       of what other requests have loaded; a network is brought to its request's precision in place
    """
    shelf = shelf or Shelf()
    mine = None if classifier is None else in_memory(classifier)
    if mine:
        request = replace(request, classifier=IN_MEMORY)
    settings = read_settings(request.model_config, request.model_flags, "denoiser")
    classifier_settings = read_settings(request.classifier_config, request.classifier_flags, "classifier")
    named = resolve_names(request, mine.classifier.class_names if mine else None)
    request = replace(request, classifier=named.classifier)
    if word_of(request.classes) == "none":
        request = replace(request, classes=named.classes)  # no classifier is loaded that could tell whether one is called so
    specs = [GuideSpec.parse(text) for text in request.guide]
    guides = tuple(map(load_guide, specs))
    guide_digests: dict[str, str] = {}
    for guide, spec in zip(guides, specs):
        digest = file_digest(Path(spec.source))
        if guide_digests.setdefault(guide.name, digest) != digest:
            raise UserError(f"two guides are called {guide.name}, from two files of the same name; rename one of them, so that "
                            f"the manifest can tell them apart.")
    key = request.precision, request.model, request.model_config, request.model_flags
    loaded, guiding = shelf.kept(key, lambda: load_model(request.model, settings)), None
    name = resolve(request, card_of_loaded(request.model, loaded), lambda name: Card())[0].classifier
    if name is not None:
        guiding = mine or shelf.kept(
            (*key, name, request.classifier_config, request.classifier_flags),  # the denoiser's key, as its space counts too
            lambda: load_guiding_classifier(name, classifier_settings, loaded.denoiser.space))
        refuse_mismatch(loaded.denoiser, guiding.classifier)
    return request, Models(loaded, guiding, guides, guide_digests)


def card_of_loaded(name: str, loaded: LoadedModel) -> Card:
    denoiser = loaded.denoiser
    return Card(denoiser.space, denoiser.class_names or (), denoiser.small_size, loaded.advice,
                MODELS[name].upsampler if name in MODELS else None, denoiser.null_class)


def refuse_mismatch(denoiser: Denoiser, classifier: Classifier) -> None:
    """UserError where the two were not trained on the same noise, image size, channels or classes."""
    denoiser.space.refuse_other(classifier.space, "classifier")
    theirs, ours = classifier.class_names, denoiser.class_names
    if ours and not same_classes(ours, theirs):
        raise UserError(f"the classifier's {len(theirs)} classes ({theirs[0]}, ...) are not the denoiser's {len(ours)} "
                        f"({ours[0]}, ...).")


def without_names(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "class_names"}
