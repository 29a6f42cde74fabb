"""Makes the bundled digits models anew: trains them with fixed seeds, and stores their weights in half precision.

    python scripts/make_digits.py                  all
    python scripts/make_digits.py digits-cond      one
    python scripts/make_digits.py judge            who tells what the samples show, and never guides
    python scripts/make_digits.py clip             images and words in one space
    python scripts/make_digits.py encoder          who sees through noise what images have in common
    python scripts/make_digits.py clip-encoder     and what an image has in common with words; after clip

Some 75 minutes on two cores. It can be stopped and goes on. Needs open_clip_torch, and nothing from the network: the images are
scikit-learn's.
"""
from __future__ import annotations

import json
from pathlib import Path

import click
from safetensors import safe_open
from safetensors.torch import load_file, save

from digits_clip import digits_clip
from guided_sample.cli.train_ddpm import train_ddpm
from noisy_clf.checkpoints.model_folder import BUNDLED, CONFIG, WEIGHTS
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.cli.train_encoder import train_noisy_encoder
from noisy_clf.files import atomic_write, read_json, write_json

STEPS = {"ddpm": "50", "ddim": "ddim25"}
ENCODERS = {"encoder": "digits", "text_encoder": "digits-clip"}
ADVICE = {"digits": {"classifier": "digits", "scale": 5.0, "steps": STEPS, **ENCODERS},
          "digits-cond": {"classifier": "digits", "scale": 1.0, "steps": STEPS, **ENCODERS}}
FLAGS = {"digits": [], "digits-cond": ["--class-conditional", "--drop-labels", "0.1"]}
JUDGE = ["--arch", "timm:test_byobnet", "--no-time-input", "--input-size", "32", "--t-sampling", "levels:0,0", "--random-crop",
         "--dropout", "0.1", "--lr", "1e-3", "--warmup", "100", "--iterations", "3000", "--validate-every", "500",
         "--save-every", "500"]
CLEAN = ["--t-sampling", "levels:0,0"]
TUNED_CLIP = ["--logit-scale", "2", "--lr", "2e-3", "--warmup", "200", "--iterations", "2000", "--ema", "0.995"]


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


def trained(command: click.Command, run: Path, *more: str) -> Path:
    """A run on the digits, gone on with if it is there."""
    command.main(["--dataset", "digits", "--seed", "0", "--out", str(run), *more], standalone_mode=False)
    return run


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["classifier", "judge", *FLAGS, "clip", "encoder", "clip-encoder"]))
@click.option("--runs", type=click.Path(path_type=Path), default="runs")
def main(names: tuple[str, ...], runs: Path) -> None:
    wanted = names or ("classifier", "judge", *FLAGS, "clip", "encoder", "clip-encoder")
    if "classifier" in wanted:
        bundle(trained(train_noisy_clf, runs / "digits-classifier") / "best", BUNDLED / "digits" / "classifier")
    if "judge" in wanted:
        run = trained(train_noisy_clf, runs / "digits-judge", *JUDGE)
        bundle(run / "last", BUNDLED / "digits-judge" / "classifier")  # "best" would be so over all noise levels
    for name in FLAGS.keys() & wanted:
        run = trained(train_ddpm, runs / f"{name}-ddpm", *FLAGS[name])
        bundle(run / "best", BUNDLED / name / "denoiser", sampling=ADVICE[name])
    if "clip" in wanted:
        digits_clip.main([str(BUNDLED / "digits" / "clip")], standalone_mode=False)
    if "encoder" in wanted:
        clean = trained(train_noisy_clf, runs / "digits-clean", *CLEAN)
        run = trained(train_noisy_encoder, runs / "digits-encoder", "--encoder", str(clean / "last"))
        bundle(run / "best", BUNDLED / "digits" / "encoder")
    if "clip-encoder" in wanted:
        run = trained(train_noisy_encoder, runs / "digits-clip-encoder", "--encoder", "clip:digits", *TUNED_CLIP)
        bundle(run / "best", BUNDLED / "digits-clip" / "encoder")


if __name__ == "__main__":
    main()
