"""Datasets by name or path."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noisy_clf.errors import UserError

if TYPE_CHECKING:
    from noisy_clf.datasets.images import Dataset

DATASETS = ("digits", "imagenet64", "imagenet32", "imagenet", "cifar10", "cifar100", "mnist", "fashion-mnist")


def load_dataset(name: str, image_size: int | None = None, folder: Path | None = None, grey: bool = False,
                 classes: bool = True) -> Dataset:
    """The dataset of that name, or the images at that path: a folder of class folders, or a CSV of file and label.

    image_size  pixels a side; default: the dataset's own, 256 for ImageNet, 64 for images of one's own
    folder      where a named dataset's files are, or go to; default: data/NAME
    grey        of images of one's own: one channel instead of three
    classes     of images of one's own: whether they are needed; without, any folder of images will do, or a CSV of file
    """
    refuse_unknown(name, image_size, folder)
    folder = folder or Path("data") / name
    if name == "digits":
        from noisy_clf.datasets.digits import digits
        return digits(16 if image_size is None else image_size)
    if name in ("imagenet64", "imagenet32"):
        from noisy_clf.datasets.downsampled_imagenet import downsampled_imagenet
        return downsampled_imagenet(int(name.removeprefix("imagenet")), folder)
    if name == "imagenet":
        from noisy_clf.datasets.folders import imagenet_folders
        return imagenet_folders(folder, image_size or 256)
    if name in DATASETS:
        from noisy_clf.datasets.torchvision_sets import torchvision_dataset
        return torchvision_dataset(name, folder, image_size)
    path, channels = Path(name), 1 if grey else 3
    if path.is_dir():
        from noisy_clf.datasets.folders import class_folders
        return class_folders(path, image_size or 64, channels, classes)
    from noisy_clf.datasets.csv_file import csv_dataset
    return csv_dataset(path, image_size or 64, channels, classes)


def refuse_unknown(name: str, image_size: int | None = None, folder: Path | None = None, grey: bool = False) -> None:
    """UserError for what names alone tell against `load_dataset` of the same, before anything is read or imported.

    grey  by somebody's wish: a named dataset is what it is
    """
    if folder and (name == "digits" or name not in DATASETS):
        raise UserError(f"--data says where a dataset of a name lies, and {name!r} "
                        + ("is in scikit-learn; leave it out." if name == "digits" else "is a path of its own; leave it out."))
    if name in ("imagenet64", "imagenet32") and image_size not in (None, int(name.removeprefix("imagenet"))):
        raise UserError(f"{name} has {name.removeprefix('imagenet')} pixels a side, not {image_size}; leave out --image-size, "
                        f"or use imagenet.")
    if grey and name in DATASETS:
        raise UserError(f"--grey is for images of your own, a folder or a .csv; {name} has the channels that it has: leave it "
                        f"out.")
    path = Path(name)
    if name not in DATASETS and not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".csv"):
        raise UserError(f"there is no dataset {name!r}; give one of {', '.join(DATASETS)}, a folder of class folders, or a "
                        f".csv file of file and label.")
