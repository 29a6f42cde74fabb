"""What every loader returns."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noisy_clf.classifier import NoisyClassifier


@dataclass(frozen=True)
class LoadedClassifier:
    """A frozen classifier, in evaluation mode, on the CPU.

    digest  SHA-256 of its weights' file
    config  all else that its predictions depend on, as JSON has it
    """

    classifier: NoisyClassifier
    digest: str
    config: dict[str, Any]
