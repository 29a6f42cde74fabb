"""scikit-learn's handwritten digits, which need no download."""
from __future__ import annotations

import torch
from torch.nn import functional as F

from noisy_clf.datasets.images import ArrayImages, Dataset, LabelledImages
from noisy_clf.errors import UserError


def digits(image_size: int = 16) -> Dataset:
    """scikit-learn's 1797 handwritten digits of 8x8 grey pixels, enlarged bicubically.

    Every fifth image of each class is kept for validation: 1433 to train on, 364 to validate.
    """
    from sklearn.datasets import load_digits

    if image_size < 8:
        raise UserError(f"the digits are 8 pixels a side; {image_size} would be smaller.")
    raw = load_digits()
    small = torch.from_numpy(raw.images / 16).float()[:, None]
    large = F.interpolate(small, size=(image_size, image_size), mode="bicubic") if image_size > 8 else small
    images = large.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    labels = torch.from_numpy(raw.target).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[(labels == label).nonzero().flatten()[::5]] = True
    train, validation = (LabelledImages(ArrayImages(images[part.numpy()]), labels[part]) for part in (~held_out, held_out))
    return Dataset("digits", train, validation,
                   class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
