"""python -m guided_sample.cli COMMAND: for torchrun."""
from __future__ import annotations

import click

from guided_sample.cli.sample import guided_sample
from guided_sample.cli.train_ddpm import train_ddpm


@click.group()
def commands() -> None:
    """Sample from a diffusion model, or train one: torchrun --nproc-per-node 8 -m guided_sample.cli COMMAND uses 8 GPUs."""


commands.add_command(guided_sample)
commands.add_command(train_ddpm)

if __name__ == "__main__":
    commands(prog_name="python -m guided_sample.cli")
