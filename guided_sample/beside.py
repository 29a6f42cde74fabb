"""The classifiers that lie beside a denoiser, as training runs of one project do: for one that names none of its own."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_sample.cards import Card, space_of
from noisy_clf.checkpoints.by_name import RUNS_MODELS, denoiser_record, same_denoiser
from noisy_clf.checkpoints.model_folder import WEIGHTS, ModelFolder, bundled_models
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.class_names import same_classes
from noisy_clf.errors import UserError

SHOWN = 5


@dataclass(frozen=True)
class Neighbour:
    """A classifier's path; when it was written; what it keeps of the denoiser that it was trained for, if it does."""

    path: str
    written: float
    record: Any


def classifier_beside(model: str, card: Card) -> str | None:
    """The path of the only one that fits the denoiser at the path `model`; None where none does. UserError where several do."""
    fitting = fitting_beside(model, card)
    if len(fitting) > 1:
        paths = [one.path for one in sorted(fitting, key=lambda one: -one.written)]
        raise UserError(f"{len(paths)} classifiers beside {model} fit it, the newest first: {', '.join(paths[:SHOWN])}"
                        f"{', ...' * (len(paths) > SHOWN)}; choose one with --classifier, or none with {unguided(card)}.")
    return fitting[0].path if fitting else None


def unguided(card: Card) -> str:
    """The flag by which a model of that card is sampled without a classifier."""
    return "--scale 0" if card.class_names else "--class none"


def fitting_beside(model: str, card: Card) -> list[Neighbour]:
    """Those that were trained for this denoiser, or where there are none, those of its space that do not tell for which."""
    if model in DENOISERS or model in bundled_models("denoiser") or not (Path(model).is_dir() or "@" in model):
        return []
    found = list(neighbours(model, card))
    if told := [one for one in found if one.record is not None]:
        this = denoiser_record(model)
        told = [one for one in told if same_denoiser(one.record, this)]
    return told or [one for one in found if one.record is None and card.space is not None]


def neighbours(model: str, card: Card) -> Iterator[Neighbour]:
    """The classifiers of the denoiser's space and classes, as far as its card tells these, in the folders beside it."""
    whole = Path(os.path.abspath(model))
    place = str((whole.parent if whole.name in RUNS_MODELS else whole).parent)
    place = place if os.path.isabs(model) else os.path.relpath(place)
    with suppress(OSError):  # not ours to look into
        for name in sorted(os.listdir(place)):
            path = os.path.join(place, name)  # ./NAME where that is all: no model's name
            with suppress(UserError, OSError):  # no classifier, or none that can be read
                found = ModelFolder.open(path, "classifier")
                written = os.stat(found.path / WEIGHTS).st_mtime
                if card.space is not None:
                    card.space.refuse_other(space_of(found), "classifier")
                if not card.class_names or same_classes(card.class_names, found.class_names):
                    training = found.config.get("training")
                    yield Neighbour(path, written, training.get("schedule_from") if isinstance(training, dict) else None)
