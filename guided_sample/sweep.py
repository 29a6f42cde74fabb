"""A sweep: an experiment's cells drawn into a folder each, evaluated, and reported on together; by one process or several.

No process talks to another: the folders tell what is missing. A process draws its share of every cell, then evaluates those
cells that are complete and that no other one evaluates; the one that finds all evaluated writes the report.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from guided_sample.at_work import briefly_alone, held
from guided_sample.experiments import EVALUATION, RECORD, STRENGTHS, Cell, Experiment, called, is_folder_name, measures_of
from guided_sample.folder import NPZ
from guided_sample.halving import at_once
from guided_sample.loading import Shelf
from guided_sample.manifest import MANIFEST
from guided_sample.metrics.measures import measures_told
from guided_sample.metrics.npz import sha256_of
from guided_sample.plan import Plan
from guided_sample.rehearsal import AROUND, GRID, step_seconds
from guided_sample.request import Request
from guided_sample.run import run, try_out, usual_batch
from guided_sample.shares import Share
from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.execution import device_name, pick_device
from noisy_clf.files import differences, read_json, versions, write_json

FREE = ("class", "sampler", "steps", "eta", "seed", "num_samples")  # of a request: on which a step's cost does not depend


@dataclass
class Sweep:
    """tell    of what goes on
    failed  why, by the names of cells
    wanted  how many samples, of the cells that can be drawn
    tried   networks that were tried out
    """

    experiment: Experiment
    cells: list[Cell]
    out: Path
    tell: Callable[[str], object]
    device: str = "auto"
    batch_size: int | None = None
    share: Share = Share()
    failed: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    tried: list[Any] = field(default_factory=list)

    def run(self) -> Path | None:
        """Does what is missing; the report's path where all is evaluated. UserError at the end where a cell has failed."""
        from guided_sample.metrics.evaluation import Evaluator

        evaluator = Evaluator(measures_of(self.experiment.measures), self.device)
        self.cells = claimed(self.out, self.experiment, self.cells)
        if self.share.talks:
            self.tell(self.outlook())
        self.draw(evaluator)
        self.evaluate(evaluator)
        report = self.report()
        unfinished = [cell.name for cell in self.cells if cell.name not in self.failed and not self.evaluated(cell)]
        if unfinished:
            self.tell(f"{len(unfinished)} of {len(self.cells)} cells are other processes' to finish; the same command, on any "
                      f"number of processes, finishes what they leave.")
        if self.failed and not (unfinished and "torchrun" in self.share.by):  # which ends all processes when one fails
            raise UserError(f"{len(self.failed)} of {len(self.cells)} cells failed ({', '.join(self.failed)}), as told above; "
                            f"the same command tries them again.")
        return report

    def say(self, text: str) -> None:
        """What other processes on the same terminal would say, too."""
        if self.share.talks:
            self.tell(text)

    def plan(self, cell: Cell) -> Plan:
        """Anew each time: where its networks are is a plan's to know."""
        return Plan.of(cell.request, self.device, shelf=self.shelf)

    def samples(self, cell: Cell) -> Path:
        """The folder of the cell's samples; of a second stage's, where there is one."""
        folder = self.out / cell.name
        return folder if cell.request.upsample is None else folder / "upsampled"

    def outlook(self) -> str:
        """How many cells, and how long and how much disk what is missing of them takes; takes two steps of each network."""
        seconds, disk, drawn, total = 0.0, 0, 0, 0
        known: dict[tuple[str, int], float] = {}
        for cell in self.cells:
            with suppress(UserError):  # told when its turn comes
                plan = self.plan(cell)
                N = plan.request.num_samples or 0
                there = drawn_in(self.samples(cell), N)
                drawn, total = drawn + there, total + N
                for stage in stages(plan):
                    size = at_once(stage, min(self.batch_size or usual_batch(stage), N))
                    cost = cost_of(stage, size, known) if there < N else 0.0
                    seconds += cost * sum(map(stage.passes, stage.steps)) * math.ceil((N - there) / size)
                    disk += (N - there) * (2 * math.prod(stage.denoiser.shape) + AROUND) + GRID  # PNGs and npz
                    stage.leave()
        several = f" for each of {self.share.count} processes" if self.share.count > 1 else ""
        return (f"{len(self.cells)} cell{'s' * (len(self.cells) > 1)}, {total} samples in all, {drawn} of them drawn already: "
                f"about {tqdm.format_interval(seconds / self.share.count)}{several} on "
                f"{device_name(pick_device(self.device))} for the others, then their evaluation; at most "
                f"{tqdm.format_sizeof(disk, 'B')} more in {self.out}")

    def draw(self, evaluator: Any) -> None:
        """This process's share of each cell; another one in each, so that cells of few batches spread over all."""
        for number, cell in enumerate(self.cells):
            self.say(f"Cell {number + 1} of {len(self.cells)}: {cell.name}")
            share = replace(self.share, number=(self.share.number - 1 + number) % self.share.count + 1)
            with self.told_of(cell):
                plan = self.plan(cell)
                self.wanted[cell.name] = plan.request.num_samples or 0
                if not self.evaluated(cell):  # what cannot be measured is not drawn for hours first
                    last = plan.second or plan
                    C, H, W = last.denoiser.shape
                    labelled = any(wish.label is not None for wish in last.labels.wishes)
                    evaluator.check(last.manifest, shape=(H, W, C), labelled=labelled)
                try:
                    self.try_out(plan, cell)
                    run(plan, self.out / cell.name, self.batch_size, self.say, False, share)
                finally:  # the device is the next cell's, and the evaluation's
                    for stage in stages(plan):
                        stage.leave()

    def try_out(self, plan: Plan, cell: Cell) -> None:
        """Once each network that has something left to draw, whoever draws it; by the process that talks."""
        for stage, folder in zip(stages(plan), (self.out / cell.name, self.samples(cell))):
            network, N = stage.denoiser.network, self.wanted[cell.name]
            if self.share.talks and drawn_in(folder, N) < N and not any(network is one for one in self.tried):
                self.tried.append(network)
                try_out(stage, self.tell)
                stage.leave()

    def evaluate(self, evaluator: Any) -> None:
        """The cells that are complete; what another process evaluates is left to it."""
        for cell in self.cells:
            if self.complete(cell) and not self.evaluated(cell) and (lock := held(self.samples(cell) / ".evaluation.lock")):
                try:
                    with self.told_of(cell):
                        if not self.evaluated(cell):  # nor was in the meantime
                            self.tell(f"Evaluating {cell.name}")
                            evaluator.evaluate(self.samples(cell))
                finally:
                    lock.release()

    def complete(self, cell: Cell) -> bool:
        return cell.name in self.wanted and cell.name not in self.failed and self.gathered(cell) >= self.wanted[cell.name]

    def gathered(self, cell: Cell) -> int:
        """How many samples samples.npz has."""
        folder = self.samples(cell)
        if not (folder / NPZ).exists():
            return 0
        count = read_json(folder / MANIFEST).get("num_samples")
        return count if type(count) is int else 0

    def evaluated(self, cell: Cell) -> bool:
        """By the same measures, all of these very samples, against the reference as it is."""
        folder, measures = self.samples(cell), measures_of(self.experiment.measures)
        file, npz = folder / EVALUATION, folder / NPZ
        if not self.complete(cell) or not file.exists():
            return False
        with suppress(UserError):  # a torn one is made again
            found, manifest = read_json(file), read_json(folder / MANIFEST)
            of = manifest.get("digests", {}) | {"samples": digest_of(npz, npz.stat().st_mtime_ns)}
            return (found.get("measures") == measures_told(measures) and found.get("N") == self.gathered(cell)
                    and isinstance(digests := found.get("digests"), dict) and digests.items() >= of.items()
                    and not is_newer(Path(measures.reference or ""), file))
        return False

    def report(self) -> Path | None:
        """report.html, of the cells that did not fail; None where some are not evaluated yet, or none is."""
        cells = [cell for cell in self.cells if cell.name not in self.failed]
        if not cells or not all(map(self.evaluated, cells)):
            return None
        from guided_sample.report import write_report

        content = self.experiment.to_dict()
        told = content | {"name": called(self.experiment.name, content, self.out), "failed": self.failed,
                          "kinds": {cell.name: cell.kind for cell in self.cells if cell.kind}}
        with briefly_alone(self.out):
            return write_report([self.samples(cell) for cell in cells], self.out, told)

    @contextmanager
    def told_of(self, cell: Cell) -> Iterator[None]:
        """Within, an error is this cell's alone: it is told, and kept for the end. Ctrl-C still ends all."""
        try:
            yield
        except UserError as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise
            self.failed[cell.name] = str(error)
            self.tell(f"Cell {cell.name} failed: {error}")


def stages(plan: Plan) -> list[Plan]:
    return [plan] + ([plan.second] if plan.second else [])


def drawn_in(folder: Path, N: int) -> int:
    """How many of N pictures are there."""
    return min(N, len(list(folder.glob("[0-9]*.png"))))


def is_newer(reference: Path, evaluation: Path) -> bool:
    """Whether it is a file written, or moved there, since. (What is moved keeps its time of writing)"""
    if not reference.is_file():
        return False
    there = reference.stat()
    return max(there.st_mtime_ns, there.st_ctime_ns) > evaluation.stat().st_mtime_ns


@lru_cache(maxsize=None)
def digest_of(path: Path, written: int) -> str:
    """SHA-256 of a file as written at that time, ns. (The time alone tells nothing: each run gathers samples.npz anew)"""
    return sha256_of(path)


def cost_of(plan: Plan, size: int, known: dict[tuple[str, int], float]) -> float:
    """Seconds of a step of a batch, measured once for plans that run the same networks in the same way."""
    asleep = {key: 1 if key in ("cfg", "weak_scale") else 0 for key in STRENGTHS}  # at which strength no network is run for it
    costly = {key: value != asleep[key] if key in STRENGTHS else value for key, value in plan.request.to_dict().items()
              if key not in FREE}
    key = (repr(costly), size)
    if key not in known:
        known[key] = step_seconds(plan, size)
    return known[key]


def claimed(out: Path, experiment: Experiment, cells: list[Cell]) -> list[Cell]:
    """The cells, called as the folder calls those that it has, with the experiment on record there. UserError where the folder
    has results that the experiment, as it is now, would not make; cells and samples may be added."""
    record = out / RECORD
    if (out.is_file() or any(out.glob("[!.]*"))) and not record.exists():
        raise UserError(f"{out} is there already and is not a sweep's folder; choose another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(disk_trouble(error, out)) from error
    with briefly_alone(out):
        there = begun(out, record) if record.exists() else []
        refuse_changed(out, there, cells)
        cells = called_as(there, cells)
        write_json(record, {"name": experiment.name, "experiment": experiment.to_dict(),
                            "cells": {cell.name: cell.request.to_dict() | ({"kind": cell.kind} if cell.kind else {})
                                      for cell in [*there, *cells]}, "versions": versions()})
    return cells


def begun(out: Path, record: Path) -> list[Cell]:
    """The cells on record that have results."""
    there = read_json(record, way_out="choose another --out, or remove that folder").get("cells")
    if not isinstance(there, dict) or not all(
            isinstance(request, dict) and is_folder_name(name) for name, request in there.items()):
        raise UserError(f"{record} is not that of a sweep of this toolkit; choose another --out.")
    try:
        return [Cell(name, {}, Request.of({key: value for key, value in request.items() if key != "kind"}),
                     str(request.get("kind", "")))
                for name, request in there.items() if (out / name / NPZ).exists() or any((out / name).glob("[0-9]*.png"))]
    except UserError as error:
        raise UserError(f"{record}: {error}") from error


def refuse_changed(out: Path, there: list[Cell], cells: list[Cell]) -> None:
    """UserError for a cell with results that is no longer asked for, or for fewer samples."""
    for old in there:
        same = [cell for cell in cells if is_of(cell, old)]
        near = same or [cell for cell in cells if cell.name == old.name]
        different = differences(plain(old), plain(near[0])) if near else ["it is not asked for any more"]
        fewer = same and (same[0].request.num_samples or 0) < (old.request.num_samples or 0)
        if not same or fewer:
            raise UserError(f"{out} holds results of the experiment as it was before: of the cell {old.name}, "
                            f"{'; '.join(different[:4])}; choose another --out, or let it be as it was: only more cells, or "
                            f"more samples, may be asked for.")


def is_of(cell: Cell, old: Cell) -> bool:
    """Whether the cell's images are those of one on record, however many there are."""
    counted = "num_samples" in cell.settings
    return plain(cell, counted) == plain(old, counted)


def plain(cell: Cell, counted: bool = True) -> dict[str, Any]:
    values = json.loads(json.dumps(cell.request.to_dict() | {"kind": cell.kind}))
    return values if counted else {key: value for key, value in values.items() if key != "num_samples"}


def called_as(there: list[Cell], cells: list[Cell]) -> list[Cell]:
    """Cells by the names that they have on record; a new one by a name that none there has."""
    taken = {old.name: old for old in there}
    found = []
    for cell in cells:
        name = next((old.name for old in there if is_of(cell, old)), "") or cell.name
        while name == cell.name and name in taken and not is_of(cell, taken[name]):
            cell = replace(cell, name=f"{cell.name}+")
            name = cell.name
        found.append(replace(cell, name=name))
    return found
