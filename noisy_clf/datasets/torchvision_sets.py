"""CIFAR and MNIST, in memory. torchvision tells where their files are and what they hash to; they are read here, as data."""
from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from noisy_clf.datasets.array_unpickler import read_pickled_arrays
from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages, as_array, as_picture
from noisy_clf.datasets.preprocessing import centre_crop
from noisy_clf.download import download, is_there
from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.files import alone

SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # torchvision's names
SMALLEST, LARGEST = 8, 256  # image sizes

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [N,C,H,W], labels [N]


def torchvision_dataset(name: str, folder: Path, image_size: int | None) -> Dataset:
    """One of SETS, downloaded into `folder` where it is not there yet, with its official training and test images.

    image_size  pixels a side, enlarged or reduced bicubically; default: its own, 32 for CIFAR and 28 for MNIST (which halves
                only twice: networks that halve more often want 32)
    """
    if image_size is not None and not SMALLEST <= image_size <= LARGEST:
        raise UserError(f"{name} can be {SMALLEST} to {LARGEST} pixels a side, best 32, not {image_size}.")
    from torchvision import datasets

    read = read_cifar if name.startswith("cifar") else read_mnist
    train, test, class_names = read(name, getattr(datasets, SETS[name]), folder)
    return Dataset(name, labelled(train, image_size, name), labelled(test, image_size, name), tuple(class_names))


def labelled(part: Arrays, image_size: int | None, name: str) -> LabelledImages:
    images, labels = part
    if image_size not in (None, images.shape[-1]):
        small, images = images, np.empty((*images.shape[:2], image_size, image_size), np.uint8)
        for i, image in enumerate(tqdm(small, desc=f"resizing {name}", unit="image", delay=2, dynamic_ncols=True)):
            images[i] = as_array(centre_crop(as_picture(image), images.shape[-1]))
    return LabelledImages(ArrayImages(images), torch.from_numpy(labels.astype(np.int64)))


def read_cifar(name: str, source: Any, folder: Path) -> tuple[Arrays, Arrays, list[str]]:
    from torchvision.datasets.utils import extract_archive

    place, archive = folder / source.base_folder, folder / source.filename
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]

    def whole() -> bool:
        return all(is_there(place / file, f"md5:{md5}") for file, md5 in files)

    if not whole():
        with alone(folder, f"downloads {name}"):
            if not whole():
                obtain(name, [source.url], archive, source.tgz_md5)
                try:
                    extract_archive(str(archive), str(folder))
                except OSError as error:
                    raise UserError(disk_trouble(error, place)) from error
    parts = []
    for listed in (source.train_list, source.test_list):
        batches = [read_pickled_arrays(place / file) for file, _ in listed]
        labels = [label for batch in batches for label in batch["labels" if "labels" in batch else "fine_labels"]]
        parts.append((np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32), np.array(labels)))
    return parts[0], parts[1], read_pickled_arrays(place / source.meta["filename"])[source.meta["key"]]


def read_mnist(name: str, source: Any, folder: Path) -> tuple[Arrays, Arrays, list[str]]:
    place = folder / source.__name__ / "raw"

    def lacking() -> list[tuple[str, str]]:
        return [(file, md5) for file, md5 in source.resources if not is_there(place / file, f"md5:{md5}")]

    if lacking():
        with alone(folder, f"downloads {name}"):
            for file, md5 in lacking():
                obtain(name, [f"{mirror}{file}" for mirror in source.mirrors], place / file, md5)
    images, labels, test_images, test_labels = (read_idx(place / file) for file, _ in source.resources)
    names = [re.sub(r"^\d - ", "", text) for text in source.classes]  # MNIST's are "0 - zero", ...
    return (images[:, None], labels), (test_images[:, None], test_labels), names


def read_idx(path: Path) -> np.ndarray:
    """uint8 of any shape: after two bytes 0, the type (8) and the number of sizes come the sizes, big-endian, and the bytes."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def obtain(name: str, urls: list[str], path: Path, md5: str) -> None:
    try:
        download(urls, path, f"md5:{md5}", name, " as it is")
    except OSError as error:
        raise UserError(disk_trouble(error)) from error
