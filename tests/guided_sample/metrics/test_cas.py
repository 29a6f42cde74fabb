"""Classification accuracy score: good samples teach what real images are, bad ones do not. On small digits, a few steps."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_sample.metrics import cas
from guided_sample.metrics.cas import classification_accuracy_score
from guided_sample.metrics.pictures import Pictures
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError
from noisy_clf.training.recipes import Recipe
from noisy_clf.training.run import Run
from tests.guided_sample.metrics.test_judge import ORDER

CPU = torch.device("cpu")
SMALL = Recipe("cosine", 8, {"channels": 32, "channel_mult": (1, 1), "res_blocks": 1, "pool": "spatial"},
               {"iterations": 160, "batch_size": 64, "lr": 3e-3, "ema": 0.8, "save_every": 10})  # 40 of them without noise


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", 8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "classifier_recipe", lambda name, size: SMALL)


def real(data: Dataset, digest: str = "0") -> Pictures:
    images, labels = data.train.whole()
    pixels = images.permute(0, 2, 3, 1).numpy()
    return Pictures("some", (8, 8, 1), labels.numpy(), data.class_names, lambda rows: pixels[rows.start:rows.stop], digest,
                    Path("cache"), len(pixels))


def test_it_falls_with_wrong_labels(data: Dataset) -> None:
    pictures = real(data)
    assert pictures.labels is not None
    wrong = replace(pictures, labels=(pictures.labels + (np.arange(len(pictures)) % 2)) % 10, digest="1")
    assert 0.7 < classification_accuracy_score(pictures, data, CPU)
    assert classification_accuracy_score(wrong, data, CPU) < 0.6


def test_pictures_without_a_label_are_left_out(data: Dataset) -> None:
    pictures = real(data)
    rows = np.arange(len(pictures)) % 40 == 0  # fewer than a batch
    pixels, labels = np.concatenate(list(pictures.batches(1000))), pictures.labels
    assert labels is not None
    some = replace(pictures, labels=np.where(rows, labels, -1), digest="2")
    alone = replace(pictures, labels=labels[rows], read=lambda part: pixels[rows][part.start:part.stop], N=int(rows.sum()),
                    digest="3")
    assert classification_accuracy_score(some, data, CPU) == classification_accuracy_score(alone, data, CPU)


def test_images_without_noise_are_learned_for_a_quarter_of_the_recipes_steps() -> None:
    config = cas.training_config(SMALL, N=50, seed=3)
    assert (config.t_sampling, config.iterations, config.batch_size, config.seed) == ("levels:0,0", 40, 50, 3)
    assert config.validate_every == config.iterations and config.lr == 3e-3


def test_classes_go_by_name(data: Dataset) -> None:
    pictures = real(data)
    assert pictures.labels is not None
    ours = replace(pictures, digest="1", labels=ORDER.argsort()[pictures.labels],
                   class_names=tuple(data.class_names[k] for k in ORDER))
    np.testing.assert_array_equal(cas.numbered_as(data, ours), pictures.labels)
    np.testing.assert_array_equal(cas.numbered_as(data, replace(ours, labels=np.full(9, -1))), -1)


def test_what_was_stopped_goes_on_and_a_score_is_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    once = classification_accuracy_score(real(data), data, CPU)
    step, taken = Run.train_step, []

    def stopping(run: Run, images: torch.Tensor, y: torch.Tensor) -> None:
        taken.append(run.step)
        if len(taken) == 16:
            raise UserError("stopped.")
        step(run, images, y)

    monkeypatch.setattr(Run, "train_step", stopping)
    again = replace(real(data), cache=Path("other"))
    with pytest.raises(UserError, match="stopped"):
        classification_accuracy_score(again, data, CPU)
    assert classification_accuracy_score(again, data, CPU) == once
    assert taken == [*range(16), *range(10, 40)]
    assert classification_accuracy_score(again, data, CPU) == once and len(taken) == 46
    assert [path.suffix for path in Path("other").iterdir()] == [".json"]


def test_hours_are_refused_before_an_image_is_read(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "step_seconds", lambda run: 1000.0)
    with pytest.raises(UserError, match=r"takes 11 hours of training on cpu .*40 steps of 64 .* leave out --cas"):
        classification_accuracy_score(replace(real(data), read=None), data, CPU)  # type: ignore[arg-type]
    assert not Path("cache").exists()


@pytest.mark.parametrize("changed, message", [
    ({"labels": None}, "some has no labels"),
    ({"shape": (16, 16, 3)}, "digits has images of 8 pixels a side and 1 channels, and some of 16 x 16 with 3"),
    ({"class_names": ("a", "b")}, r"some has 2 classes \(a, b, ...\), and digits 10"),
])
def test_pictures_of_another_kind_are_refused(data: Dataset, changed: dict[str, object], message: str) -> None:
    pictures = replace(real(data), labels=np.zeros(len(data.train), dtype=np.int64))
    with pytest.raises(UserError, match=message):
        classification_accuracy_score(replace(pictures, **changed), data, CPU)  # type: ignore[arg-type]


def test_there_must_be_real_images_to_examine_on(data: Dataset) -> None:
    images = data.validation.images.read(np.arange(0), None)[0]
    empty = replace(data.validation, images=replace(data.validation.images, array=images),  # type: ignore[type-var]
                    labels=data.validation.labels[:0])
    with pytest.raises(UserError, match="no validation images"):
        classification_accuracy_score(real(data), replace(data, validation=empty), CPU)
