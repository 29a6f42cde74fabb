"""How much of an image does an encoder still see in noise? Whether the noised image finds its clean one among N."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches
from noisy_clf.datasets.read_ahead import read_ahead
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.evaluation.by_noise_level import LEVELS, THREADS, timestep_at
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes

TOP1, TOP5, OWN, OTHERS = range(4)  # the columns of what is kept of an image at a noise level


@dataclass(frozen=True)
class Retrieval:
    """How well noised images of timestep t find their clean ones among N, over all images.

    top1    how often the own clean one is the most similar, 0..1
    top5    how often it is among the five most similar; None where there are no more than five
    own     mean cosine of a noised image's embedding and its own clean one's
    others  and the other clean ones'
    """

    t: int
    top1: float
    own: float
    others: float
    top5: float | None = None


@torch.no_grad()
def retrieve(encoder: NoisyEncoder, data: LabelledImages, levels: Sequence[float] = LEVELS, batch_size: int | None = None,
             seed: int = 0, progress: str | None = None, processes: Processes = Processes(),
             chosen: Tensor | None = None) -> list[Retrieval]:
    """At each noise level t/T, the same noise for every encoder; clean images are seen by the same one, told t = 0.

    The options are those of `by_noise_level.evaluate`; `chosen` are the N images.
    """
    device = next(encoder.parameters()).device
    chosen = torch.arange(len(data)) if chosen is None else chosen
    N, batch_size = len(chosen), batch_size or max(1, min(256, 256 * 32 ** 2 // data.images.shape[-1] ** 2))
    asked = [timestep_at(level, encoder.schedule.T) for level in levels]
    timesteps = list(dict.fromkeys(asked))  # levels may share one
    share = processes.share(N, batch_size)
    batches = list(in_batches(N, batch_size, share))

    def read(step: int) -> tuple[Tensor, Tensor]:
        indices = chosen[batches[step]]
        return data.batch(indices)[0], fixed_noise(indices, data.images.shape, seed)

    def told(x_t: Tensor, timestep: int) -> Tensor:
        return encoder(x_t, torch.full((len(x_t),), timestep, device=device))

    with tqdm(total=len(share) * (1 + len(timesteps)), unit="image", dynamic_ncols=True, desc=progress,
              disable=progress is None or not processes.first) as bar:
        seen = []
        for images, _ in read_ahead(read, range(len(batches)), THREADS):
            seen.append(told(to_x_0(images.to(device)), 0))
            bar.update(len(images))
        if not seen:  # of more processes than batches
            seen.append(told(to_x_0(data.batch(chosen[:1])[0].to(device)), 0)[:0])
        clean = processes.gather(torch.cat(seen).cpu(), N, batch_size).to(device)
        kept = torch.empty(len(share), len(timesteps), 4, device=device)
        for places, batch in zip(batches, read_ahead(read, range(len(batches)), THREADS)):
            images, eps = (tensor.to(device) for tensor in batch)
            x_0 = to_x_0(images)
            for column, timestep in enumerate(timesteps):
                t = torch.full((len(x_0),), timestep, device=device)
                similar = cosines(told(encoder.schedule.add_noise(x_0, t, eps), timestep), clean)
                kept[places - share.start, column] = measured(similar, places.to(device))
                bar.update(len(x_0))
    mean = processes.gather(kept.cpu(), N, batch_size).double().mean(dim=0).tolist()
    found = {t: Retrieval(t, row[TOP1], row[OWN], row[OTHERS], row[TOP5] if N > 5 else None) for t, row in zip(timesteps, mean)}
    return [found[t] for t in asked]


def measured(similar: Tensor, own: Tensor) -> Tensor:
    """float32 [B,4], a column each for TOP1, TOP5, OWN and OTHERS, of cosines [B,N] of which `own` [B] is the image's own."""
    mine = similar.gather(1, own[:, None])[:, 0]
    others = (similar.sum(dim=1) - mine) / max(similar.shape[1] - 1, 1)
    return torch.stack([found_among(similar, own, 1), found_among(similar, own, 5), mine, others], dim=1)


def cosines(seen: Tensor, clean: Tensor) -> Tensor:
    """Of embeddings [B,D] and [N,D], of any length, float32 [B,N]."""
    with torch.autocast(seen.device.type, enabled=False):  # half of a percent is what images differ by
        return F.normalize(seen.float(), dim=1) @ F.normalize(clean.float(), dim=1).T


def found_among(similar: Tensor, own: Tensor, first: int = 1) -> Tensor:
    """Whether each image's own clean one is among the `first` most similar, float32 [B]; where others are just as similar, how
    probable it is when these are put in any order. One that is no number finds nothing.

    similar  to each of N clean images [B,N]
    own      which of these is its own, int64 [B]
    """
    mine = similar.gather(1, own[:, None])
    before, equal = (similar > mine).sum(dim=1), (similar == mine).sum(dim=1)  # its own is one of the equal ones
    return torch.nan_to_num((first - before) / equal, posinf=0.0).clamp(0, 1)
