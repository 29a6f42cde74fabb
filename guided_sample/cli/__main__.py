"""python -m guided_sample.cli COMMAND: for torchrun."""
from __future__ import annotations

import click

from guided_sample.cli.eval_ddpm import eval_ddpm
from guided_sample.cli.eval_samples import eval_samples
from guided_sample.cli.make_reference import make_reference
from guided_sample.cli.sample import guided_sample
from guided_sample.cli.sweep import guided_sweep
from guided_sample.cli.train_ddpm import train_ddpm


@click.group()
def commands() -> None:
    """Sample from a diffusion model, or train one: torchrun --nproc-per-node 8 -m guided_sample.cli COMMAND uses 8 GPUs."""


for command in (guided_sample, train_ddpm, eval_samples, make_reference, guided_sweep, eval_ddpm):
    commands.add_command(command)

if __name__ == "__main__":
    commands(prog_name="python -m guided_sample.cli")
