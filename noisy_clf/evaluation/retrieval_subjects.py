"""One or two encoders on the same images and the same noise: from their names to what is told of them."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisy_clf.checkpoints.by_name import encoder_folder, learned_from
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import Dataset
from noisy_clf.datasets.order import permutation
from noisy_clf.errors import UserError, enough_memory
from noisy_clf.evaluation.retrieval import retrieve
from noisy_clf.evaluation.retrieval_picture import draw
from noisy_clf.evaluation.retrieval_report import Found, as_json, comparison, table, verdict
from noisy_clf.files import versions, write_json
from noisy_clf.loaders.encoder import LoadedEncoder, load_encoder
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space

IMAGES = 1000


@dataclass(frozen=True)
class Subjects:
    """names   as they were given
    called  how the report calls them
    models  the encoders of those names, on the CPU
    data    a dataset of their size and channels
    """

    names: list[str]
    called: list[str]
    models: list[LoadedEncoder]
    data: Dataset


def load(names: list[str], called: list[str], dataset: str | None, data_folder: Path | None, schedule: NoiseSchedule | None,
         image_size: int) -> Subjects:
    """The encoders and their data. Those of timm's and CLIP's come last: they take schedule and size from the others.

    schedule, image_size  for encoders of timm's and CLIP's, where all are
    """
    folders = {name: folder for name in names if (folder := encoder_folder(name))}
    loaded = {name: load_encoder(name) for name in folders}
    own = {name: whole.encoder.space for name, whole in loaded.items()}
    if len({(space.image_size, space.channels) for space in own.values()}) > 1:
        raise UserError(f"two encoders are compared on the same images; {', '.join(map(sees, own, own.values()))}.")
    one = next(iter(own.values()), None)
    known = next(filter(None, map(learned_from, folders.values())), None)
    data = load_data(dataset, known, one.image_size if one else image_size, data_folder,
                     grey=one is not None and one.channels == 1)
    if one and (one.image_size, one.channels) != (data.image_size, data.channels):
        raise UserError(f"{sees(names[0] if names[0] in own else names[1], one)}, and {data.name} has {data.image_size} and "
                        f"{data.channels}; give the --dataset that it learned from.")
    noise = one.schedule if one else schedule
    space = Space(noise, data.image_size, data.channels) if noise else None
    return Subjects(names, called, [loaded[name] if name in loaded else load_encoder(name, space) for name in names], data)


def sees(name: str, space: Space) -> str:
    return f"{name} sees {space.image_size} pixels a side in {space.channels} channels"


def load_data(dataset: str | None, known: str | None, size: int, folder: Path | None, grey: bool) -> Dataset:
    """The dataset asked for, else the one that the first of the encoders learned from, if known, else the digits."""
    name = dataset or known or "digits"
    try:
        data = load_dataset(name, size, folder, grey=grey, classes=False)
    except UserError as error:
        if dataset or not known:
            raise
        raise UserError(f"the encoder learned from {name!r}, which cannot be read: {str(error).rstrip('.')}; or give another "
                        f"--dataset.") from error
    if len(data.validation) < 2:
        raise UserError(f"{name} has {len(data.validation)} validation images; an evaluation needs two to tell apart.")
    return data


def examined(subjects: Subjects, images: int | None, device: torch.device, precision: str, **how: Any) -> list[Found]:
    """What is found of each among so many of the images (None: 1000, or all), drawn once and for all.

    how  of `retrieve`: levels, batch_size, seed, processes
    """
    chosen = torch.from_numpy(permutation(len(subjects.data.validation), 0, 0)[:images or IMAGES].copy()).sort().values
    found = []
    for name, loaded in zip(subjects.called, subjects.models):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), enough_memory(
                lambda: "a batch does not fit into the memory; give a smaller --batch-size: the result stays the same."):
            encoder = loaded.encoder.to(device)
            rows = retrieve(encoder, subjects.data.validation, chosen=chosen, progress=name, **how)
        bad = [row.t for row in rows if row.own + row.others != row.own + row.others]  # not a number
        if bad:
            raise UserError(f"{name}'s embedding is not a finite number at t = {bad[0]}; its weights are damaged, or its "
                            f"training diverged.")
        found.append(Found(name, encoder.schedule, tuple(rows), len(chosen)))
    return found


def write(out: Path, subjects: Subjects, found: list[Found], asked: dict[str, Any]) -> None:
    """evaluation.json, with what was asked for, and evaluation.png."""
    data = subjects.data
    write_json(out / "evaluation.json", {
        "dataset": data.name, "source": data.source, "images": found[0].images, "of_images": len(data.validation), **asked,
        "chance": found[0].chance, "versions": versions(), "encoders": [
            {"encoder": name, "digest": loaded.digest, **as_json(one)}
            for name, loaded, one in zip(subjects.names, subjects.models, found)]})
    draw(found, out / "evaluation.png")


def in_words(subjects: Subjects, found: list[Found]) -> str:
    """The table, a verdict on each, and which of two finds more."""
    told = [table(found)]
    for one in found:
        told += [f"\n{one.name}, among {one.images} validation images of {subjects.data.name}:", *verdict(one)]
    if len(found) == 2:
        told.append(f"\n{comparison(*found)}")
    return "\n".join(told)
