"""One or two classifiers on the same images and the same noise: from their names to what is told of them."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisy_clf.checkpoints.by_name import CLEAN, training_set
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.class_names import nameless
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import Dataset, LabelledImages
from noisy_clf.datasets.order import permutation
from noisy_clf.errors import UserError, enough_memory
from noisy_clf.evaluation.by_noise_level import evaluate
from noisy_clf.evaluation.judgement import Evaluation, Guess
from noisy_clf.evaluation.picture import draw
from noisy_clf.evaluation.report import as_json, comparison, table, verdict
from noisy_clf.files import versions, write_json
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.loaders.loaded import LoadedClassifier
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space


@dataclass(frozen=True)
class Subjects:
    """names   as they were given
    called  how the report calls them
    models  the classifiers of those names, on the CPU
    data    a dataset of their size, channels and classes
    """

    names: list[str]
    called: list[str]
    models: list[LoadedClassifier]
    data: Dataset

    def images_for(self, place: int) -> LabelledImages:
        """The validation images, labelled as that classifier numbers the classes."""
        validation = self.data.validation
        numbers = numbers_of(self.data, self.names[place], self.models[place].classifier)
        return replace(validation, labels=numbers[validation.labels])


def load(names: list[str], called: list[str], settings: Settings | None, dataset: str | None, folder: Path | None,
         schedule: NoiseSchedule | None, image_size: int) -> Subjects:
    """The classifiers and their data. Classifiers of clean images come last: they take schedule and size from the others.

    schedule, image_size  for classifiers of clean images, where all are
    """
    noisy = [name for name in names if not name.startswith(CLEAN)]
    bare = [name for name in names if Path(name).is_file()] or names[:1]
    loaded = {name: load_classifier_whole(name, settings if name in bare else None) for name in noisy}
    own = {name: whole.classifier for name, whole in loaded.items()}
    if len({(model.image_size, model.channels) for model in own.values()}) > 1:
        raise UserError("two classifiers are compared on the same images; " + ", ".join(
            f"{name} sees {model.image_size} pixels a side in {model.channels} channels" for name, model in own.items()) + ".")
    one = next(iter(own.values()), None)
    data = load_data(names, one, dataset, folder, image_size)
    noise = one.schedule if one else schedule
    space = Space(noise, data.image_size, data.channels) if noise else None
    for name in names:
        if name.startswith(CLEAN):
            loaded[name] = load_classifier_whole(name, settings if name in bare else None, space)
    subjects = Subjects(names, called, [loaded[name] for name in names], data)
    for place in range(len(names)):  # classes that are not the data's are refused now
        subjects.images_for(place)
    return subjects


def load_data(names: Sequence[str], model: NoisyClassifier | None, dataset: str | None, folder: Path | None,
              image_size: int) -> Dataset:
    """The dataset asked for, else the one that the first of the classifiers learned from, else the digits."""
    asked, learned_from = dataset, next(filter(None, map(training_set, names)), None)
    dataset = asked or learned_from or "digits"
    size = image_size if model is None else model.image_size
    try:
        data = load_dataset(dataset, size, folder, grey=model is not None and model.channels == 1)
    except UserError as error:
        if asked or not learned_from:
            raise
        raise UserError(f"the classifier learned from {dataset!r}, which cannot be read: {str(error).rstrip('.')}; or give "
                        f"another --dataset.") from error
    if not len(data.validation) or data.validation.labels.unique().numel() < 2:
        raise UserError(f"{dataset} has {len(data.validation)} validation images, of fewer than two classes; an evaluation "
                        f"needs images to tell apart.")
    return data


def numbers_of(data: Dataset, name: str, classifier: NoisyClassifier) -> Tensor:
    """The classifier's number of each of the data's classes, int64 [K]; UserError where they are not the same classes."""
    theirs, ours = classifier.class_names, data.class_names
    if (classifier.channels, classifier.image_size) == (data.channels, data.image_size):
        if sorted(theirs) == sorted(ours):
            return torch.tensor([theirs.index(one) for one in ours])
        if len(theirs) == len(ours) and nameless(theirs):
            return torch.arange(len(ours))
    raise UserError(f"{name} tells {len(theirs)} classes ({', '.join(theirs[:3])}, ...) in images of {classifier.image_size} "
                    f"pixels a side and {classifier.channels} channels; {data.name} has {len(ours)} ({', '.join(ours[:3])}, "
                    f"...) in {data.image_size} and {data.channels}; give the --dataset that it learned from.")


def examined(subjects: Subjects, images: int | None, device: torch.device, precision: str, **how: Any) -> list[Evaluation]:
    """What is found of each on so many of the images (None: all), drawn once and for all.

    how  of `evaluate`: levels, batch_size, seed, processes
    """
    chosen = torch.from_numpy(permutation(len(subjects.data.validation), 0, 0)[:images].copy()).sort().values
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return [examined_one(name, loaded.classifier.to(device), subjects.images_for(place), chosen, progress=name, **how)
                for place, (name, loaded) in enumerate(zip(subjects.called, subjects.models))]


def examined_one(name: str, classifier: NoisyClassifier, images: LabelledImages, chosen: Tensor, **how: Any) -> Evaluation:
    """What is found of the classifier on the chosen images; guessing is by the frequencies in all of them."""
    with enough_memory(lambda: "a batch does not fit into the memory; give a smaller --batch-size: the result stays the same."):
        rows = evaluate(classifier, images, gradients=True, chosen=chosen, **how)
    bad = [row.t for row in rows if not math.isfinite(row.nll + (row.gradient_norm or 0))]
    if bad:
        raise UserError(f"{name}'s output or its gradient is not a finite number at t = {bad[0]}; its weights are damaged, or "
                        f"its training diverged.")
    guess = Guess.among(images.labels, len(classifier.class_names))
    return Evaluation(name, classifier.schedule, tuple(rows), len(chosen), guess)


def write(out: Path, subjects: Subjects, found: list[Evaluation], asked: dict[str, Any]) -> None:
    """evaluation.json, with what was asked for, and evaluation.png."""
    data = subjects.data
    write_json(out / "evaluation.json", {
        "dataset": data.name, "source": data.source, "images": found[0].images, "of_images": len(data.validation), **asked,
        "guess": asdict(found[0].guess), "versions": versions(), "classifiers": [
            {"classifier": name, "digest": loaded.digest, **as_json(evaluation)}
            for name, loaded, evaluation in zip(subjects.names, subjects.models, found)]})
    draw(found, out / "evaluation.png")


def in_words(subjects: Subjects, found: list[Evaluation]) -> str:
    """The table, a verdict on each, and which of two is better."""
    data, told = subjects.data, [table(found)]
    for loaded, evaluation in zip(subjects.models, found):
        told += [f"\n{evaluation.name}, on {evaluation.images} validation images of {data.name}:", *verdict(evaluation)]
        if nameless(loaded.classifier.class_names) and not nameless(data.class_names):
            told.append(f"Its classes have numbers and no names: they were taken to be the classes of {data.name}, in its "
                        f"order.")
    if len(found) == 2:
        told.append(f"\n{comparison(*found)}")
    return "\n".join(told)
