"""Extractors by name. Nothing here imports a network's file before it is used."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guided_sample.metrics.extractor import Extractor
from noisy_clf.errors import UserError

if TYPE_CHECKING:  # names are refused before torch is loaded
    import torch


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
