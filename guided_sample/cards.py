"""What is known of a model before it is loaded, or even downloaded: from its name, or its folder's configuration."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guided_sample.advice import Advice, advice_of
from guided_sample.guides import GuideSpec
from guided_sample.released import MODELS
from guided_sample.request import Request
from noisy_clf import imagenet
from noisy_clf.checkpoints.diffusers_scheduler import is_diffusers_folder
from noisy_clf.checkpoints.by_name import CLIP, encoder_folder
from noisy_clf.checkpoints.cache import cached
from noisy_clf.checkpoints.model_folder import Kind, ModelFolder
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.errors import UserError
from noisy_clf.space import Space


@dataclass(frozen=True)
class Card:
    """Of a denoiser or a classifier; None: it must be loaded to know.

    class_names  () where it knows no classes
    null_class   whether a class-conditional one can be sampled without a class
    has_text     whether an encoder has a text tower
    small_size   of an upsampler: the size that it enlarges from
    upsampler    what enlarges its samples, where that is known
    """

    space: Space | None = None
    class_names: tuple[str, ...] | None = None
    small_size: int | None = None
    advice: Advice = Advice()
    upsampler: str | None = None
    null_class: bool = False
    has_text: bool | None = None

    @property
    def T(self) -> int | None:
        return self.space.schedule.T if self.space else None


def card_of(name_or_path: str, kind: Kind) -> Card:
    """UserError where there is no such model, or its folder is none."""
    path = Path(name_or_path)
    if name_or_path in RELEASED[kind]:
        file = RELEASED[kind][name_or_path]
        settings, space = file.settings, Space(file.schedule, file.settings["image_size"], 3)
        names = settings.get("class_names", ())
        known = MODELS[name_or_path] if kind == "denoiser" else None
        return Card(space, imagenet.class_names() if names == "imagenet" else tuple(names), settings.get("small_size"),
                    known.advice if known else Advice(), known.upsampler if known else None)
    if path.suffix == ".py" and path.is_file():
        hint = f"; a classifier of your own is given as {name_or_path}:NAME." if kind == "classifier" else "; give a model's."
        raise UserError(f"{name_or_path} is a Python file, not a {kind}'s{hint}")
    if path.is_file() or is_diffusers_folder(path) or name_or_path.startswith("timm:") or ".py:" in name_or_path:
        return Card()
    folder = ModelFolder.open(name_or_path, kind)
    return Card(space_of(folder), folder.class_names, None, advice_of(folder), null_class=folder.config["null_class"])


def card_of_encoder(name: str) -> Card:
    """UserError where there is no such encoder. A clean one has no space of its own."""
    folder = encoder_folder(name)
    if folder is None:
        return Card(has_text=name.startswith(CLIP))
    tuned = folder.config["kind"] == "encoder"
    return Card(space_of(folder) if tuned else None, has_text=bool(folder.config.get("text")))


def space_of(folder: ModelFolder) -> Space:
    return Space(folder.schedule, folder.image_size, folder.channels)


def not_downloaded(request: Request) -> list[str]:
    """The files of released models that the request needs and the cache lacks."""
    others = [spec.source for spec in map(GuideSpec.parse, request.guide) if spec.kind == "classifier"]
    needed: list[tuple[str | None, Kind]] = [
        (request.model, "denoiser"), (request.weak, "denoiser"), (request.classifier, "classifier"),
        *((other, "classifier") for other in others), (request.upsample, "denoiser")]
    files = [RELEASED[kind][name].file for name, kind in needed if name and name in RELEASED[kind]]
    return [file for file in files if cached(file) is None]
