"""Makes the bundled digits models anew: trains both with fixed seeds, and stores their weights in half precision.

    python scripts/make_digits.py

Some 25 minutes on two cores. It can be stopped and goes on. Needs nothing from the network: the images are scikit-learn's.
"""
from __future__ import annotations

import json
from pathlib import Path

import click
from safetensors import safe_open
from safetensors.torch import load_file, save

from guided_sample.cli.train_ddpm import train_ddpm
from noisy_clf.checkpoints.model_folder import BUNDLED, CONFIG, WEIGHTS
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.files import atomic_write, read_json, write_json

ADVICE = {"classifier": "digits", "scale": 5.0, "steps": {"ddpm": "50", "ddim": "ddim25"}}


def bundle(model: Path, folder: Path, **more: object) -> None:
    """Copies a trained model into the package: half-precision weights, and how it was made in its configuration."""
    with safe_open(model / WEIGHTS, framework="pt") as file:
        best = json.loads(file.metadata()["about"])
    config = read_json(model / CONFIG) | {"made_by": "scripts/make_digits.py", "weights": "stored as float16", **more}
    config["training"]["best"] = best
    write_json(folder / CONFIG, config)
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: tensor.half() for name, tensor in load_file(model / WEIGHTS).items()}))
    click.echo(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.2f} MB, {json.dumps(config['training'])}")


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="runs")
def main(runs: Path) -> None:
    classifier, denoiser = runs / "digits-classifier", runs / "digits-ddpm"
    train_noisy_clf.main(["--dataset", "digits", "--seed", "0", "--out", str(classifier)], standalone_mode=False)
    train_ddpm.main(["--dataset", "digits", "--seed", "0", "--out", str(denoiser)], standalone_mode=False)
    bundle(classifier / "best", BUNDLED / "digits" / "classifier")
    bundle(denoiser / "best", BUNDLED / "digits" / "denoiser", sampling=ADVICE)


if __name__ == "__main__":
    main()
