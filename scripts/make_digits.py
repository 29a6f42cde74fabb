"""Makes the bundled digits models anew: trains them with fixed seeds, and stores their weights in half precision.

    python scripts/make_digits.py                  all
    python scripts/make_digits.py digits-cond      one
    python scripts/make_digits.py judge            who tells what the samples show, and never guides

Some 55 minutes on two cores. It can be stopped and goes on. Needs nothing from the network: the images are scikit-learn's.
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

STEPS = {"ddpm": "50", "ddim": "ddim25"}
ADVICE = {"digits": {"classifier": "digits", "scale": 5.0, "steps": STEPS},
          "digits-cond": {"classifier": "digits", "scale": 1.0, "steps": STEPS}}
FLAGS = {"digits": [], "digits-cond": ["--class-conditional", "--drop-labels", "0.1"]}
JUDGE = ["--arch", "timm:test_byobnet", "--no-time-input", "--input-size", "32", "--t-sampling", "levels:0,0", "--random-crop",
         "--dropout", "0.1", "--lr", "1e-3", "--warmup", "100", "--iterations", "3000", "--validate-every", "500",
         "--save-every", "500"]


def bundle(model: Path, folder: Path, **more: object) -> None:
    """Copies a trained model into the package: half-precision weights, and how it was made in its configuration."""
    with safe_open(model / WEIGHTS, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    config = read_json(model / CONFIG) | {"made_by": "scripts/make_digits.py", "weights": "stored as float16", **more}
    config["training"][model.name] = about
    write_json(folder / CONFIG, config)
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: tensor.half() for name, tensor in load_file(model / WEIGHTS).items()}))
    click.echo(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.2f} MB, {json.dumps(config['training'])}")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["classifier", "judge", *FLAGS]))
@click.option("--runs", type=click.Path(path_type=Path), default="runs")
def main(names: tuple[str, ...], runs: Path) -> None:
    wanted = names or ("classifier", "judge", *FLAGS)
    if "classifier" in wanted:
        run = runs / "digits-classifier"
        train_noisy_clf.main(["--dataset", "digits", "--seed", "0", "--out", str(run)], standalone_mode=False)
        bundle(run / "best", BUNDLED / "digits" / "classifier")
    if "judge" in wanted:
        run = runs / "digits-judge"
        train_noisy_clf.main(["--dataset", "digits", "--seed", "0", "--out", str(run), *JUDGE], standalone_mode=False)
        bundle(run / "last", BUNDLED / "digits-judge" / "classifier")  # "best" is so over all noise levels
    for name in FLAGS.keys() & wanted:
        run = runs / f"{name}-ddpm"
        train_ddpm.main(["--dataset", "digits", "--seed", "0", "--out", str(run), *FLAGS[name]], standalone_mode=False)
        bundle(run / "best", BUNDLED / name / "denoiser", sampling=ADVICE[name])


if __name__ == "__main__":
    main()
