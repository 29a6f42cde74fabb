"""Features of images by a network, kept on the disk in chunks: a second metric costs nothing, and a killed run goes on."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from guided_sample.metrics.extractor import Extractor
from noisy_clf.checkpoints.cache import cache_folder
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.errors import UserError
from noisy_clf.files import alone, atomic_write

if TYPE_CHECKING:
    from guided_sample.metrics.pictures import Pictures

CHUNK = 1000  # images


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
