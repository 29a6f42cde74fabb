"""Do samples show the class that was asked for? Asked of a judge: a classifier that never guided them. (ADM sec. 4.3)"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_sample.manifest import Manifest
from guided_sample.metrics.pictures import Pictures
from noisy_clf.checkpoints.by_name import RUNS_MODELS, classifier_folder
from noisy_clf.class_names import nameless, numbers_of
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import to_x_0
from noisy_clf.errors import UserError, enough_memory
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space

JUDGES = {"digits": "digits-judge", "digits-cond": "digits-judge"}  # bundled denoisers and their judge
CLEAN_SCHEDULE = NoiseSchedule.named("cosine", 1000)  # for timm's, which have none: only clean images are looked at


class Judge(NamedTuple):
    """digest: SHA-256 of its weights."""

    classifier: NoisyClassifier
    digest: str


@dataclass(frozen=True)
class Judgement:
    """What a judge saw of the N images that have a label, by the classes' numbers in `class_names`.

    asked      int64 [N]
    seen       int64 [N], the most probable class
    """

    class_names: tuple[str, ...]
    asked: np.ndarray
    seen: np.ndarray

    @property
    def agreement(self) -> float:
        """The share of images that show the class asked for."""
        return float((self.asked == self.seen).mean())

    @property
    def agreement_by_class(self) -> np.ndarray:
        """The same of each class, float64 [K]; NaN of one that was not asked for."""
        counts = self.confusion
        asked = counts.sum(axis=1)
        return np.where(asked > 0, counts.diagonal() / np.maximum(asked, 1), np.nan)

    @property
    def confusion(self) -> np.ndarray:
        """Counts int64 [K,K]: row asked for, column seen."""
        K = len(self.class_names)
        return np.bincount(self.asked * K + self.seen, minlength=K * K).reshape(K, K)


def implied_judge(manifest: Manifest) -> str | None:
    """The judge of a bundled model's samples; None where none is known."""
    return JUDGES.get(str(manifest.request.get("model")))


def load_judge(name: str, image_size: int, channels: int) -> Judge:
    """Any classifier, by name or path, that may judge images of this size."""
    loaded = load_classifier_whole(name, None, Space(CLEAN_SCHEDULE, image_size, channels))
    theirs = loaded.classifier.image_size, loaded.classifier.channels
    if theirs != (image_size, channels):
        raise UserError(f"the judge {name} sees images of {theirs[0]} pixels a side and {theirs[1]} channels, and these have "
                        f"{image_size} and {channels}; give another --judge, such as timm:NAME@FILE, or none.")
    return Judge(loaded.classifier, loaded.digest)


def warnings_of(name: str, digest: str, manifest: Manifest) -> list[str]:
    """Why not to trust a judge of samples of this run; UserError where it has guided them."""
    guides = {what: of for what, of in manifest.digests.items() if what not in ("model", "upsample")}
    if digest in guides.values():
        raise UserError(f"{name} guided these samples (SHA-256 {digest[:12]}...): they were drawn to please it, whatever they "
                        f"show; give another --judge, which learned apart from it.")
    guide = manifest.request.get("classifier")
    training = training_of(name)
    if guide and training and training == training_of(str(guide)):
        return [f"the judge {name} is of the same training run as {guide}, which guided these samples: the two err alike, and "
                f"what it says is too favourable."]
    return []


def training_of(name: str) -> dict[str, Any] | None:
    """What tells a training run from others: all of config.json but what a validation or a release writes there; None where
    that is not known. (best/ and last/ of one run have the same)"""
    try:
        folder = classifier_folder(name)
    except UserError:  # a guide that lies elsewhere, or in a Python file
        return None
    training = folder.config.get("training") if folder else None
    if folder is None or not isinstance(training, dict):
        return None
    return {"network": folder.config["network"], "class_names": folder.config["class_names"],
            "training": {key: value for key, value in training.items() if key not in RUNS_MODELS}}


@torch.inference_mode()
def judged(pictures: Pictures, judge: NoisyClassifier, device: torch.device) -> Judgement:
    """What the judge sees in the images, clean as they are (t = 0). UserError where none has a label, or they are of other
    classes."""
    asked, names, numbers = asked_of(pictures, judge)
    judge.to(device)
    columns = numbers.to(device)
    found = []
    size = max(1, min(256, 256 * 32 ** 2 // judge.image_size ** 2))
    with tqdm(total=len(pictures), unit="image", desc="judging", delay=3, dynamic_ncols=True) as bar, \
            enough_memory(lambda: f"{device} has too little memory to judge {size} images at a time; choose a smaller judge."):
        for images in pictures.batches(size):
            x_0 = to_x_0(torch.tensor(images, device=device).permute(0, 3, 1, 2))  # a copy: the array may be a mapped file
            logits = judge(x_0, torch.zeros(len(x_0), dtype=torch.int64, device=device))
            found.append(logits[:, columns].cpu())
            bar.update(len(images))
    told = torch.cat(found).numpy()
    if not np.isfinite(told).all():
        raise UserError("the judge's output is not a finite number; its weights are damaged, or its training diverged.")
    return Judgement(names, asked[asked >= 0], told.argmax(axis=1)[asked >= 0])


def asked_of(pictures: Pictures, judge: NoisyClassifier) -> tuple[np.ndarray, tuple[str, ...], Tensor]:
    """(the classes asked for int64 [N], or -1, their names, the judge's number of each of them int64 [K])."""
    H, W, C = pictures.shape
    if (H, W, C) != (judge.image_size, judge.image_size, judge.channels):
        raise UserError(f"the judge sees images of {judge.image_size} pixels a side and {judge.channels} channels, and those "
                        f"of {pictures.name} are {W} x {H} with {C}; give another --judge, or none.")
    ours, theirs = pictures.class_names or judge.class_names, judge.class_names
    labels = labels_in(pictures, ours)
    if (numbers := numbers_of(ours, theirs)) is not None:
        return labels, theirs if nameless(ours) else ours, torch.tensor(numbers)
    raise UserError(f"the judge tells {len(theirs)} classes ({', '.join(theirs[:3])}, ...), and {pictures.name} has "
                    f"{len(ours)} ({', '.join(ours[:3])}, ...); give a --judge that learned the same classes.")


def labels_in(pictures: Pictures, class_names: tuple[str, ...]) -> np.ndarray:
    """int64 [N], -1 where there is none; UserError where no image has one, or one is not of these classes."""
    if pictures.labels is None:
        raise UserError(f"{pictures.name} has no labels, so that nobody can tell whether its images show what was asked for; "
                        f"give samples with a class each (arr_1 in an .npz), or no judge.")
    if len(pictures.labels) and pictures.labels.max() >= len(class_names):
        raise UserError(f"{pictures.name} has the label {pictures.labels.max()}, and there are {len(class_names)} classes, "
                        f"numbered from 0; give the labels of these classes.")
    return pictures.labels
