"""guided-sweep: an experiment's cells, drawn, evaluated and reported on."""
from __future__ import annotations

from pathlib import Path

import click

from guided_sample.cards import not_downloaded
from guided_sample.cli.sample import asked_share, tell
from guided_sample.experiments import Cell, Experiment, read_experiment, runs_in, table, told
from guided_sample.shares import Share
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.imports import imported_for_good


def list_experiments(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(table())
        ctx.exit()


@click.command(cls=FriendlyCommand)
@click.argument("names", nargs=-1, metavar="EXPERIMENT")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the cells and the report. [default: sweeps/ and the "
              "experiment's name]")
@click.option("--shard", "share", metavar="I/N", callback=asked_share,
              help="Draw share I of N, counted from 1; other processes draw the others, into the same folder. slurm: as the "
                   "tasks of an array. [default: as torchrun or srun started several processes, else all]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time, as guided-sample's.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, in which time and space on this device, and exit.")
@click.option("--report", is_flag=True, help="Report on runs that are there, evaluated: guided-sweep --report FOLDER...; of "
                                             "sweeps, on all their cells.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=list_experiments,
              help="Show the named experiments and the figures they are expected to reach, and exit.")
def guided_sweep(names: tuple[str, ...], out: Path | None, share: Share, device: str, batch_size: int | None, dry_run: bool,
                 report: bool) -> None:
    """Sample, evaluate and compare over scales, samplers, steps, classifiers, seeds, ...

    EXPERIMENT is a name of --list, or a TOML file: a request, keys named as guided-sample's flags are, and below [sweep] lists
    to go through, or tables [[kind]], each with a name, its own settings and lists. Each combination is a cell, a sampling
    run in a folder of its own; samples of one seed and index share their noise. Stop it in any way; the same command, on
    any number of processes, goes on.

    \b
    guided-sweep digits-scale
    guided-sweep mine.toml --dry-run
    guided-sweep --report sweeps/mine samples/one samples/other
    torchrun --nproc-per-node 8 -m guided_sample.cli guided-sweep adm-256-uncond-guided
    """
    if report:
        report_on([Path(name) for name in names], out)
        return
    if len(names) != 1:
        raise click.UsageError("give one experiment, by its name or its file; --list shows the names.")
    experiment = read_experiment(names[0])
    try:
        cells, left_out = experiment.cells()
    except UserError as error:
        raise UserError(f"{names[0]}: {error}") from error
    out = out or Path("sweeps") / experiment.name
    if share.talks:
        tell((introduction(experiment), *left_out))
    lacking = list(dict.fromkeys(file for cell in cells for file in not_downloaded(cell.request)))
    if dry_run:
        for cell in cells:
            click.echo(f"{cell.name}: " + ", ".join([told(cell.settings)] * bool(cell.settings) + [
                f"{cell.request.num_samples} samples"] * (cell.request.num_samples is not None)))
    if dry_run and lacking:
        click.echo(f"{', '.join(lacking)} would be downloaded first; then --dry-run can tell the time.")
        return
    start(experiment, cells, out, share, device, batch_size, dry_run)


def introduction(experiment: Experiment) -> str:
    expected = [f"Expected: {told(row)}." for row in experiment.expected]
    return " ".join([experiment.title.rstrip(".") + ".", *[experiment.about] * bool(experiment.about), *expected])


def start(experiment: Experiment, cells: list[Cell], out: Path, share: Share, device: str, batch_size: int | None,
          dry_run: bool) -> None:
    with imported_for_good():  # torch: from here on something is loaded
        from guided_sample.sweep import Sweep

    sweep = Sweep(experiment, cells, out, lambda text: click.echo(text, err=True), device, batch_size, share)
    if dry_run:
        click.echo(sweep.outlook())
    elif (page := sweep.run()) is not None:
        click.echo(f"{len(cells)} cell{'s' * (len(cells) > 1)} in {out}: look at {page}")


def report_on(folders: list[Path], out: Path | None) -> None:
    """Of sampling runs, and of all cells of sweeps, that are evaluated."""
    if not folders:
        raise click.UsageError("give the folders of runs or sweeps: guided-sweep --report FOLDER...")
    runs, experiment = runs_in(folders)
    from guided_sample.report import write_report

    page = write_report(runs, out or (folders[0] if "name" in (experiment or {}) else Path()), experiment)
    click.echo(f"{len(runs)} runs: look at {page}")


if __name__ == "__main__":
    guided_sweep()
