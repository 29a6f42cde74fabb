"""Datasets by name or path."""
from __future__ import annotations

from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import Dataset
from noisy_clf.errors import UserError

DATASETS = ("digits",)


def load_dataset(name: str, image_size: int | None = None) -> Dataset:
    """The dataset of that name at `image_size` pixels a side (default: its own)."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}; there are: {', '.join(DATASETS)}.")
    return digits(16 if image_size is None else image_size)
