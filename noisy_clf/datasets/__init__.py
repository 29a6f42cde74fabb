"""Datasets by name or path."""
from __future__ import annotations

from pathlib import Path

from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError

DATASETS = ("digits", "imagenet64", "imagenet32", "imagenet", "cifar10", "cifar100", "mnist", "fashion-mnist")


def load_dataset(name: str, image_size: int | None = None, folder: Path | None = None, grey: bool = False) -> Dataset:
    """The dataset of that name, or the images at that path: a folder of class folders, or a CSV of file and label.

    image_size  pixels a side; default: the dataset's own, 256 for ImageNet, 64 for images of one's own
    folder      where a named dataset's files are, or go to; default: data/NAME
    grey        of images of one's own: one channel instead of three
    """
    if folder and (name == "digits" or name not in DATASETS):
        raise UserError(f"--data says where a dataset of a name lies, and {name!r} "
                        + ("is in scikit-learn; leave it out." if name == "digits" else "is a path of its own; leave it out."))
    folder = folder or Path("data") / name
    if name == "digits":
        from noisy_clf.datasets.digits import digits
        return digits(16 if image_size is None else image_size)
    if name in ("imagenet64", "imagenet32"):
        from noisy_clf.datasets.downsampled_imagenet import downsampled_imagenet
        size = int(name.removeprefix("imagenet"))
        if image_size not in (None, size):
            raise UserError(f"{name} has {size} pixels a side, not {image_size}; leave out --image-size, or use imagenet.")
        return downsampled_imagenet(size, folder)
    if name == "imagenet":
        from noisy_clf.datasets.folders import imagenet_folders
        return imagenet_folders(folder, image_size or 256)
    if name in DATASETS:
        from noisy_clf.datasets.torchvision_sets import torchvision_dataset
        return torchvision_dataset(name, folder, image_size)
    path, channels = Path(name), 1 if grey else 3
    if path.is_dir():
        from noisy_clf.datasets.folders import class_folders
        return class_folders(path, image_size or 64, channels)
    if path.is_file() and path.suffix.lower() == ".csv":
        from noisy_clf.datasets.csv_file import csv_dataset
        return csv_dataset(path, image_size or 64, channels)
    raise UserError(f"there is no dataset {name!r}; give one of {', '.join(DATASETS)}, a folder of class folders, or a .csv "
                    f"file of file and label.")
