"""Classification accuracy score: what a classifier that has seen the samples alone knows of real images.

Samples that lack a class, repeat themselves or are of other classes than they should be teach badly, whatever they look like.
(Ravuri & Vinyals 2019)
"""
from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from guided_sample.metrics.judge import labels_in
from guided_sample.metrics.pictures import Pictures, digest_of_images
from noisy_clf.class_names import numbers_of
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.errors import UserError
from noisy_clf.evaluation.by_noise_level import evaluate
from noisy_clf.execution import device_name, exact_float32
from noisy_clf.files import read_json, write_json
from noisy_clf.loaders import load_classifier
from noisy_clf.networks.encoder_unet import EncoderUNetConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.config import ClassifierLoss, TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.loop import train
from noisy_clf.training.new_classifier import adm_task
from noisy_clf.training.pace import duration, step_seconds
from noisy_clf.training.recipes import Recipe, classifier_recipe
from noisy_clf.training.run import Run
from noisy_clf.training.task import Task

LONGEST = 3600.0  # seconds
MICRO_PIXELS = 128 * 64 ** 2  # of the images that a CPU computes at a time
PART = 4  # one of so many of the recipe's iterations: images without noise are learned sooner


def classification_accuracy_score(pictures: Pictures, dataset: Dataset, device: torch.device, seed: int = 0) -> float:
    """Accuracy, 0..1, on the dataset's validation images, without noise, of its recipe's network trained on the pictures.

    The last weights count: to choose the best on the images that they are tested on would flatter. It is trained beside the
    pictures' features; what was stopped goes on, and a score that was found is kept. UserError where it would take hours.
    """
    labels = numbered_as(dataset, pictures)
    recipe = classifier_recipe(dataset.name, dataset.image_size)
    config = training_config(recipe, pictures.labelled, seed)
    about = {"pictures": pictures.digest, "dataset": examination(dataset), "network": recipe.network,
             "training": asdict(config)}
    name = f"cas-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}"
    kept, folder = pictures.cache / f"{name}.json", pictures.cache / name
    if kept.exists():
        return float(read_json(kept)["accuracy"])
    exact_float32()
    how = Execution(device, keep=1, microbatch=MICRO_PIXELS // dataset.image_size ** 2 or 1 if device.type == "cpu" else 0)
    black = np.broadcast_to(np.uint8(0), (pictures.labelled, *dataset.train.images.shape))
    stand_in = taught(dataset, pictures, labels[labels >= 0], black)
    refuse_long(Run(fresh(recipe, stand_in, config), config, stand_in, folder, how))
    data = taught(dataset, pictures, labels[labels >= 0], in_memory(pictures)[labels >= 0])
    train(fresh(recipe, data, config), data, config, folder, how)
    [clean] = evaluate(load_classifier(folder / "last").to(device), dataset.validation, [0.0])
    write_json(kept, {"accuracy": clean.accuracy, **about})
    shutil.rmtree(folder, ignore_errors=True)
    return clean.accuracy


def examination(dataset: Dataset) -> str:
    """A digest of the images that the classifier is tested on."""
    return digest_of_images(dataset.validation.images, dataset.source)


def numbered_as(dataset: Dataset, pictures: Pictures) -> np.ndarray:
    """The pictures' labels, -1 for none, as the dataset numbers its classes, int64 [N]; UserError where it cannot examine their
    pupil."""
    H, W, C = pictures.shape
    if (H, W, C) != (dataset.image_size, dataset.image_size, dataset.channels):
        raise UserError(f"{dataset.name} has images of {dataset.image_size} pixels a side and {dataset.channels} channels, and "
                        f"{pictures.name} of {W} x {H} with {C}; give the --cas dataset that the samples are like.")
    if not len(dataset.validation):
        raise UserError(f"{dataset.name} has no validation images to examine a classifier on; give another --cas dataset.")
    ours, theirs = pictures.class_names or dataset.class_names, dataset.class_names
    labels = labels_in(pictures, ours)
    if (numbers := numbers_of(ours, theirs)) is not None:
        return np.array([*numbers, -1])[labels]
    raise UserError(f"{pictures.name} has {len(ours)} classes ({', '.join(ours[:3])}, ...), and {dataset.name} {len(theirs)} "
                    f"({', '.join(theirs[:3])}, ...); give the --cas dataset that has the samples' classes.")


def training_config(recipe: Recipe, N: int, seed: int) -> TrainingConfig:
    """The recipe's, for N images without noise; validated at the end alone."""
    iterations = max(1, recipe.training["iterations"] // PART)
    shorter: dict[str, Any] = {
        "iterations": iterations, "batch_size": min(recipe.training["batch_size"], N), "validate_every": iterations,
        "t_sampling": "levels:0,0", "seed": seed}
    return TrainingConfig(**{**recipe.training, **shorter})


def taught(dataset: Dataset, pictures: Pictures, labels: np.ndarray, images: np.ndarray) -> Dataset:
    """The pictures, uint8 [N,C,H,W], to learn from, and the dataset's validation images."""
    train_on = LabelledImages(ArrayImages(images), torch.from_numpy(labels))
    return Dataset(pictures.name, train_on, dataset.validation, dataset.class_names, pictures.digest)


def in_memory(pictures: Pictures) -> np.ndarray:
    """uint8 [N,C,H,W]: training takes them in any order."""
    H, W, C = pictures.shape
    images, start = np.empty((len(pictures), C, H, W), np.uint8), 0
    for batch in pictures.batches(1000):
        images[start:start + len(batch)] = batch.transpose(0, 3, 1, 2)
        start += len(batch)
    return images


def fresh(recipe: Recipe, data: Dataset, config: TrainingConfig) -> Task:
    """The recipe's network with weights drawn by the seed."""
    network = EncoderUNetConfig(**recipe.network, image_size=data.image_size, in_channels=data.channels,
                                num_classes=len(data.class_names))
    return adm_task(network, NoiseSchedule.named(recipe.schedule), data, ClassifierLoss(), config)


def refuse_long(run: Run) -> None:
    seconds = run.config.iterations * step_seconds(run)
    if seconds > LONGEST:
        raise UserError(f"a classification accuracy score of {run.data.name} takes {duration(seconds)} of training on "
                        f"{device_name(run.execution.device)} ({run.config.iterations} steps of {run.config.batch_size} images "
                        f"of {run.data.image_size} pixels), and more than an hour is not begun; leave out --cas, or take a "
                        f"faster --device.")
