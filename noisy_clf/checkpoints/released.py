"""The files that OpenAI released with ADM, and what the shapes of their tensors do not tell. (ADM's model card and README)"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisy_clf.schedule import NoiseSchedule


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the source and of the cache.

    shapes    `shapes_digest` of its tensors
    settings  what they do not tell, in the words of settings.py
    """

    file: str
    shapes: str
    settings: dict[str, Any]

    @property
    def schedule(self) -> NoiseSchedule:
        from noisy_clf.schedule import NoiseSchedule

        return NoiseSchedule.named(self.settings["schedule"], self.settings["T"])


def shapes_digest(shapes: Iterable[tuple[str, Iterable[int]]]) -> str:
    """Of (name, shape) in any order: the first 16 digits of the SHA-256 of their sorted lines "name 3,4"."""
    lines = sorted(f"{name} {','.join(map(str, shape))}\n" for name, shape in shapes)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def released(file: str, shapes: str, image_size: int, schedule: str = "linear", **more: Any) -> ReleasedFile:
    heads = {} if "heads" in more else {"head_channels": 64}
    return ReleasedFile(f"{file}.pt", shapes, {
        "image_size": image_size, "schedule": schedule, "T": 1000, "attention_order": "legacy", **heads, **more})


IMAGENET: dict[str, Any] = {"class_names": "imagenet"}
EPS: dict[str, Any] = {"predicts": "eps", "variance": "learned_range"}
DENOISERS = {
    "imagenet64": released("64x64_diffusion", "5382d6a7a07d27f1", 64, "cosine", **EPS, **IMAGENET, attention_order="new"),
    "imagenet128": released("128x128_diffusion", "e6cebcad913fc81c", 128, **EPS, **IMAGENET, heads=4),
    "imagenet256": released("256x256_diffusion", "0839c6e854a2225e", 256, **EPS, **IMAGENET),
    "imagenet256-uncond": released("256x256_diffusion_uncond", "41ed9485f4847993", 256, **EPS),
    "imagenet512": released("512x512_diffusion", "8ae7533d533a1e94", 512, **EPS, **IMAGENET),
    "lsun-bedroom": released("lsun_bedroom", "41ed9485f4847993", 256, **EPS),
    "lsun-cat": released("lsun_cat", "41ed9485f4847993", 256, **EPS),
    "lsun-horse": released("lsun_horse", "41ed9485f4847993", 256, **EPS),
    "lsun-horse-nodropout": released("lsun_horse_nodropout", "41ed9485f4847993", 256, **EPS),
    "imagenet64-256": released("64_256_upsampler", "f2f687711a890a61", 256, **EPS, **IMAGENET, heads=4, small_size=64),
    "imagenet128-512": released("128_512_upsampler", "4684c0d3d668dfa5", 512, **EPS, **IMAGENET, small_size=128),
}
CLASSIFIERS = {
    "imagenet64": released("64x64_classifier", "b5191b6fc2507467", 64, "cosine", **IMAGENET),
    "imagenet128": released("128x128_classifier", "6191115e9b28982a", 128, **IMAGENET),
    "imagenet256": released("256x256_classifier", "2a2387c7ee27f28a", 256, **IMAGENET),
    "imagenet512": released("512x512_classifier", "f06a7c572b054e3b", 512, **IMAGENET),
}
RELEASED = {"denoiser": DENOISERS, "classifier": CLASSIFIERS, "encoder": {}}
