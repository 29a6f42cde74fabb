from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import ArrayImages, Augmentation, LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches, training_order
from noisy_clf.datasets.preprocessing import random_crop
from noisy_clf.errors import UserError


def raw_digits() -> tuple[Tensor, Tensor, Tensor]:
    """scikit-learn's images as uint8 and labels, and which of them are every fifth of their class."""
    raw = load_digits()
    seen, held_out = [0] * 10, []
    for label in raw.target:
        held_out.append(seen[label] % 5 == 0)
        seen[label] += 1
    images = torch.from_numpy(raw.images * 255 / 16).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(raw.target), torch.tensor(held_out)


def test_digits_at_8_pixels_are_the_raw_images_every_fifth_of_a_class_held_out() -> None:
    images, labels, held_out = raw_digits()
    data = digits(8)
    for part, of_it in ((data.train, ~held_out), (data.validation, held_out)):
        assert torch.equal(part.whole()[0], images[of_it]) and torch.equal(part.labels, labels[of_it])


@pytest.mark.parametrize("image_size", [8, 16, 20])
def test_digits_of_any_size_keep_split_labels_and_range(image_size: int) -> None:
    data, smallest = digits(image_size), digits(8)
    assert (data.image_size, data.channels) == (image_size, 1)
    assert (len(data.train), len(data.validation)) == (1433, 364)
    for part, reference in ((data.train, smallest.train), (data.validation, smallest.validation)):
        images, _ = part.whole()
        assert images.shape == (len(reference), 1, image_size, image_size) and images.dtype == torch.uint8
        assert torch.equal(part.labels, reference.labels) and part.labels.dtype == torch.int64
        assert images.min() == 0 and images.max() == 255


def test_enlarged_digits_shrink_back_to_their_raw_images() -> None:
    large, small = digits(16).validation, digits(8).validation
    pixels = torch.stack([F.avg_pool2d(to_x_0(large.whole()[0]), 2).flatten(1), to_x_0(small.whole()[0]).flatten(1)])
    shrunk, raw = F.normalize(pixels - pixels.mean(dim=2, keepdim=True), dim=2)
    nearest = (shrunk @ raw.T).max(dim=1)
    assert nearest.values.min() > 0.98 and torch.equal(nearest.indices, torch.arange(len(raw)))


def test_validation_is_stratified() -> None:
    data = digits(8)
    whole, held_out = (torch.bincount(labels, minlength=10) for labels in (
        torch.cat([data.train.labels, data.validation.labels]), data.validation.labels))
    assert torch.equal(held_out, (whole + 4) // 5)


def test_class_names_are_the_numbers_in_words() -> None:
    assert digits(8).class_names == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_to_x_0_maps_0_to_minus_1_and_255_to_1() -> None:
    x_0 = to_x_0(torch.arange(256, dtype=torch.uint8))
    assert x_0[0] == -1 and x_0[255] == 1 and x_0.dtype == torch.float32
    assert_close(x_0.diff(), torch.full((255,), 2 / 255), rtol=0, atol=2e-7)


def test_batch_picks_images_with_their_labels() -> None:
    array = np.array([0, 255, 51], dtype=np.uint8).reshape(3, 1, 1, 1)
    images, y = LabelledImages(ArrayImages(array), torch.tensor([7, 8, 9])).batch(torch.tensor([1, 2, 1]))
    assert images.flatten().tolist() == [255, 51, 255]
    assert y.tolist() == [8, 9, 8]


def test_flips_mirror_the_images_that_their_generators_choose_and_validation_none() -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    data, indices = LabelledImages(ArrayImages(array), torch.arange(40)), torch.arange(40)
    images, y = data.augmented(indices, Augmentation(random_flip=True), [np.random.default_rng(i) for i in range(40)])
    chosen = [np.random.default_rng(i).random() < 0.5 for i in range(40)]
    for image, original, flipped in zip(images.numpy(), array, chosen):
        assert np.array_equal(image, original[..., ::-1] if flipped else original)
    assert 10 < sum(chosen) < 30 and torch.equal(y, indices)
    assert np.array_equal(data.whole()[0].numpy(), array)


def test_crops_of_stored_images_are_those_of_pictures() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    data = LabelledImages(ArrayImages(array), torch.arange(5))
    images, _ = data.augmented(torch.arange(5), Augmentation(random_crop=True), [np.random.default_rng(i) for i in range(5)])
    for i, image in enumerate(images.numpy()):
        picture = random_crop(Image.fromarray(array[i].transpose(1, 2, 0)), 8, np.random.default_rng(i))
        assert np.array_equal(image, np.asarray(picture).transpose(2, 0, 1))
    assert not np.array_equal(images.numpy(), array)


def test_unknown_dataset_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="there is no dataset 'nosuch'; give one of digits, imagenet64, .*, a folder of class"):
        load_dataset("nosuch")


@pytest.mark.parametrize("name", ["imagenet64", "imagenet32", "imagenet"])
def test_data_that_is_missing_is_told_with_the_files_and_their_place(name: str) -> None:
    with pytest.raises(UserError, match=f"data/{name}.*" + ("n01440764" if name == "imagenet" else "train_data_batch_1 to 10")):
        load_dataset(name)


@pytest.mark.parametrize("name", ["digits", "photos", "photos.csv"])
def test_a_folder_for_what_brings_its_own_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--data says where a dataset of a name lies, and .*; leave it out"):
        load_dataset(name, folder=Path("elsewhere"))


def test_imagenet64_at_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="imagenet64 has 64 pixels a side, not 128; leave out --image-size, or use imagenet"):
        load_dataset("imagenet64", 128)


@pytest.mark.parametrize("image_size", [7, 0, -8])
def test_digits_smaller_than_they_are_are_refused(image_size: int) -> None:
    with pytest.raises(UserError, match=f"8 pixels a side; {image_size} would be smaller"):
        load_dataset("digits", image_size)


def epochs(count: int, batch_size: int, seed: int, number: int) -> list[list[int]]:
    """The first epochs, put together from batches that do not divide them."""
    steps = -(-count * number // batch_size)
    order = torch.cat([training_order(count, seed, range(step * batch_size, (step + 1) * batch_size))
                       for step in range(steps)]).tolist()
    return [order[count * epoch:count * (epoch + 1)] for epoch in range(number)]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])  # 23: a batch of more than two epochs
def test_each_epoch_is_a_permutation_of_its_own_for_any_batch_size(batch_size: int) -> None:
    found = epochs(10, batch_size, seed=3, number=5)
    assert all(sorted(epoch) == list(range(10)) for epoch in found)
    assert len({tuple(epoch) for epoch in found}) == 5
    assert found == epochs(10, 7, seed=3, number=5)


def test_seeds_order_differently() -> None:
    assert epochs(50, 8, seed=0, number=2) != epochs(50, 8, seed=1, number=2)


@pytest.mark.parametrize("count, batch_size", [(10, 3), (9, 3), (2, 5)])
def test_in_batches_goes_through_all_in_order(count: int, batch_size: int) -> None:
    batches = list(in_batches(count, batch_size))
    assert torch.cat(batches).tolist() == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
