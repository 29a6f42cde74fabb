"""Images in class folders, and datasets of image files at large: which are used, which are held out, what the classes are."""
from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from noisy_clf import imagenet
from noisy_clf.checkpoints.cache import cache_folder
from noisy_clf.datasets.image_files import SUFFIXES, ImageFiles, printable, silence_pillow, why_unusable
from noisy_clf.datasets.images import Dataset, LabelledImages
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.files import from_json

VALIDATION = ("val", "validation", "valid", "test")  # the first of them that is there is validated on
SPLITS = ("train", "training", *VALIDATION, "testing")  # what no class is named, if no other is
OTHERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")  # folders that systems make
HELD_OUT = 10  # one image of so many of a class
MOST_TRIED = 1000  # classes
THREADS = min(32, 2 * (os.cpu_count() or 4))  # that look for files, and try them
IMAGENET_LAYOUT = "train/n01440764/*.JPEG and val/n01440764/*.JPEG, and so on for each of the 1000 WordNet ids"

Listing = dict[str, list[str]]  # class -> its files, by their paths relative to the root, sorted


@dataclass(frozen=True)
class Listed:
    """Image files and their classes, before any is opened.

    source      what the user gave: a folder, or a file that lists them
    root        the folder that paths are relative to
    train       those to train on: their classes count
    validation  those to validate on; None: some of `train` are held out
    classes     whether they count: else all images are alike
    """

    source: Path
    root: Path
    train: Listing
    validation: Listing | None = None
    classes: bool = True


def class_folders(folder: Path, image_size: int, channels: int = 3, classes: bool = True) -> Dataset:
    """The images in a folder for each class, cut to `image_size` pixels a side; 3 channels are RGB, 1 is grey.

    With folders train and val (or validation, valid, test), these hold the folders of the classes, and those of train count.
    Else every tenth image of each class is held out. UserError where there are not two classes, or one without an image;
    where no classes are needed, images may lie in any way.
    """
    root = Path(os.path.abspath(folder))
    names = subfolders(root, "")
    held_out = next((name for name in VALIDATION if name in names), None)

    def listed(part: str) -> Listing:
        return listing(root, part) if classes else anyhow(root, part)

    if "train" in names and held_out:
        return dataset_of(Listed(root, root, listed("train"), listed(held_out), classes), str(root), image_size, channels)
    if classes and names and all(name.lower() in SPLITS for name in names):
        raise UserError(f"{root} has {', '.join(names)}, which are no classes; name them train and val, or give one of "
                        f"them, of which every tenth image is then held out.")
    return dataset_of(Listed(root, root, listed(""), None, classes), str(root), image_size, channels)


def imagenet_folders(folder: Path, image_size: int) -> Dataset:
    """ImageNet's 1000 classes in folder/train and folder/val. UserError that tells what is missing, and where it goes."""
    root = Path(os.path.abspath(folder))
    ids = {id for id, _ in imagenet.synsets()}
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"{root} has no folder {part}; ImageNet's files go into {IMAGENET_LAYOUT}.")
        names = subfolders(root, part)
        if not names and loose_images(root, part):
            raise UserError(f"the images of {root / part} lie side by side; sort them into a folder for each class first: "
                            f"{IMAGENET_LAYOUT}.")
        if missing := sorted(ids - set(names)):
            raise UserError(f"{root / part} lacks {len(missing)} of ImageNet's 1000 classes, the first {missing[0]}; its files "
                            f"go into {IMAGENET_LAYOUT}, and a folder with some of the classes is used by its path instead.")
        if more := sorted(set(names) - ids):
            raise UserError(f"{root / part} has {len(more)} folders that are not of ImageNet's 1000 classes, the first "
                            f"{printable(more[0])}; remove them, or use the folder by its path instead.")
    listed = Listed(root, root, listing(root, "train"), listing(root, "val"))
    return dataset_of(listed, "imagenet", image_size, channels=3)


def dataset_of(listed: Listed, name: str, image_size: int, channels: int) -> Dataset:
    """The dataset of those files. UserError if they make none."""
    source, root, train, validation = listed.source, listed.root, listed.train, listed.validation
    if listed.classes:
        refuse_classes(source, train, validation or {})
    classes, bad = in_order(train), left_out_before(root)
    parts = [train] if validation is None else [train, validation]
    parts = [{label: [path for path in part.get(label, []) if path not in bad] for label in classes} for part in parts]
    if validation is None:
        parts = hold_out(parts[0])
    refuse_unusable(source, root, *parts)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    labelled = [labelled_images(root, part, image_size, channels) for part in parts]
    return Dataset(name, labelled[0], labelled[1], class_names(classes) if listed.classes else (), source=f"files {digest}")


def refuse_classes(source: Path, train: Listing, validation: Listing) -> None:
    """UserError where these are no classes for a classifier."""
    classes = in_order(train)
    if len(classes) < 2:
        raise UserError(f"{source} has one class only, {printable(classes[0])}; there must be two or more to learn classes.")
    if odd := [name for name in classes if not name.isprintable()]:
        raise UserError(f"{source} has a class with a name that cannot be printed, {printable(odd[0])}; rename it.")
    if empty := [name for name, paths in train.items() if not paths]:
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise UserError(f"{source}: class {printable(empty[0])}{others} has no image; add some, or remove it.")
    if strangers := [name for name, paths in validation.items() if paths and name not in train]:
        raise UserError(f"{source} has images of {printable(strangers[0])} to validate on, but none to train on; the classes "
                        f"are {', '.join(map(printable, classes[:10]))}{', ...' if len(classes) > 10 else ''}.")


def labelled_images(root: Path, part: Listing, image_size: int, channels: int) -> LabelledImages:
    counts = torch.tensor([len(paths) for paths in part.values()])
    files = ImageFiles([os.path.join(root, path) for paths in part.values() for path in paths], image_size, channels)
    return LabelledImages(files, torch.arange(len(part)).repeat_interleave(counts))


def refuse_unusable(source: Path, root: Path, train: Listing, validation: Listing) -> None:
    """UserError, now and not when training comes to it, if a class has no usable image, or none is there to validate on.

    Of each class, or of a thousand of them, images are decoded until one can be used: seconds, whatever their number.
    """
    silence_pillow()
    groups = {f": class {printable(label)} has no image to train on" if label else " has no image to train on": paths
              for label, paths in list(train.items())[::math.ceil(len(train) / MOST_TRIED)]}
    groups[" has no image to validate on"] = [path for paths in validation.values() for path in paths]
    tried = [*groups.values()]
    found = read_ahead(lambda i: why_unusable(os.path.join(root, path) for path in tried[i]), range(len(tried)), THREADS)
    for what, reason in zip(groups, tqdm(found, total=len(tried), unit="class", desc="trying images", delay=3,
                                         dynamic_ncols=True)):
        if reason:
            raise UserError(f"{source}{what} that can be used ({reason}); add some.")


def left_out_before(root: Path) -> set[str]:
    """Files that cannot be used, as recorded by the first release, which checked all of them: its runs have never seen them."""
    digest, found = hashlib.sha256(f"1 {root}".encode("utf-8", "surrogateescape")).hexdigest()[:12], set()
    with suppress(OSError, UserError), open(cache_folder() / "checked" / f"{root.name[:40]}-{digest}.jsonl", "rb") as record:
        for line in record:
            with suppress(ValueError, TypeError, OSError):
                path, size, mtime, reason = from_json(line.decode())
                about = os.stat(root / path) if reason else None
                if about and (about.st_size, about.st_mtime_ns) == (size, mtime):
                    found.add(path)
    return found


def hold_out(part: Listing) -> list[Listing]:
    """[to train on, to validate on]: the first, the eleventh, ... of each class are held out, but not the only one."""
    held_out = {label: paths[::HELD_OUT] if len(paths) > 1 else [] for label, paths in part.items()}
    kept = {label: [path for i, path in enumerate(paths) if i % HELD_OUT or len(paths) == 1] for label, paths in part.items()}
    return [kept, held_out]


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted: as numbers where all are, so that 10 does not come before 2, and else as text."""
    names = sorted(names)
    return sorted(names, key=int) if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names) else names


def class_names(classes: list[str]) -> tuple[str, ...]:
    """The classes themselves or, where all are WordNet ids, ImageNet's names for those that are ImageNet's."""
    if not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return tuple(classes)
    names = {id: name for (id, _), name in zip(imagenet.synsets(), imagenet.class_names())}
    return tuple(names.get(id, id) for id in classes)


def listing(root: Path, part: str) -> Listing:
    """The image files in each class's folder and all below it. `part` is where the classes are, relative to the root."""
    names = subfolders(root, part)
    if not names:
        raise UserError(f"{root / part} has no class folders; put the images of each class into a folder named after it.")
    if left_out := loose_images(root, part):
        say(f"{left_out} images in {root / part} are in no class's folder and are left out")
    found = read_ahead(lambda i: images_below(root, os.path.join(part, names[i])), range(len(names)), THREADS)
    return dict(zip(names, tqdm(found, total=len(names), unit="folder", desc="looking for images", delay=3,
                                dynamic_ncols=True)))


def anyhow(root: Path, part: str) -> Listing:
    """All image files of a folder and of those in it, as one class without a name."""
    found = [os.path.join(part, entry.name) for entry in entries(root / part)
             if entry.name.lower().endswith(SUFFIXES) and not is_folder(entry)]
    for name in subfolders(root, part):
        found += images_below(root, os.path.join(part, name))
    if not found:
        raise UserError(f"{root / part} holds no images; give a folder with files such as {', '.join(SUFFIXES[:5])}.")
    return {"": found}


def say(text: str) -> None:
    """On stderr; of several processes that torchrun started, only the first does."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(text, file=sys.stderr)


def images_below(root: Path, folder: str) -> list[str]:
    """The image files in a folder and all below it, relative to the root, sorted. Links are followed, but not in circles."""
    found, folders, seen = [], [folder], {identity(above) for above in (root, *root.parents)}
    while folders:
        folder = folders.pop()
        if (this := identity(root / folder)) in seen:
            continue
        seen.add(this)
        for entry in entries(root / folder):
            path = f"{folder}/{entry.name}"
            if is_folder(entry):
                folders.append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                found.append(path)
    return sorted(found)


def subfolders(root: Path, part: str) -> list[str]:
    return [entry.name for entry in entries(root / part) if is_folder(entry)]


def loose_images(root: Path, part: str) -> int:
    return sum(entry.name.lower().endswith(SUFFIXES) and not is_folder(entry) for entry in entries(root / part))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; without what is hidden, or a system's own."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".") and entry.name not in OTHERS),
                          key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(disk_trouble(error, folder)) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def identity(folder: Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino
