"""Which defect does which figure see? Real digits, damaged in six ways, measured as samples are.

    python scripts/defects.py --out runs/defects           a minute; with --cas a quarter of an hour

900 of the training images are the samples, all other digits the reference.
"""
from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from guided_sample.metrics.evaluation import Evaluator
from guided_sample.metrics.measures import Measures
from guided_sample.metrics.table import aligned
from noisy_clf.datasets import load_dataset

COUNT = 900


def damaged(images: np.ndarray, y: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(images uint8 [900,H,W,1], labels) by what is wrong with them."""
    random = np.random.default_rng(0)
    wrong = np.where(random.random(len(y)) < 0.2, random.integers(0, 10, len(y)), y)
    noisy = images + 0.3 * 127.5 * random.standard_normal(images.shape)
    few = np.flatnonzero(y < 8)
    return {"real": (images, y),
            "noise, sigma 0.3": (noisy.clip(0, 255).astype(np.uint8), y),
            "blur, sigma 1 pixel": (gaussian_filter(images, (0, 1, 1, 0)), y),
            "two classes dropped": (images[few[np.arange(len(y)) % len(few)]], y[few[np.arange(len(y)) % len(few)]]),
            "ten copies of 90": (images[np.arange(len(y)) % 90], y[np.arange(len(y)) % 90]),
            "20 % of the labels drawn anew": (images, wrong)}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/defects", show_default=True)
@click.option("--cas", is_flag=True, help="Train a classifier on each, too.")
def main(out: Path, cas: bool) -> None:
    data = load_dataset("digits")
    (images, y), (held_out, _) = ((part.whole()[0].permute(0, 2, 3, 1).numpy(), part.labels.numpy())
                                  for part in (data.train, data.validation))
    chosen = np.random.default_rng(1).permutation(len(y))
    samples, rest = chosen[:COUNT], chosen[COUNT:]
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "reference.npz", arr_0=np.concatenate([images[rest], held_out]))
    torch.set_num_threads(1)
    evaluator = Evaluator(Measures(str(out / "reference.npz"), "judge", "digits-judge", cas="digits" if cas else None), "cpu")
    rows = [("samples", "FD over its floor", "KD", "precision", "recall", "agreement", *["CAS"] * cas)]
    for name, (pictures, labels) in damaged(images[samples], y[samples]).items():
        file = out / f"{name.split(',')[0].replace(' ', '-')}.npz"
        np.savez(file, arr_0=pictures, arr_1=labels)
        found = evaluator.evaluate(file)
        metrics = {key.partition("[")[0]: value for key, value in found["metrics"].items()}
        floor = found["floor"]["FD[judge:digits-judge]"]
        rows.append((name, f"{metrics['FD'] / floor:.2f}", *(f"{metrics[key]:.3f}" for key in rows[0][2:])))
    click.echo("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
