"""What every loader returns."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guided_sample.denoiser import Denoiser
from guided_sample.advice import Advice


@dataclass(frozen=True)
class LoadedModel:
    """A frozen denoiser, in evaluation mode, on the CPU.

    digest  SHA-256 of its weights' file
    config  all else that its predictions depend on, as JSON has it: a run's manifest keeps it
    advice  how it is best sampled
    settings_given  by somebody, for a file that carries none
    """

    denoiser: Denoiser
    digest: str
    config: dict[str, Any]
    advice: Advice = Advice()
    settings_given: bool = False
