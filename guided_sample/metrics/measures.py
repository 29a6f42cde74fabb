"""What is asked of an evaluation, as names: refused by them before anything is loaded."""
from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from guided_sample.metrics.extractors import refuse_unknown
from noisy_clf.errors import UserError

OF_INCEPTION = ("FID", "sFID", "IS")  # names that no other network's features may have
METRICS = {  # name: what it is; all but these by whatever features, and called after them where they are not Inception's
    "FID": "Frechet distance to the reference", "sFID": "the same of spatial features", "IS": "Inception Score",
    "FD": "Frechet distance by other features", "KID": "kernel distance, without a bias",
    "FD_infinity": "FID or FD as of infinitely many samples", "precision": "share of samples that look real",
    "recall": "share of real images that samples reach", "agreement": "share that a judge sees as their class",
    "similarity": "how alike samples are to the picture or the words that guided them",
    "CAS": "accuracy on real images of a classifier that learned from the samples"}


@dataclass(frozen=True)
class Measures:
    """What is asked; what is not is what the samples' manifest implies.

    reference  as `reference_named` has it
    features   "inception", "dinov2", "timm:NAME[@FILE]", "judge"
    judge      a classifier that never guided the samples, by name or path
    metrics    names out of METRICS; () all that can be measured without another training
    cas        the dataset whose real images a classifier trained on the samples is tested on
    is_order   of the images in the Inception Score's splits: "file", as ADM's program has it, or "shuffled"
    weights    the file of Inception's, where it is not to be downloaded
    data       where a named reference dataset's files are
    """

    reference: str | None = None
    features: str | None = None
    judge: str | None = None
    metrics: tuple[str, ...] = ()
    cas: str | None = None
    is_order: str = "file"
    weights: Path | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in METRICS]:
            near = {"KD": "KID"} | {name.lower(): name for name in METRICS}
            meant = near.get(unknown[0]) or near.get(unknown[0].lower())
            raise UserError(f"there is no metric {unknown[0]!r}; " + (f"did you mean {meant}?" if meant else
                            f"there are: {', '.join(METRICS)}."))
        if self.features is not None:
            refuse_unknown(self.features)
        by = self.features or "inception"
        if by != "inception" and (ours := [name for name in self.metrics if name in OF_INCEPTION]):
            raise UserError(f"{ours[0]} is by Inception's features and no others, and the features are {by}; ask for FD, or "
                            f"leave out --features.")
        if self.cas is None and "CAS" in self.metrics:
            raise UserError("CAS trains a classifier on the samples and tests it on a dataset's real images; name the dataset "
                            "(--cas digits).")

    def wants(self, *names: str) -> bool:
        return not self.metrics or any(name in self.metrics for name in names)


def measures_told(measures: Measures) -> dict[str, Any]:
    """What is asked, but for what is not, as JSON has it."""
    given = {one.name: getattr(measures, one.name) for one in fields(Measures) if getattr(measures, one.name) != one.default}
    return {name: list(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
