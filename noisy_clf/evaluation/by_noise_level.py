"""How good is a classifier on noised images? Accuracy, NLL, calibration and gradient by noise level, on fixed noise."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches
from noisy_clf.noise import fixed_noise
from noisy_clf.processes import Processes
from noisy_clf.datasets.read_ahead import read_ahead

LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9)
BINS = 15  # of confidence
THREADS = 4  # that read images and draw noise ahead
RIGHT, TOP5, NLL, CONFIDENCE, GRADIENT = range(5)  # the columns of what is kept of an image at a noise level


@dataclass(frozen=True)
class Quality:
    """A classifier's quality at timestep t, over all images.

    accuracy       0..1
    nll            -log p(y | x_t) of the true class y, nats
    ece            expected calibration error, 0..1
    top5           how often y is among the five most probable classes; None where there are no more than five
    gradient_norm  L2 norm of d log p(y | x_t) / d x_t: what guidance adds a unit of scale; None where it was not asked for
    nll_error      standard error of nll
    """

    t: int
    accuracy: float
    nll: float
    ece: float
    top5: float | None = None
    gradient_norm: float | None = None
    nll_error: float = 0.0


def timestep_at(level: float, T: int) -> int:
    """The timestep at level = t/T, in 0..T-1."""
    return min(int(level * T + 1e-6), T - 1)  # 0.29 * 100 is 28.999999999999996


@torch.no_grad()
def evaluate(classifier: NoisyClassifier, data: LabelledImages, levels: Sequence[float] = LEVELS,
             batch_size: int | None = None, seed: int = 0, progress: str | None = None, processes: Processes = Processes(),
             gradients: bool = False, chosen: Tensor | None = None) -> list[Quality]:
    """The classifier's quality at each noise level t/T, the same noise for every classifier.

    batch_size  None: 256, but above 32 pixels a side as many as have the pixels of these
    progress    what to call a bar; None: none is drawn
    chosen      the images to use, by their indices [N]; None: all

    Several processes do a share each, of whole batches, so that their number changes nothing: all get the same result.
    """
    device = next(classifier.parameters()).device
    chosen = torch.arange(len(data)) if chosen is None else chosen
    batch_size = batch_size or max(1, min(256, 256 * 32 ** 2 // data.images.shape[-1] ** 2))
    asked = [timestep_at(level, classifier.schedule.T) for level in levels]
    timesteps = list(dict.fromkeys(asked))  # levels may share one
    share = processes.share(len(chosen), batch_size)
    batches = list(in_batches(len(chosen), batch_size, share))

    def read(step: int) -> tuple[Tensor, Tensor, Tensor]:
        indices = chosen[batches[step]]
        return *data.batch(indices), fixed_noise(indices, data.images.shape, seed)

    kept = torch.empty(len(share), len(timesteps), 5, device=device)
    with tqdm(total=kept[..., 0].numel(), unit="image", dynamic_ncols=True, leave=progress != "validating",
              desc=progress, disable=progress is None or not processes.first) as bar:
        for places, batch in zip(batches, read_ahead(read, range(len(batches)), THREADS)):
            images, y, eps = (tensor.to(device) for tensor in batch)
            x_0 = to_x_0(images)
            for column, timestep in enumerate(timesteps):
                t = torch.full_like(y, timestep)
                x_t = classifier.schedule.add_noise(x_0, t, eps)
                kept[places - share.start, column] = measured(classifier, x_t, t, y, gradients)
                bar.update(len(y))
    whole = processes.gather(kept.cpu(), len(chosen), batch_size)
    top5 = len(classifier.class_names) > 5
    found = {t: quality(t, whole[:, column], top5, gradients) for column, t in enumerate(timesteps)}
    return [found[t] for t in asked]


def measured(classifier: NoisyClassifier, x_t: Tensor, t: Tensor, y: Tensor, gradients: bool) -> Tensor:
    """float32 [B,5], a column each for RIGHT, TOP5, NLL, CONFIDENCE and GRADIENT (0 where it is not asked for)."""
    with torch.set_grad_enabled(gradients):
        x_t.requires_grad_(gradients)
        log_probs = classifier(x_t, t).log_softmax(dim=1)
        nll = -log_probs.gather(1, y[:, None])[:, 0]
        total = nll.sum()  # so that each image's gradient is its own
    norm = torch.autograd.grad(total, x_t)[0].flatten(1).norm(dim=1) if gradients else torch.zeros_like(nll)
    best = log_probs.detach().sort(dim=1, descending=True, stable=True)
    hits = best.indices[:, :5] == y[:, None]
    return torch.stack([hits[:, 0], hits.any(dim=1), nll.detach(), best.values[:, 0].exp(), norm], dim=1)


def quality(t: int, numbers: Tensor, top5: bool, gradients: bool) -> Quality:
    """From what was measured of each image, float32 [N,5]."""
    numbers = numbers.double()
    mean = numbers.mean(dim=0).tolist()
    error = numbers[:, NLL].std(correction=0).item() / len(numbers) ** 0.5
    return Quality(t, mean[RIGHT], mean[NLL], calibration_error(numbers[:, CONFIDENCE], numbers[:, RIGHT]),
                   mean[TOP5] if top5 else None, mean[GRADIENT] if gradients else None, error)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Mean |accuracy - confidence| over 15 equal bins of confidence, weighted by their counts. (Guo et al. 2017 eq. 3)"""
    bin_of = (confidence * BINS).long().clamp(0, BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bin_of, (right - confidence).double())
    return gap.abs().sum().item() / len(right)
