"""From pictures, words and an encoder's name to guides that compare samples with them."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from guided_sample.composition import LoadedGuide
from guided_sample.denoiser import Denoiser
from guided_sample.encoders import refuse_misfit
from guided_sample.guides import GuideSpec
from guided_sample.guides.similarity import FeaturesOf, like, style_of, worded
from guided_sample.loaders.measurement import picture_in, x_0_from
from guided_sample.model import Look
from guided_sample.pictures import picture_file
from guided_sample.steps import Step
from guided_sample.targets import Targets
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.datasets.image_files import printable
from noisy_clf.datasets.preprocessing import centre_crop
from noisy_clf.errors import UserError
from noisy_clf.loaders.encoder import LoadedEncoder
from noisy_clf.noise import SampleNoise

NOISING: tuple[int, ...] = (6,)  # the stream of each sample's noise for its picture


def comparing(spec: GuideSpec, found: LoadedEncoder, seeing: FeaturesOf, denoiser: Denoiser,
              words: Tensor | None = None) -> tuple[LoadedGuide, list[str]]:
    """(the guide, what to tell of it). UserError for what cannot be compared.

    seeing  the encoder of `found`, which guides share
    words   of a text, their embeddings float32 [N,D], by the text tower that goes with it
    """
    name, see, encoder = spec.settings["encoder"], spec.settings.get("see", "x_t"), found.encoder
    refuse_misfit(denoiser.space, encoder.space, name, see)
    notes = []
    if see == "x_t" and found.clean:
        notes.append(f"Warning: {name} never saw noise, and is shown x_t; give "
                     f"{'--see x0' if spec.flagged else f'{spec.title},see=x0'}.")
    parts = {"encoder": found.digest}
    if words is not None and encoder.text is not None:
        wanted = words
        parts["tower"] = encoder.text["digest"]
    else:
        wanted, told = pictures_in(spec.wanted, denoiser.shape)
        notes += told
        parts |= {f"picture-{i}": file_digest(picture_file(path)) for i, path in enumerate(spec.wanted, 1)}
        refuse_missing_layers(spec, seeing.count)

    def compared(targets: Targets, see: str) -> Callable[[Look], Tensor]:
        own = wanted[targets.in_turn(range(len(wanted)))].to(targets.device)
        if spec.kind == "text":
            return worded(seeing, own, see)
        noise = cache(lambda: SampleNoise(targets.seed, targets.indices, denoiser.shape, targets.device, NOISING))
        return (like if spec.kind == "like" else style_of)(seeing, own, lambda: noise()(), see, spec.settings.get("layers"))

    def density(targets: Targets, steps: Sequence[Step]) -> Callable[[Look], Tensor]:
        return compared(targets, see)

    config = {key: value for key, value in found.config.items() if key != "text"}  # wherever the text tower lies
    return LoadedGuide(spec, density, config=config, encoder=seeing, finished=lambda targets: compared(targets, "through"),
                       parts=parts), notes


def pictures_in(paths: Sequence[str], shape: tuple[int, int, int]) -> tuple[Tensor, list[str]]:
    """(the pictures float32 [N,C,H,W] in [-1,1], what was done to those of another size): cut to size as training's are."""
    C, size, _ = shape
    found, notes = [], []
    for path in paths:
        picture = picture_in(path)
        if picture.size != (size, size):
            part = "" if picture.width == picture.height else "its middle, "
            notes.append(f"{printable(path)} has {picture.width} x {picture.height} pixels: {part}resized to {size} x {size}.")
        found.append(x_0_from(centre_crop(picture, size), C))
    return torch.stack(found), notes


def refuse_missing_layers(spec: GuideSpec, count: int) -> None:
    """UserError where the encoder has not the maps that are compared, of its `count`."""
    layers = spec.settings.get("layers")
    if not count and (layers is not None or spec.kind == "style"):
        raise UserError(f"the encoder {spec.settings['encoder']} sees no maps that {spec.title} could compare; give another "
                        f"--encoder.")
    if layers is not None and max(layers) > count:
        flag = "--like-layers" if spec.flagged else f"{spec.title},layers="
        raise UserError(f"{flag} asks for map {max(layers)} of the encoder {spec.settings['encoder']}, which has {count}; give "
                        f"some of 1 to {count}.")
