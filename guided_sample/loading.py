"""The models and guides that a request names, loaded on the CPU."""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from guided_sample.cards import Card
from guided_sample.denoiser import Denoiser
from guided_sample.guides import OWN, SIMILAR, GuideSpec
from guided_sample.composition import LoadedGuide, asked_of
from guided_sample.guides.classifier import Boost, Classifier, log_prob_of
from guided_sample.guides.file import load_guide
from guided_sample.guides.similarity import FeaturesOf
from guided_sample.labels import word_of
from guided_sample.loaders import LoadedModel, load_model
from guided_sample.loaders.classifier import GuidingClassifier, in_memory, load_guiding_classifier, resized, softened
from guided_sample.loaders.measurement import load_measurement
from guided_sample.loaders.similarity import comparing
from guided_sample.model import Look
from guided_sample.pictures import picture_file
from guided_sample.released import MODELS
from guided_sample.request import Request
from guided_sample.resolve import resolve, resolve_names
from guided_sample.steering import refuse_weak
from guided_sample.steps import Step
from guided_sample.targets import Targets
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.class_names import same_classes
from noisy_clf.errors import UserError
from noisy_clf.loaders.encoder import load_encoder, text_embeddings

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
    """Of a request: its denoiser; a weaker one to contrast it with; its guides, the classifier first, where one is used.

    notes  what to tell of them, a sentence each
    """

    denoiser: LoadedModel
    weak: LoadedModel | None
    guides: tuple[LoadedGuide, ...]
    notes: tuple[str, ...] = ()

    @property
    def classifier(self) -> Classifier | None:
        """The one that --classifier names."""
        return next((guide.classifier for guide in self.guides if guide.spec.name == OWN), None)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of all that was loaded, as a manifest keeps them."""
        weak = {"weak": self.weak.digest} if self.weak else {}
        guides: dict[str, str] = {}
        for name, guide in named(self.guides):
            guides |= {f"{name}.{part}": digest for part, digest in guide.parts.items()} or {name: guide.digest}
        return {"model": self.denoiser.digest, **weak, **guides}

    @property
    def configs(self) -> dict[str, Any]:
        """All else that their predictions depend on."""
        weak = {"weak": without_names(self.weak.config)} if self.weak else {}
        guides = {name: without_names(guide.config) for name, guide in named(self.guides) if guide.config}
        return {"model": without_names(self.denoiser.config), **weak, **guides}


def named(guides: Sequence[LoadedGuide]) -> Iterator[tuple[str, LoadedGuide]]:
    """As a manifest calls them: those that flags of their own ask for by their kind, functions by file and name, other networks
    and pictures by their number, wherever they lie."""
    number = 0
    for guide in guides:
        kind = guide.spec.kind
        number += not guide.spec.flagged
        name = guide.spec.title if kind == "function" else kind if guide.spec.flagged else f"{kind}:{number}"
        yield name, guide


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
    named_request = resolve_names(request, mine.classifier.class_names if mine else None)
    request = replace(request, classifier=named_request.classifier)
    if word_of(request.classes) == "none":
        request = replace(request, classes=named_request.classes)  # no classifier is loaded that could tell if one is called so
    asked = map(GuideSpec.parse, request.guide)
    functions = iter([calling(spec) for spec in asked if spec.kind == "function"])  # refused before anything is downloaded
    key = request.precision, request.model, request.model_config, request.model_flags
    loaded, weak = shelf.kept(key, lambda: load_model(request.model, settings)), None
    resolved = resolve(request, card_of_loaded(request.model, loaded), lambda name: Card())[0]
    name = resolved.classifier
    if request.weak is not None:
        weak_name = request.weak
        weak = shelf.kept((request.precision, weak_name, None, None), lambda: load_model(weak_name))
        refuse_weak(request, card_of_loaded(request.model, loaded), card_of_loaded(weak_name, weak))
    space = loaded.denoiser.space
    guides: list[LoadedGuide] = []
    notes: list[str] = []
    if name is not None:
        own = mine or shelf.kept(
            (*key, name, request.classifier_config, request.classifier_flags),  # the denoiser's key, as its space counts too
            lambda: load_guiding_classifier(name, classifier_settings, space))
        guide, notes = classifying(replace(request.own_guide, source=name), own, loaded.denoiser)
        guides.append(guide)
    for spec in resolved.guides(None):
        if spec.kind in SIMILAR:
            encoder = spec.settings["encoder"]
            seen = shelf.kept((*key, encoder, "encoder"), lambda: load_encoder(encoder, space))
            seeing = shelf.kept((*key, encoder, "features"), lambda: FeaturesOf(seen.encoder))
            words = shelf.kept((*key, encoder, spec.wanted), lambda: text_embeddings(
                seen.encoder, spec.wanted, encoder)) if spec.kind == "text" else None
            guide, told = comparing(spec, seen, seeing, loaded.denoiser, words)
            notes += [note for note in told if note not in notes]
            guides.append(guide)
        elif spec.kind == "classifier":
            other = shelf.kept((*key, spec.source, None, None), lambda: load_guiding_classifier(spec.source, None, space))
            guide, told = classifying(spec, other, loaded.denoiser)
            notes += told
            guides.append(guide)
        else:
            guides.append(next(functions) if spec.kind == "function" else measuring(spec, loaded.denoiser))
    refuse_same_names(guides)
    return request, Models(loaded, weak, tuple(guides), tuple(notes))


def classifying(spec: GuideSpec, found: GuidingClassifier, denoiser: Denoiser) -> tuple[LoadedGuide, list[str]]:
    """(the classifier as it is shown what it shall see, what to tell of it)."""
    see, classifier, told = spec.settings.get("see", "x_t"), found.classifier, []
    if see == "x_t":
        denoiser.space.refuse_other(classifier.space, "classifier")
    else:
        classifier, note = resized(classifier, denoiser.space)
        told += [note] if note else []
    if see == "x0":
        classifier = softened(classifier)
    theirs, ours = classifier.class_names, denoiser.class_names
    if "class" not in spec.settings and ours and not same_classes(ours, theirs):
        raise UserError(f"the classifier's {len(theirs)} classes ({theirs[0]}, ...) are not the denoiser's {len(ours)} "
                        f"({ours[0]}, ...).")
    flag = "--see x0" if spec.name == OWN else f"{spec.title},see=x0"
    if see == "x0" and found.clean is False:
        told.append(f"Warning: {spec.source} learned on noised images, and {flag} shows it x0_hat, as if that were clean; "
                    f"leave that out.")
    if see == "x_t" and found.clean:
        told.append(f"Warning: {spec.source} never saw noise, and is shown x_t; give {flag}.")
    if "adapt" in spec.settings and len(theirs) < 2:
        raise UserError(f"{spec.source} knows one class, of which the entropy tells nothing; leave out the adaptation.")

    def density(targets: Targets, steps: Sequence[Step]) -> Callable[[Look], Tensor]:
        y = asked_of(classifier, spec, targets)
        return log_prob_of(classifier, y, see, spec.settings.get("adapt"), boost=Boost(steps) if see == "x0" else None)
    return LoadedGuide(spec, density, classifier, found.digest, found.config), told


def calling(spec: GuideSpec) -> LoadedGuide:
    function = load_guide(spec)
    return LoadedGuide(spec, lambda targets, steps: function, digest=file_digest(Path(spec.source)))


def measuring(spec: GuideSpec, denoiser: Denoiser) -> LoadedGuide:
    @lru_cache(maxsize=None)
    def loaded(device: torch.device) -> Callable[[Look], Tensor]:
        return load_measurement(spec.kind, spec.source, spec.settings, denoiser.shape, device)

    loaded(torch.device("cpu"))  # and so refused, where it cannot be
    named = (picture_file(path) for path in (spec.source, spec.settings.get("mask")) if path)
    digest = hashlib.sha256("".join(file_digest(file) for file in named if file.is_file()).encode()).hexdigest()
    return LoadedGuide(spec, lambda targets, steps: loaded(targets.device), digest=digest)


def refuse_same_names(guides: Sequence[LoadedGuide]) -> None:
    digests: dict[str, str] = {}
    for name, guide in named(guides):
        if digests.setdefault(name, guide.digest) != guide.digest:
            raise UserError(f"two guides are called {name}, from two files of the same name; rename one of them, so that the "
                            f"manifest can tell them apart.")


def card_of_loaded(name: str, loaded: LoadedModel) -> Card:
    denoiser = loaded.denoiser
    return Card(denoiser.space, denoiser.class_names or (), denoiser.small_size, loaded.advice,
                MODELS[name].upsampler if name in MODELS else None, denoiser.null_class)


def without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "class_names"}
