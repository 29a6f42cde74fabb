"""What the guidance scale buys, and costs: agreement with the asked class, and diversity within it, over scales.

    python scripts/scale_tradeoff.py --out runs/tradeoff

For each sampler and scale, 10 classes x 50 samples of the bundled digits model. Agreement: how often an independent judge,
scikit-learn's SVC trained on the clean training images and never used for guidance, sees the asked class. Then, among the
samples that the judge sees as one class (so that the unguided ones can be compared): diversity, the mean distance between two
of them over that between two real images of the class; and recall, the share of the class's real images with a sample no
farther than their own third-nearest real neighbour. (Kynkaanniemi et al. 2019, in pixels)
"""
from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.svm import SVC

from guided_sample.plan import Plan
from guided_sample.request import Request
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import to_x_0
from noisy_clf.files import atomic_write, write_json

SCALES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
SAMPLERS = {"ddpm": "50", "ddim": "ddim25"}  # and their steps


def drawn(classifier: str, sampler: str, scale: float, count: int) -> np.ndarray:
    """So many samples, the classes in turn, float [N,D]."""
    request = Request(model="digits", classifier=classifier, scale=scale, sampler=sampler, steps=SAMPLERS[sampler])
    return Plan.of(request, "cpu").draw(range(count)).x_0.flatten(1).numpy()


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def mean_pair_distance(x: np.ndarray) -> float:
    return float(distances(x, x)[np.triu_indices(len(x), 1)].mean()) if len(x) > 1 else np.nan  # a bad guide's class


def recall(real: np.ndarray, fake: np.ndarray, neighbour: int = 3) -> float:
    radius = np.sort(distances(real, real), axis=1)[:, neighbour]
    return float((distances(real, fake).min(axis=1, initial=np.inf) <= radius).mean())


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/tradeoff", show_default=True)
@click.option("--classifier", default="digits", show_default=True, help="The one that guides: a name or a path.")
@click.option("--per-class", type=int, default=50, show_default=True)
def main(out: Path, classifier: str, per_class: int) -> None:
    data = load_dataset("digits")
    real, labels = to_x_0(data.train.whole()[0]).flatten(1).numpy(), data.train.labels.numpy()
    judge = SVC().fit(real, labels)
    held_out = to_x_0(data.validation.whole()[0]).flatten(1).numpy()
    click.echo(f"the judge is right on {judge.score(held_out, data.validation.labels.numpy()):.1%} of the held-out images")
    y = torch.arange(10).repeat(per_class)
    real_distance = np.mean([mean_pair_distance(real[labels == k]) for k in range(10)])
    rows = []
    for sampler in SAMPLERS:
        for scale in SCALES:
            x = drawn(classifier, sampler, scale, len(y))
            seen = judge.predict(x)
            row = {"sampler": sampler, "steps": SAMPLERS[sampler], "scale": scale,
                   "agreement": float((seen == y.numpy()).mean()),
                   "diversity": float(np.nanmean([mean_pair_distance(x[seen == k]) for k in range(10)]) / real_distance),
                   "recall": float(np.mean([recall(real[labels == k], x[seen == k]) for k in range(10)]))}
            if not scale:  # no class is asked for: what is seen?
                row |= {"shares": (np.bincount(seen, minlength=10) / len(seen)).tolist()}
            rows.append(row)
            click.echo("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                                 for name, value in row.items()))
    write_json(out / "tradeoff.json", {"classifier": classifier, "per_class": per_class, "rows": rows})
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("agreement", "diversity", "recall")):
        for sampler in SAMPLERS:
            mine = [row for row in rows if row["sampler"] == sampler]
            axes.plot([row["scale"] for row in mine], [row[name] for row in mine], "o-", markersize=3,
                      label=f"{sampler}, {SAMPLERS[sampler].removeprefix('ddim')} steps")
        axes.set(xlabel="guidance scale", title=name, ylim=(0, 1.1))
        axes.set_xscale("symlog", linthresh=0.5)
        axes.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    axes.legend()
    with atomic_write(out / "tradeoff.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    main()
