"""Features of images by a network, kept on the disk in chunks: a second metric costs nothing, and a killed run goes on."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from noisy_clf.checkpoints.cache import cache_folder
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.errors import UserError
from noisy_clf.files import alone, atomic_write

if TYPE_CHECKING:  # names are refused before torch is loaded
    import torch

    from guided_sample.metrics.pictures import Pictures

CHUNK = 1000  # images


@dataclass(frozen=True)
class Extractor:
    """A network whose features images are compared by.

    name        "inception", "dinov2", "timm:NAME", "judge:NAME"
    digest      SHA-256 of its weights
    kinds       of features: ("pool", "spatial") for inception, else ("pool",)
    extract     uint8 [B,H,W,C] -> float32 [B,d] of each kind
    softmax     [2048,1008], Inception's last layer without its bias, for the Inception Score
    """

    name: str
    digest: str
    kinds: tuple[str, ...]
    extract: Callable[[np.ndarray], dict[str, np.ndarray]]
    softmax: np.ndarray | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class Features:
    """Of N images, float32 [N,d] of each kind: a file for each kind of each CHUNK of them, in a folder of their own."""

    folder: Path
    N: int
    kinds: tuple[str, ...]

    def chunks(self, kind: str) -> Iterator[np.ndarray]:
        """[<=CHUNK,d], in the images' order."""
        for part in self.parts():
            found = self.read(kind, part)
            if found is None:
                raise UserError(f"{self.path(kind, part)} was changed or removed while it was needed; run the same command "
                                f"again.")
            yield found

    def whole(self, kind: str) -> np.ndarray:
        """[N,d], mapped to its file where there is but one."""
        found = list(self.chunks(kind))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def parts(self) -> list[range]:
        return [range(first, min(first + CHUNK, self.N)) for first in range(0, self.N, CHUNK)]

    def missing(self) -> list[range]:
        """The chunks that are not there, or not whole."""
        return [part for part in self.parts() if any(self.read(kind, part) is None for kind in self.kinds)]

    def path(self, kind: str, part: range) -> Path:
        return self.folder / f"{kind}-{part.start:07}.npy"

    def read(self, kind: str, part: range) -> np.ndarray | None:
        try:
            found = np.load(self.path(kind, part), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.ndim == 2 and len(found) == len(part) and found.dtype == np.float32 else None

    def write(self, part: range, found: dict[str, np.ndarray]) -> None:
        for kind in self.kinds:
            with atomic_write(self.path(kind, part)) as temporary, open(temporary, "wb") as file:
                np.save(file, found[kind], allow_pickle=False)


def features_of(pictures: Pictures, extractor: Extractor) -> Features:
    """All features of the pictures: those on the disk, and what is missing of them extracted, with a bar."""
    features = place_for(pictures, extractor)
    if features.missing():
        with alone(features.folder, f"extracts features of {pictures.name}"):
            extract(pictures, extractor, features)
    return features


def place_for(pictures: Pictures, extractor: Extractor) -> Features:
    """Beside the pictures, or in the cache folder where nothing can be written there."""
    name = re.sub(r"[^\w.-]+", "-", f"{extractor.name}-{extractor.digest[:12]}-{pictures.digest[:12]}")
    beside, cached = (Features(folder / name, len(pictures), extractor.kinds)
                      for folder in (pictures.cache, cache_folder() / "features"))
    return beside if not beside.missing() or writable(beside.folder) else cached


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def extract(pictures: Pictures, extractor: Extractor, features: Features) -> None:
    """Writes the chunks that are missing. Batches are the same whichever these are, and so is every bit of the features."""
    missing, size = features.missing(), extractor.batch_size
    batches = [part[first:first + size] for part in missing for first in range(0, len(part), size)]
    ends = {part.stop: part for part in missing}
    read = read_ahead(lambda step: pictures.read(batches[step]), range(len(batches)), threads=1)
    found: list[dict[str, np.ndarray]] = []
    with tqdm(total=features.N, initial=features.N - sum(map(len, missing)), unit="image", dynamic_ncols=True,
              desc=f"{extractor.name}: {pictures.name}") as bar:
        for batch, images in zip(batches, read):
            found.append(refuse_nan(extractor.extract(images), batch, pictures, extractor))
            bar.update(len(batch))
            if batch.stop in ends:
                features.write(ends[batch.stop], {kind: np.concatenate([one[kind] for one in found])
                                                  for kind in features.kinds})
                found = []


def refuse_nan(found: dict[str, np.ndarray], batch: range, pictures: Pictures, extractor: Extractor) -> dict[str, np.ndarray]:
    if not all(np.isfinite(values).all() for values in found.values()):
        raise UserError(f"{extractor.name} finds features that are no numbers in image {batch.start} to {batch.stop - 1} of "
                        f"{pictures.name}: its weights are damaged; give others.")
    return found


def refuse_unknown(name: str) -> None:
    """UserError where there are no features of that name, which "judge" are too."""
    kind, _, rest = name.partition(":")
    if not (name in ("inception", "judge", "dinov2") or name.startswith("dinov2@") or kind == "timm" and rest):
        raise UserError(f"unknown features {name!r}; there are: inception, dinov2, dinov2@FILE, timm:NAME, timm:NAME@FILE, "
                        f"judge.")


def extractor_named(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
    """Of "inception", "dinov2" or "timm:NAME", the latter two with timm's own weights or, with "@FILE" behind them, a file's;
    a judge's are `judge_extractor`'s.

    weights  a file of Inception's published ones; None: the cache's, downloaded where need be
    """
    refuse_unknown(name)
    if weights is not None and name != "inception":
        raise UserError(f"--weights is Inception's file, and the features are {name}; give theirs as "
                        f"{name.partition('@')[0]}@FILE.")
    if name == "inception":
        from guided_sample.metrics.inception import inception_extractor

        return inception_extractor(device, weights)
    from guided_sample.metrics.backbones import timm_extractor

    return timm_extractor(name, device)
