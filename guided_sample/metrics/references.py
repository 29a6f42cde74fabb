"""What samples are compared with: ADM's published references, an .npz of images or moments, a folder, a dataset."""
from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from tqdm import tqdm

from guided_sample.manifest import MANIFEST, Manifest
from guided_sample.metrics.npz import Member, members, sha256_of
from guided_sample.metrics.pictures import Pictures, archive_pictures, pictures_at, pictures_of
from noisy_clf.checkpoints.cache import checked_digest, obtain
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.datasets import DATASETS, load_dataset
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write

if TYPE_CHECKING:
    from guided_sample.metrics.extractor import Extractor
    from guided_sample.metrics.frechet import Moments
    from noisy_clf.datasets.images import Dataset

DATASET = "dataset:"  # how the name of a dataset begins where it is a published reference's, or a folder's, too
KINDS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # of features: the keys of their moments in ADM's files
EXTRACTOR, EXTRACTOR_DIGEST, COUNT = "extractor", "extractor_digest", "moments_of"  # keys of our own


@dataclass(frozen=True)
class Published:
    """A reference of ADM's: its file, in the source that its models come from, and the size of its images."""

    file: str
    image_size: int


PUBLISHED = {
    **{f"imagenet{size}": Published(f"ref_batches/imagenet/{size}/VIRTUAL_imagenet{size}_labeled.npz", size)
       for size in (64, 128, 256)},
    "imagenet512": Published("ref_batches/imagenet/512/VIRTUAL_imagenet512.npz", 512),
    **{f"lsun-{what}": Published(f"ref_batches/lsun/{what}/VIRTUAL_lsun_{what}256.npz", 256)
       for what in ("bedroom", "cat", "horse")}}


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    digest            SHA-256 of its file, or of what its images are
    N                 how many images its moments are of; None where a file has moments and does not tell
    moments           by kind of features ("pool", "spatial"), where its file has them
    pictures          its images, where it has any: not always all that its moments are of
    extractor         what computed the moments, as its file tells: name and SHA-256; None: ADM's Inception, by its silence
    """

    name: str
    digest: str
    N: int | None
    moments: dict[str, Moments]
    pictures: Pictures | None
    extractor: str | None = None
    extractor_digest: str | None = None

    def moments_by(self, extractor: Extractor) -> dict[str, Moments]:
        """The stored ones if they are of this extractor; {} if they can be computed. UserError if there is no way."""
        known = self.extractor_digest or self.extractor
        same = self.extractor_digest == extractor.digest if known else extractor.name == "inception"
        if self.moments and same:
            return self.moments
        if self.pictures is not None:
            return {}
        raise UserError(f"{self.name} has moments of {self.extractor or 'inception'}'s features "
                        f"({(self.extractor_digest or 'ADM')[:12]}) and no images, and {extractor.name} "
                        f"({extractor.digest[:12]}) is asked for; give the --features that it was made with, or a reference "
                        f"with images (arr_0).")


def reference_named(name: str, image_size: int, channels: int, data: Path | None = None) -> Reference:
    """A published reference, an .npz file, a folder of pictures (as they are), or a dataset's training images.

    image_size, channels  of the samples: what a dataset is loaded for. Whether they fit is `refuse_misfit`'s to say
    data                  where a named dataset's files are; default: data/NAME
    """
    path = Path(name)
    if name in PUBLISHED and data is None:
        return published(name, image_size, channels)
    if name.startswith(DATASET) or name in DATASETS or data is not None or path.suffix.lower() == ".csv":
        return dataset_reference(name.removeprefix(DATASET), image_size, channels, data)
    if path.is_file():
        return archive_reference(path, str(path))
    if not path.is_dir() and (path.suffix or path.name != name):
        raise UserError(f"there is no file or folder {name}; give an .npz file, a folder of pictures, or a reference by name.")
    if not path.is_dir():
        datasets = ", ".join(name for name in DATASETS if name not in PUBLISHED)
        raise UserError(f"there is no reference {name!r}; give one of ADM's ({', '.join(PUBLISHED)}), an .npz file, a folder "
                        f"of pictures, or a dataset ({datasets}, {DATASET}PATH).")
    if (path / "train").is_dir() and not (path / MANIFEST).exists():
        return dataset_reference(name, image_size, channels, None)
    return of_pictures(pictures_at(path))


def of_pictures(pictures: Pictures) -> Reference:
    return Reference(pictures.name, pictures.digest, len(pictures), {}, pictures)


def published(name: str, image_size: int, channels: int) -> Reference:
    """One of ADM's, downloaded at first use. What does not fit is refused before that."""
    about = PUBLISHED[name]
    if (image_size, channels) != (about.image_size, 3):
        raise misfit("the samples", (image_size, image_size, channels), name, (about.image_size, about.image_size, 3))
    path = obtain(about.file)
    return archive_reference(path, name, checked_digest(path))


def archive_reference(path: Path, name: str, digest: str | None = None) -> Reference:
    """An .npz with images (arr_0), moments (mu, sigma, mu_s, sigma_s), or both. UserError if it has neither.

    digest  SHA-256 of the file, where it is known
    """
    arrays = members(path)
    stored, pictures = stored_moments(path, arrays), None
    digest = digest or sha256_of(path)
    if "arr_0" in arrays or not stored:
        pictures = archive_pictures(path, name, digest)
    told = {key: text_of(path, arrays[key]) for key in (EXTRACTOR, EXTRACTOR_DIGEST) if stored and key in arrays}
    N = next(iter(stored.values())).N or None if stored else len(pictures or ())
    return Reference(name, digest, N, stored, pictures, **told)


def stored_moments(path: Path, arrays: dict[str, Member]) -> dict[str, Moments]:
    """By kind. UserError where a mean and a covariance do not go together."""
    from guided_sample.metrics.frechet import Moments

    found, N = {}, 0
    if (count := arrays.get(COUNT)) is not None and count.shape == () and count.dtype.kind in "iu":
        N = int(count.whole())
    for kind, (mu, sigma) in KINDS.items():
        if mu not in arrays and sigma not in arrays:
            continue
        shapes = {key: arrays[key].shape for key in (mu, sigma) if key in arrays}
        d = shapes.get(mu, (0,))
        if shapes != {mu: d, sigma: d * 2} or len(d) != 1 or any(arrays[key].dtype.kind != "f" for key in shapes):
            raise UserError(f"{path} has {', '.join(f'{key} {list(shape)}' for key, shape in shapes.items())}; moments are "
                            f"{mu} [d] and {sigma} [d,d], of floats: make it again with make-reference.")
        values = [arrays[key].whole().astype(np.float64) for key in (mu, sigma)]
        if not all(np.isfinite(value).all() for value in values):
            raise UserError(f"{path} has NaN or infinite numbers in {mu} or {sigma}; make it again with make-reference.")
        found[kind] = Moments(N, *values)
    return found


def text_of(path: Path, stored: Member) -> str:
    if stored.dtype.kind != "U" or stored.shape:
        raise UserError(f"{path} has in {stored.name.removesuffix('.npy')} something else than a text; make it again with "
                        f"make-reference.")
    return str(stored.whole())


def dataset_reference(name: str, image_size: int, channels: int, data: Path | None) -> Reference:
    """The training images of a dataset by name or path, images of one's own cut to the samples' size and channels."""
    if name in ("imagenet64", "imagenet32") and image_size != (own := int(name.removeprefix("imagenet"))):
        raise misfit("the samples", (image_size, image_size, channels), name, (own, own, 3))
    return of_pictures(pictures_of(dataset_named(name, image_size, data, grey=name not in DATASETS and channels == 1)))


def dataset_named(name: str, image_size: int | None, data: Path | None, grey: bool = False) -> Dataset:
    """As `load_dataset` has it; with its classes where there are some, and without where images lie in no class's folder."""
    try:
        return load_dataset(name, image_size, data, grey)
    except UserError:
        if name in DATASETS or not Path(name).exists():
            raise
        return load_dataset(name, image_size, data, grey, classes=False)


def refuse_misfit(samples: str, shape: tuple[int, int, int], reference: Reference) -> None:
    """UserError where samples of that shape (H, W, C) are of another size than the reference's images, or channels."""
    if reference.pictures is not None and shape != reference.pictures.shape:
        raise misfit(samples, shape, reference.name, reference.pictures.shape)


def misfit(samples: str, theirs: tuple[int, int, int], reference: str, shape: tuple[int, int, int]) -> UserError:
    def told(shape: tuple[int, int, int]) -> str:
        return f"{shape[1]} x {shape[0]} pixels and {shape[2]} channel{'s' * (shape[2] > 1)}"

    if theirs[:2] != shape[:2]:
        way_out = (f"make-reference DATASET OUT.npz --image-size {theirs[0]} makes a reference of their size, and "
                   f"{DATASET}PATH cuts a folder's pictures to it")
    else:
        way_out = "save the grey ones in RGB, or give another reference"
    return UserError(f"{samples} have {told(theirs)}, and the reference {reference} {told(shape)}; nothing is resized "
                     f"silently, as that moves every figure: {way_out}.")


def implied_reference(manifest: Manifest) -> str | None:
    """What samples of such a run are compared with, where nobody says: a released model's published reference, or what the
    denoiser was trained on; None where its folder does not tell, or is not there any more."""
    name = str(manifest.request.get("upsample" if "upsample" in manifest.digests else "model"))
    if name in DENOISERS:
        size = DENOISERS[name].settings["image_size"]
        return f"imagenet{size}" if name.startswith("imagenet") else name.removesuffix("-nodropout")
    try:
        training: Any = ModelFolder.open(name, "denoiser").config.get("training")
    except UserError:
        return None
    dataset = training.get("dataset") if isinstance(training, dict) else None
    if not isinstance(dataset, str):
        return None
    return dataset if dataset in DATASETS and dataset not in PUBLISHED else f"{DATASET}{dataset}"


def write_reference(path: Path, pictures: Pictures, extractor: Extractor) -> None:
    """An .npz under ADM's keys, which its evaluator reads too, and ours: the images, their labels and moments, and by what."""
    from guided_sample.metrics.features import features_of
    from guided_sample.metrics.frechet import moments

    features, arrays = features_of(pictures, extractor), dict[str, Any]()
    for kind in extractor.kinds:
        found = moments(features.chunks(kind))
        arrays |= dict(zip(KINDS[kind], (found.mean, found.covariance)))
    arrays |= {EXTRACTOR: extractor.name, EXTRACTOR_DIGEST: extractor.digest, COUNT: len(pictures)}
    arrays |= {} if pictures.labels is None else {"arr_1": pictures.labels}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:  # in batches: they need not fit into memory
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                              "shape": (len(pictures), *pictures.shape)})
            with tqdm(total=len(pictures), unit="image", desc=f"writing {path.name}", delay=3, dynamic_ncols=True) as bar:
                for batch in pictures.batches(256):
                    file.write(batch.tobytes())
                    bar.update(len(batch))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, np.asarray(array), allow_pickle=False)
