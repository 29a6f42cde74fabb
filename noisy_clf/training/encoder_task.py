"""What a noisy encoder learns: to see in x_t what its frozen copy sees in x_0. (SDG, arXiv 2112.05744, sec. 3.3)"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.datasets.images import Dataset, to_x_0
from noisy_clf.datasets.order import in_batches, permutation
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.evaluation.by_noise_level import LEVELS, timestep_at
from noisy_clf.evaluation.retrieval import cosines, found_among
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.training.draws import Draws
from noisy_clf.training.task import Task

MOST_VALIDATED = 1024  # images, of each level


class Embedding(nn.Module):
    """(x_t, t) -> a network's embedding: that is what is compiled. Its tensors have the network's own names."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.network.features(x_t, t).embedding

    def state_dict(self, *arguments: Any, **more: Any) -> Any:
        return self.network.state_dict(*arguments, **more)

    def load_state_dict(self, *arguments: Any, **more: Any) -> Any:
        return self.network.load_state_dict(*arguments, **more)


def contrastive(noised: Tensor, clean: Tensor, group: int, logit_scale: float = 100.0) -> Tensor:
    """Symmetric InfoNCE, nats [B]: of `group` images each, which is the clean one of x_t's embedding, and which the noised one
    of x_0's? The mean of both questions' cross-entropies.

    noised, clean  embeddings [B,D] of any length, B a multiple of `group`
    logit_scale    of cosines; 100 is CLIP's at the end of its training. Where images of a kind are as good as alike to the
                   clean encoder, a learning one that is unsure under noise can say so at 100 only by seeing all images alike
    """
    with torch.autocast(noised.device.type, enabled=False):  # 100 * cosine in half precision is off by 0.4
        ours, theirs = (F.normalize(rows.float(), dim=1).unflatten(0, (-1, group)) for rows in (noised, clean))
        logits = logit_scale * ours @ theirs.transpose(1, 2)
        nats = (logits.logsumexp(dim=2) + logits.logsumexp(dim=1)) / 2 - logits.diagonal(dim1=1, dim2=2)
    return nats.flatten()


def encoder_task(encoder: NoisyEncoder, clean: NoisyEncoder, data: Dataset, group: int, logit_scale: float = 100.0,
                 **more: Any) -> Task:
    """The contrastive loss of the learning encoder's view of x_t and the frozen one's of x_0, told t = 0; no labels.

    clean  frozen, on the device where the learning one will be
    group  so many images of a batch, neighbours in it, are told from each other
    more   fields of the Task

    Validated by the same loss, and by how often the image of x_t is found first, over fixed groups, noise and noise levels.
    """
    schedule = encoder.schedule

    @torch.no_grad()
    def target(x_0: Tensor) -> Tensor:
        return clean(x_0, torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device))

    def loss(network: nn.Module, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        return contrastive(network(schedule.add_noise(x_0, t, draws.noise_like(x_0)), t), target(x_0), group, logit_scale)

    @torch.no_grad()
    def validate(network: Any, processes: Processes) -> dict[str, float]:
        images, size = validation_images(len(data.validation), group)
        share = processes.share(len(images), size)
        device = next(network.parameters()).device
        kept = torch.empty(len(share), len(LEVELS), 2, device=device)  # loss, found
        for places in in_batches(len(images), size, share):
            x_0 = to_x_0(data.validation.batch(images[places])[0].to(device))
            eps = fixed_noise(images[places], x_0.shape[1:]).to(device)
            goal = target(x_0)
            for column, level in enumerate(LEVELS):
                t = torch.full((len(x_0),), timestep_at(level, schedule.T), device=device)
                seen = network(schedule.add_noise(x_0, t, eps), t)
                found = found_among(cosines(seen, goal), torch.arange(len(x_0), device=device))
                kept[places - share.start, column] = torch.stack([contrastive(seen, goal, size, logit_scale), found], dim=1)
        mean = processes.gather(kept.cpu(), len(images), size).double().mean(dim=0)
        return {"loss": mean[:, 0].mean().item(),
                **{f"retrieval_at_{level}": found for level, found in zip(LEVELS, mean[:, 1].tolist())}}

    return Task(Embedding(encoder.network), schedule.T, loss, validate, encoder.config(), multiple=group, **more)


def validation_images(count: int, group: int) -> tuple[Tensor, int]:
    """(the images to validate by, the size of their groups): whole groups of a part drawn once and for all, since neighbours
    in a dataset are often of a kind; where there are fewer than a group, one of all."""
    size = min(group, count)
    return torch.from_numpy(permutation(count, 0, 0)[:max(min(count, MOST_VALIDATED) // size, 1) * size].copy()), size
