"""OpenAI's released models as they are best sampled, and what was published of them. (ADM Tables 4-6 and 8; its README)"""
from __future__ import annotations

from dataclasses import dataclass

from guided_sample.advice import Advice, advice_of
from noisy_clf.checkpoints.cache import cached
from noisy_clf.checkpoints.model_folder import ModelFolder, bundled_models
from noisy_clf.checkpoints.released import CLASSIFIERS, DENOISERS
from noisy_clf.schedule import NoiseSchedule


@dataclass(frozen=True)
class ReleasedModel:
    """advice: its classifier, published scale and steps; published: FID, and how it came about; upsampler: what enlarges
    its samples."""

    advice: Advice
    published: str
    upsampler: str | None = None


ADM = ("ddpm", "ddim")  # the samplers with which they were published
EVEN = {"steps": "uniform15"}  # of large images (DPM-Solver's program; UniPC's table of ADM at 256 pixels)
LSUN_STEPS = {"ddpm": "1000"}
MODELS = {
    "imagenet256-uncond": ReleasedModel(Advice("imagenet256", 10.0, fast=EVEN | {"threshold": "dynamic"}),
                                        "12.00 (250 steps, scale 10); 26.21 unguided"),
    "imagenet64": ReleasedModel(Advice("imagenet64", 0.0), "2.07 (250 steps, unguided)", "imagenet64-256"),
    "imagenet128": ReleasedModel(Advice("imagenet128", {"ddpm": 0.5, "ddim": 1.25}, fast=EVEN),
                                 "2.97 (250 steps, scale 0.5); 5.98 (DDIM 25, scale 1.25)", "imagenet128-512"),
    "imagenet256": ReleasedModel(Advice("imagenet256", {"ddpm": 1.0, "ddim": 2.5}, fast=EVEN),
                                 "4.59 (250 steps, scale 1); 5.44 (DDIM 25, scale 2.5)"),
    "imagenet512": ReleasedModel(Advice("imagenet512", 4.0, fast=EVEN), "7.72 (250 steps, scale 4)"),
    "lsun-bedroom": ReleasedModel(Advice(None, 0.0, LSUN_STEPS, EVEN), "1.90 (1000 steps)"),
    "lsun-cat": ReleasedModel(Advice(None, 0.0, LSUN_STEPS, EVEN), "5.57 (1000 steps)"),
    "lsun-horse": ReleasedModel(Advice(None, 0.0, LSUN_STEPS, EVEN), "2.57 (1000 steps)"),
    "lsun-horse-nodropout": ReleasedModel(Advice(None, 0.0, LSUN_STEPS, EVEN), "-"),
    "imagenet64-256": ReleasedModel(Advice(None, 0.0), "3.94 (after imagenet64, guided)"),
    "imagenet128-512": ReleasedModel(Advice(None, 0.0), "3.85 (after imagenet128, guided)"),
}


def defaults(advice: Advice, schedule: NoiseSchedule) -> tuple[str, str]:
    """Scale and steps, for each of ADM's samplers."""
    return (" | ".join(f"{advice.scale_for(sampler):g}" for sampler in ADM) if advice.classifier else "-",
            " | ".join(advice.steps_for(sampler, schedule) for sampler in ADM))


def table() -> str:
    """What --list-models prints."""
    rows = [("name", "size", "classes", "scale", "steps", "in cache", "published FID")]
    for name, model in MODELS.items():
        file, advice = DENOISERS[name], model.advice
        small = file.settings.get("small_size")
        files = [file.file] + ([CLASSIFIERS[advice.classifier].file] if advice.classifier else [])
        there = sum(cached(file) is not None for file in files)
        rows.append((
            name, f"{small} -> {file.settings['image_size']}" if small else str(file.settings["image_size"]),
            "conditional" if "class_names" in file.settings else "guided" if advice.classifier else "none",
            *defaults(advice, file.schedule),
            "yes" if there == len(files) else f"{there} of {len(files)} files" if there else "no", model.published))
    for name in bundled_models("denoiser"):
        folder = ModelFolder.open(name, "denoiser")
        advice = advice_of(folder)
        rows.append((name, str(folder.image_size), "guided", *defaults(advice, folder.schedule), "in package", "-"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
