"""Images to be measured, read in batches: of a sampling run's folder, an ADM .npz, a folder of pictures, a dataset."""
from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from guided_sample.folder import LINES, NPZ
from guided_sample.labels import Wish
from guided_sample.manifest import MANIFEST, Manifest
from guided_sample.metrics.npz import Member, members, sha256_of
from noisy_clf import imagenet
from noisy_clf.checkpoints.cache import cache_folder
from noisy_clf.checkpoints.model_folder import Kind, ModelFolder
from noisy_clf.errors import UserError, one_line
from noisy_clf.files import from_json, read_json

if TYPE_CHECKING:
    from noisy_clf.datasets.images import Dataset, Images

FEATURES = ".features"
KEY: dict[Kind, str] = {"denoiser": "model", "classifier": "classifier"}  # of a request
LOOKED_AT = 1000  # files of a dataset that its digest is of, beside the sizes of all


@dataclass(frozen=True)
class Pictures:
    """N images to be measured, of a run, an archive, a folder or a dataset.

    name         how they are called in reports
    shape        (H, W, C), C 1 or 3
    labels       int64 [N], -1 where there is none; None where no image has one
    class_names  () where unknown
    read         uint8 [B,H,W,C] of these indices, in file order
    digest       SHA-256 of what the images are
    cache        the folder in which their features may be kept
    N            how many
    manifest     of a run's folder
    similarities by kind of guide ("like", "style", "text"), how alike each of a run's samples is to what it should be like,
                 float64 [N]
    """

    name: str
    shape: tuple[int, int, int]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    read: Callable[[range], np.ndarray]
    digest: str
    cache: Path
    N: int
    manifest: Manifest | None = None
    similarities: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.N

    @property
    def labelled(self) -> int:
        """How many have a label."""
        return 0 if self.labels is None else int((self.labels >= 0).sum())

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All of them in order, uint8 [<=size,H,W,C]."""
        for start in range(0, self.N, size):
            yield self.read(range(start, min(start + size, self.N)))


def pictures_at(path: Path) -> Pictures:
    """The images at a path: a sampling run's folder, an .npz with arr_0 and perhaps arr_1, a folder of pictures."""
    if path.is_file():
        return archive_pictures(path, str(path))
    if not path.is_dir():
        raise UserError(f"there is nothing at {path}; give a sampling run's folder, an .npz file with arr_0, or a folder of "
                        f"pictures.")
    return run_pictures(path) if (path / MANIFEST).exists() else folder_pictures(path)


# a run's folder


def run_pictures(path: Path) -> Pictures:
    """Those that a finished run has gathered in samples.npz. UserError where it is unfinished, which tells how to go on."""
    content = read_json(path / MANIFEST)
    manifest = Manifest.of(content, path / MANIFEST)
    if manifest is None:
        raise UserError(f"{path / MANIFEST} is not that of a run of this toolkit; to measure a folder of pictures, move that "
                        f"file out of it.")
    again = f"guided-sample --request {path / MANIFEST} --out {path.parent if 'upsample' in manifest.digests else path}"
    if type(content.get("num_samples")) is not int or not (path / NPZ).exists():
        made = sum(file.stem.isdigit() for file in path.glob("*.png"))
        raise UserError(f"{path} is of an unfinished run ({made} of {manifest.request.get('num_samples')} samples); finish it "
                        f"with {again}.")
    found = archive_pictures(path / NPZ, str(path))
    if len(found) != content["num_samples"]:
        raise UserError(f"{path / NPZ} has {len(found)} samples, but its run made {content['num_samples']}; remove it, and "
                        f"make it again with {again}.")
    return replace(found, class_names=names_of_run(path, manifest), manifest=manifest,
                   similarities=similarities_of_run(path / LINES, len(found)))


def similarities_of_run(path: Path, N: int) -> dict[str, np.ndarray]:
    """What samples.jsonl tells of the first N, where it does of all of them; of several guides of a kind their mean."""
    told: dict[str, dict[int, list[float]]] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # a torn line, or no file
        for line in map(from_json, path.read_text(encoding="utf-8").splitlines()):
            for title, value in line.get("similarities", {}).items():
                told.setdefault(title.partition(":")[0], {}).setdefault(line["index"], []).append(float(value))
    means = {kind: np.array([np.mean(values.get(index, math.nan)) for index in range(N)]) for kind, values in told.items()}
    return {kind: found for kind, found in means.items() if np.isfinite(found).all()}


def names_of_run(path: Path, manifest: Manifest) -> tuple[str, ...]:
    """Of all classes, those not drawn as well: as the manifest's models have them now, or ImageNet, or samples.jsonl alone.

    () where none of them has, for each class that was drawn, the name that samples.jsonl tells.
    """
    told: set[tuple[Wish, str]] = set()
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # what is torn is no more than a name
        for text in (path / LINES).read_text(encoding="utf-8").splitlines():
            line = from_json(text)
            if line["class_name"] is not None:
                weights = line.get("wish", {line["class"]: 1}).items()
                told.add((Wish(tuple((int(k), float(weight)) for k, weight in weights)), line["class_name"]))
    drawn = {wish.weights[0][0]: name for wish, name in told if wish.plain}
    most = max((k for wish, _ in told for k, _ in wish.weights), default=0)
    K = {config.get("network", {}).get("num_classes") for config in manifest.configs.values()}
    known = [imagenet.class_names()]
    for kind in ("denoiser", "classifier"):
        with suppress(UserError):
            known.append(ModelFolder.open(str(manifest.request.get(KEY[kind])), kind).class_names)
    if set(drawn) == set(range(len(drawn))) and len(drawn) in K:
        return tuple(drawn[label] for label in range(len(drawn)))
    return next((names for names in known if told and len(names) in K and most < len(names)
                 and all(wish.text(names) == name for wish, name in told)), ())


# an archive


def archive_pictures(path: Path, name: str, digest: str | None = None) -> Pictures:
    """ADM's .npz: arr_0 uint8 [N,H,W,C] and, perhaps, arr_1: a label of each.

    digest  SHA-256 of the file, where it is known
    """
    if path.suffix.lower() != ".npz":
        raise UserError(f"{path} is no .npz file; give a sampling run's folder, an .npz file with arr_0, or a folder of "
                        f"pictures.")
    arrays = members(path)
    images = images_of(path, arrays)
    labels = labels_of(path, arrays, len(images))
    H, W, C = images.shape[1:]
    return Pictures(name, (H, W, C), labels, (), images.read, digest or sha256_of(path), path.parent / FEATURES, len(images))


def images_of(path: Path, arrays: dict[str, Member]) -> Member:
    """arr_0. UserError if it is not there, or is not of images."""
    if "arr_0" not in arrays:
        raise UserError(f"{path} has no arr_0 but {', '.join(sorted(arrays)[:6]) or 'no arrays'}; images are uint8 [N,H,W,C] "
                        f"under the name arr_0, as np.savez(FILE, images) saves them.")
    images = arrays["arr_0"]
    told = f"{path} has in arr_0 {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise UserError(f"{told}; images are uint8 from 0 to 255: convert them first (of floats from -1 to 1: "
                        f"((x + 1) * 127.5).clip(0, 255).astype(np.uint8)).")
    if len(images.shape) != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        turn = "; transpose them by (0, 2, 3, 1)" if len(images.shape) == 4 and images.shape[1] in (1, 3) else ""
        raise UserError(f"{told}; images are [N,H,W,C], with 1 or 3 channels the last{turn}.")
    refuse_few(path, len(images))
    return images


def labels_of(path: Path, arrays: dict[str, Member], N: int) -> np.ndarray | None:
    """arr_1 as int64 [N], -1 where an image has none; None where no image has one."""
    if (stored := arrays.get("arr_1")) is None:
        return None
    if stored.shape != (N,) or stored.dtype.kind not in "iu":
        raise UserError(f"{path} has in arr_1 {stored.dtype} {list(stored.shape)}; labels are whole numbers, one for each of "
                        f"its {N} images: correct arr_1, or leave it out.")
    labels = np.maximum(stored.whole().astype(np.int64), -1)
    return labels if (labels >= 0).any() else None


def refuse_few(path: Path | str, N: int) -> None:
    if N < 2:
        raise UserError(f"{path} has {N} image{'s' * (N != 1)}; to be measured there must be at least 2, and hundreds to mean "
                        f"anything.")


# a folder


def folder_pictures(path: Path) -> Pictures:
    """The pictures in a folder by name, or in a folder for each class; all of one size. Grey ones alone have one channel."""
    from noisy_clf.datasets.folders import class_names

    files, classes, labels = sorted_files(path)
    refuse_few(path, len(files))
    digest, sizes = hashlib.sha256(), dict[tuple[int, int, int], str]()
    for file in tqdm(files, unit="file", desc=f"looking at {path.name}", delay=3, leave=False, dynamic_ncols=True):
        content, size = looked_at(path / file)
        sizes.setdefault(size, file)
        digest.update(json.dumps(file).encode() + hashlib.sha256(content).digest())
    (H, W, _), *others = sizes
    if other := next((size for size in others if size[:2] != (H, W)), None):
        raise UserError(f"{path} has pictures of different sizes, {W} x {H} ({sizes[H, W, _]}) and {other[1]} x {other[0]} "
                        f"({sizes[other]}); make them all of one size first.")
    C = max(channels for _, _, channels in sizes)

    def read(rows: range) -> np.ndarray:
        return np.stack([pixels_of(path / files[row], (H, W, C)) for row in rows])

    return Pictures(str(path), (H, W, C), labels, class_names(classes), read, digest.hexdigest(), path / FEATURES, len(files))


def sorted_files(path: Path) -> tuple[list[str], list[str], np.ndarray | None]:
    """(the pictures relative to the folder, class by class, the classes, int64 [N]); None for loose pictures."""
    from noisy_clf.datasets.folders import SPLITS, entries, images_below, in_order, is_folder, subfolders
    from noisy_clf.datasets.image_files import SUFFIXES

    loose = [entry.name for entry in entries(path) if entry.name.lower().endswith(SUFFIXES) and not is_folder(entry)]
    by_class = {name: found for name in in_order(subfolders(path, "")) if (found := images_below(path, name))}
    if loose and by_class:
        raise UserError(f"{path} has pictures side by side with folders of pictures, the first {next(iter(by_class))}; give "
                        f"one or the other.")
    if not loose and not by_class:
        raise UserError(f"{path} holds no images and is no sampling run's folder; give one, an .npz file with arr_0, or a "
                        f"folder with files such as {', '.join(SUFFIXES[:5])}.")
    if by_class and all(name.lower() in SPLITS for name in by_class):
        raise UserError(f"{path} has {', '.join(by_class)}, which are no classes; give one of them, such as "
                        f"{path / next(iter(by_class))}.")
    if loose:
        return loose, [], None
    labels = np.repeat(np.arange(len(by_class)), [len(found) for found in by_class.values()])
    return [file for found in by_class.values() for file in found], list(by_class), labels


def looked_at(path: Path) -> tuple[bytes, tuple[int, int, int]]:
    """(a picture's file, (H, W, C) as it would be decoded)."""
    from io import BytesIO

    from PIL import Image
    from noisy_clf.datasets.image_files import FORMATS, contents, printable

    try:
        content = contents(str(path))
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            return content, (picture.height, picture.width, 1 if Image.getmodebase(picture.mode) == "L" else 3)
    except Exception as error:  # whatever Pillow's many readers do with damaged files
        raise UserError(f"{printable(str(path))} cannot be read as a picture ({one_line(error)}); remove it, or save it again "
                        f"as PNG.") from error


def pixels_of(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H,W,C] of one picture, as it is."""
    from noisy_clf.datasets.image_files import Refused, decoded, printable, why

    try:
        pixels = np.asarray(decoded(str(path)))[:, :, :shape[2]]  # of a grey one all three channels are the same
    except (Refused, OSError) as error:
        raise UserError(f"{printable(str(path))} cannot be read as a picture ({why(error)}); remove it, or save it again as "
                        f"PNG.") from error
    if pixels.shape != shape:
        raise UserError(f"{printable(str(path))} has changed while it was measured; run the same command again.")
    return pixels


# a dataset


def pictures_of(dataset: Dataset, count: int | None = None) -> Pictures:
    """A dataset's training images, cut to size as it was loaded; of them so many, drawn once and for all."""
    chosen = dataset.train
    name, indices = dataset.name, np.arange(len(chosen))
    if count is not None and count > len(chosen):
        raise UserError(f"{name} has {len(chosen)} images, and {count} are asked for; ask for fewer, or for all.")
    if count is not None:
        name, indices = f"{count} of {name}", np.sort(np.random.default_rng(0).permutation(indices)[:count])
    refuse_few(name, len(indices))

    def read(rows: range) -> np.ndarray:
        return chosen.images.read(indices[rows.start:rows.stop], None)[0].transpose(0, 2, 3, 1)

    C, H, W = chosen.images.shape
    labels = chosen.labels.numpy()[indices] if dataset.class_names else None
    return Pictures(name, (H, W, C), labels, dataset.class_names, read, digest_of_images(chosen.images, dataset.source, count),
                    cache_folder() / "features", len(indices))


def digest_of_images(images: Images, source: str, count: int | None = None) -> str:
    """Of an array all bytes, or the digest that its source tells; of files their sizes, and the bytes of a thousand."""
    from noisy_clf.datasets.image_files import ImageFiles
    from noisy_clf.datasets.images import ArrayImages

    digest = hashlib.sha256(json.dumps([source, len(images), images.shape, count]).encode())
    if isinstance(images, ArrayImages) and not source:
        for start in range(0, len(images), LOOKED_AT):
            digest.update(np.ascontiguousarray(images.array[start:start + LOOKED_AT]).data)
    if isinstance(images, ImageFiles):
        bar = tqdm(images.paths, unit="file", desc="looking at files", delay=3, leave=False, dynamic_ncols=True)
        for i, path in enumerate(bar):
            digest.update(b"%d " % os.stat(path).st_size)
            if i % math.ceil(len(images) / LOOKED_AT) == 0:
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()
