"""How good is a classifier on noised images? Accuracy, NLL and calibration by noise level, on fixed noise."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.datasets.order import in_batches
from noisy_clf.files import atomic_write

LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Quality:
    """A classifier's quality at timestep t: accuracy 0..1, nll in nats, expected calibration error 0..1."""

    t: int
    accuracy: float
    nll: float
    ece: float


def fixed_noise(indices: Tensor, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Validation's eps, float32 [B,*shape]: that of image i comes from (seed, i) alone."""
    draws = [np.random.default_rng([seed, int(i)]).standard_normal(tuple(shape), dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(draws))


def timestep_at(level: float, T: int) -> int:
    """The timestep at level = t/T, in 0..T-1."""
    return min(int(level * T + 1e-6), T - 1)  # 0.29 * 100 is 28.999999999999996


@torch.no_grad()
def evaluate(classifier: NoisyClassifier, data: LabelledImages, levels: Sequence[float] = LEVELS,
             batch_size: int = 256, seed: int = 0, progress: bool = False) -> list[Quality]:
    """The classifier's quality on all of `data` at each noise level t/T, the same noise for every classifier."""
    device = next(classifier.parameters()).device
    asked = [timestep_at(level, classifier.schedule.T) for level in levels]
    timesteps = list(dict.fromkeys(asked))  # levels may share one
    log_probs: dict[int, list[Tensor]] = {t: [] for t in timesteps}
    labels = []
    with tqdm(total=len(data) * len(timesteps), unit="image", disable=not progress, desc="evaluating") as bar:
        for indices in in_batches(len(data), batch_size):
            images, y = data.batch(indices)
            x_0 = to_x_0(images.to(device))
            eps = fixed_noise(indices, x_0.shape[1:], seed).to(device)
            labels.append(y)
            for t in timesteps:
                t_batch = torch.full((len(y),), t, device=device)
                x_t = classifier.schedule.add_noise(x_0, t_batch, eps)
                log_probs[t].append(classifier(x_t, t_batch).log_softmax(dim=1).cpu())
                bar.update(len(y))
    y = torch.cat(labels)
    return [quality(t, torch.cat(log_probs[t]), y) for t in asked]


def quality(t: int, log_probs: Tensor, y: Tensor) -> Quality:
    """From log p(. | x_t) [N,K] and labels [N]."""
    confidence, guess = log_probs.exp().max(dim=1)
    right = (guess == y).float()
    nll = -log_probs.gather(1, y[:, None]).mean()
    return Quality(t, right.mean().item(), nll.item(), calibration_error(confidence, right))


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal bins of confidence, weighted by their counts. (Guo et al. 2017 eq. 3)"""
    bin_of = (confidence * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, (right - confidence).double())
    return gap.abs().sum().item() / len(right)


def table(rows: Sequence[Quality], T: int) -> str:
    lines = ["  t/T     t  accuracy  NLL (nats)    ECE"]
    lines += [f"{row.t / T:5.2f} {row.t:5d}   {row.accuracy:7.1%}  {row.nll:10.4f}  {row.ece:5.3f}" for row in rows]
    return "\n".join(lines)


def as_json(rows: Sequence[Quality]) -> list[dict[str, float]]:
    return [asdict(row) for row in rows]


def draw(rows: Sequence[Quality], T: int, K: int, path: Path) -> None:
    """Accuracy, NLL and calibration error against t/T, as a PNG; dotted: what guessing would get."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    panels = (("accuracy", "accuracy", 1 / K), ("nll", "NLL (nats)", float(np.log(K))), ("ece", "calibration error", None))
    for axes, (name, label, chance) in zip(figure.subplots(1, 3), panels):
        axes.plot([row.t / T for row in rows], [getattr(row, name) for row in rows], "o-", markersize=3)
        if chance is not None:
            axes.axhline(chance, color="grey", linestyle=":")
        axes.set(xlabel="noise level t/T", ylabel=label, xlim=(0, 1), ylim=(0, None))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
