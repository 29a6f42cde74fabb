"""All that a GPU can tell of this toolkit, within ten minutes and without a network: the `gpu` tests, then a table of speeds.

    python scripts/gpu_report.py --peer guided-diffusion

A guided step, whole samples and training steps in the shapes of ADM's released models, with random weights, in float32
(without TF32), bf16 and fp16, at batch 1 and at the largest that fits, and compiled at that; beside diffusers', and
guided-diffusion's in its own half precision, where --peer names a checkout. `--small` rehearses it with tiny networks on a CPU.
Each kind is measured in a process of its own, and samples on all GPUs that are there, in a process each.
"""
from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import adm_steps
import diffusers_steps
import peer_steps
from adm_steps import IMAGENET64, IMAGENET256_UNCOND, Shape, Stepper
from noisy_clf.errors import FriendlyCommand, UserError, one_line
from noisy_clf.execution import dtype_of, exact_float32, pick_device

KINDS = {"guided": "guided step", "samples": "guided samples", "classifier": "classifier's training step",
         "denoiser": "denoiser's training step"}
TINY = {"channels": 32, "channel_mult": (1, 2), "res_blocks": 1, "head_channels": 32}
SHAPES = {64: IMAGENET64, 256: IMAGENET256_UNCOND}
SMALL = {size: shape.with_both(image_size=size, **TINY) for size, shape in zip((16, 32), SHAPES.values())}
FOR_TESTS = 0.35  # of the time
NOT_RUN, OURS, PEER, DIFFUSERS = "not run: time", "ours", "guided-diffusion", "diffusers"
COMPILED, JPEGS = f"{OURS}, compiled", f"{OURS}, from JPEGs"
CHAINS = {f"{OURS}, 15 steps": ("unipc", "logsnr15"), f"{OURS}, 25 steps": ("ddim", "ddim25")}
STEPS_250 = f"{OURS}, 250 steps"
AT_ONCE = {64: 64, 256: 16}  # samples
GOALS = {"float32": 3.0, "fp16": 1.5, "rate": 0.45}  # times guided-diffusion's images/s in these; of the matrix rate
NOTES = """float32 is without TF32 for all programs. Of the matrix rate: the networks' FLOPs a second, of what a large product
reaches here in that precision. Not networks: of a step's time, what is not their forward and backward (noise, images, copies,
the optimizer, waiting). Compiled: on a GPU with CUDA graphs. diffusers: its UNet2DModel in the shape of ADM's, guided by our
classifier in float32, which it has none of. 15 and 25 steps are drawn; 250 are told by a step's time."""


@dataclass(frozen=True)
class Row:
    """One measurement: seconds of a step, and of its networks alone; GB; why there is none, or no larger batch."""

    kind: str
    size: int
    precision: str
    whose: str
    batch: str
    images: int = 0
    seconds: float = 0.0
    networks: float = 0.0
    flops: float = 0.0
    memory: float = 0.0
    note: str = ""

    def cells(self, rates: dict[str, float]) -> list[str]:
        name = [f"{KINDS[self.kind]}, {self.size} px", self.precision, self.whose, self.batch]
        if not self.seconds:
            return [*name, "", "", "", "", self.note]
        rate = rates.get(self.precision.replace("fp16", "bf16"))
        share = f"{self.flops / self.seconds / rate:.0%}" if self.flops and rate else ""
        other = f"{max(0, 1 - self.networks / self.seconds):.0%}" if self.networks else ""
        memory = f"{self.memory:.2f} GB" if self.memory else ""
        return [*name, f"{self.images / self.seconds:.4g}", share, memory, other, self.note]


HEAD = ["step", "precision", "whose", "batch", "images/s", "of the matrix rate", "peak memory", "not networks", ""]


def markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["-"] * len(rows[0]), *rows[1:]])


@dataclass(frozen=True)
class Measuring:
    """On a device, until a moment (of time.time): `most` images at once, `repeats` of each step."""

    device: torch.device
    until: float
    most: int
    repeats: int

    def seconds(self, step: Callable[[], Any]) -> float:
        """Of one, after one that warms up; many are waited for at once, as they are in use."""
        for count in (1, self.repeats):
            self.wait()
            started = time.perf_counter()
            for _ in range(count):
                step()
            self.wait()
        return (time.perf_counter() - started) / self.repeats

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def at(self, batch: int, steps: Callable[[int], Any], cell: Row) -> Row:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = steps(batch)
        ours = isinstance(step, Stepper)
        seconds = self.seconds(step.step if ours else step)
        memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0
        return replace(cell, batch=str(batch), images=batch, seconds=seconds, memory=memory,
                       networks=self.seconds(step.networks) if ours else 0.0)

    def rows(self, cell: Row, make: Callable[[], Callable[[int], Any]], until: float) -> Iterator[Row]:
        """At batch 1, and at the largest that fits and that time allows; what fails is a row."""
        try:
            steps = make()
            largest, why = self.at(1, steps, cell), "no more are tried"
        except Exception as error:
            yield from missing(cell, f"failed: {one_line(error)}")
            return
        yield largest
        while 2 * largest.images <= self.most:
            more = 2 * largest.images
            if time.time() + 4 * largest.seconds * (self.repeats + 1) > until:
                why = f"{more} {NOT_RUN}"
                break
            try:
                largest = self.at(more, steps, cell)
            except torch.cuda.OutOfMemoryError:
                why = f"{more} does not fit"
                break
            except Exception as error:
                why = f"{more} failed: {one_line(error)}"
                break
        yield replace(largest, note=why)

    def row(self, cell: Row, make: Callable[[], Callable[[int], Any]], batch: int) -> Row:
        """At one batch."""
        try:
            return self.at(batch, make(), cell)
        except Exception as error:
            return replace(cell, batch=str(batch), note=f"failed: {one_line(error)}")


def single(cell: Row) -> bool:
    """Whether it is measured at one batch: where each size is compiled anew, and whole samples."""
    return cell.whose == COMPILED or cell.kind == "samples"


def missing(cell: Row, why: str, there: int = 0) -> list[Row]:
    """The rows of a cell that are lacking when so many are there."""
    batches = ("largest",) if single(cell) else ("1", "largest")
    return [replace(cell, batch=batch, note=why) for batch in batches[there:]]


def cells(kind: str, size: int, device: torch.device, peer: str | None) -> list[Row]:
    """What is to be measured, the most telling first: each precision, ours and theirs."""
    half = "bf16" if device.type == "cpu" else "fp16"
    precisions = dict.fromkeys(("float32", half, "bf16") if kind == "guided" else ("float32", half))
    whose = [(precision, OURS) for precision in precisions]
    if kind == "samples":
        return [Row(kind, size, precision, who, "") for precision in (half, "float32") for who in CHAINS]
    whose += [("float32", PEER), (half, PEER)] if peer else []
    if device.type == "cuda" or kind == "guided":  # compiling on a CPU takes longer than all else
        whose += [(half, COMPILED)] + [("float32", COMPILED)] * (device.type == "cuda")
    whose += [("float32", DIFFUSERS), (half, DIFFUSERS)] if kind == "guided" else [(half, JPEGS)]
    return [Row(kind, size, precision, who, "") for precision, who in whose]


def steps_of(cell: Row, shape: Shape, device: torch.device) -> Callable[[int], Any]:
    half, compile = cell.precision != "float32", cell.whose == COMPILED
    if cell.kind == "samples":
        return adm_steps.guided_samples(shape, cell.precision, device, *CHAINS[cell.whose])
    if cell.kind == "guided":
        if cell.whose in (PEER, DIFFUSERS):
            return (peer_steps if cell.whose == PEER else diffusers_steps).guided_steps(shape, half, device)
        return adm_steps.guided_steps(shape, cell.precision, device, compile)
    if cell.whose == PEER:
        return peer_steps.training_steps(shape, cell.kind, half, device)
    files = Path(tempfile.mkdtemp()) if cell.whose == JPEGS else None
    return adm_steps.training_steps(shape, cell.kind, cell.precision, device, compile, files)


def work(todo: list[Row], shape: Shape, measuring: Measuring) -> Iterator[Row]:
    """All rows of one kind of step at one size; FLOPs are counted once, of our networks."""
    flops, fits = [0], {}  # fits: the largest batch, by precision
    for i, cell in enumerate(todo):
        def make() -> Callable[[int], Any]:
            steps = steps_of(cell, shape, measuring.device)
            if cell.whose == OURS and not flops[0]:
                with FlopCounterMode(display=False) as counter:
                    steps(1).networks()
                flops[0] = counter.get_total_flops()
            return steps

        now = time.time()
        if now > measuring.until:
            yield from missing(cell, NOT_RUN)
            continue
        if single(cell):
            batch = fits.get(cell.precision, AT_ONCE.get(cell.size, 2))
            rows: Iterable[Row] = [measuring.row(cell, make, batch)]
        else:
            rows = measuring.rows(cell, make, now + (measuring.until - now) / (len(todo) - i))
        for row in rows:
            if cell.whose == OURS and row.images:
                fits[cell.precision] = row.images
            yield replace(row, flops=flops[0] * row.images)
        gc.collect()
        torch.cuda.empty_cache()


def matrix_rates(device: torch.device, small: bool) -> dict[str, float]:
    """Of each precision, FLOP/s in a large product: the best of ten."""
    n, rates = 256 if small else 8192, {}
    for precision in ("float32", "bf16"):
        a = torch.randn(n, n, device=device, dtype=dtype_of(precision))
        measuring = Measuring(device, 0, 0, 1)
        rates[precision] = 2 * n ** 3 / min(measuring.seconds(lambda: a @ a) for _ in range(10))
    return rates


def gpu_tests(device: torch.device, seconds: float, which: str = "") -> list[str]:
    """What became of the `gpu` tests whose names fit: a sentence, and one for each that did not pass."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", which, "--device", device.type, "-n", "0", "-vv", "--tb=line",
               "-rfE", "tests/gpu"]
    out, late = finished(command, seconds, cwd=root)
    found = re.findall(r"^(tests/\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", out, flags=re.MULTILINE)
    passed = sum(result == "PASSED" for _, result in found)
    rest = f"; the others, after {seconds:.0f} s, {NOT_RUN}." if late else "."
    sentence = f"{passed} of {len(found)} `gpu` tests passed on {device.type}{rest}"
    why = dict(re.findall(r"^(?:FAILED|ERROR) (\S+) - (.*)$", out, flags=re.MULTILINE))
    bad = [f"- {result.lower()}: `{test}`: {why.get(test, 'see pytest -m gpu')[:200]}" for test, result in found
           if result not in ("PASSED", "SKIPPED")]
    return [sentence if found else f"the `gpu` tests did not run: {last_line(out)}", *bad]


def finished(command: list[str], seconds: float, **more: Any) -> tuple[str, bool]:
    """(what the command wrote, whether it was ended for taking longer)."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipes, **more) as process:
        try:
            return process.communicate(timeout=max(seconds, 1))[0], False
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0], True


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


def measured(todo: list[Row], until: float, arguments: list[str]) -> list[Row]:
    """The rows of one kind of step, measured in a process of its own; where it is slow or dies, what is lacking says so."""
    left, out, late = until - time.time(), "", True
    if left > 0:
        which = f"{todo[0].kind},{todo[0].size},{until - 0.1 * left}"
        out, late = finished([sys.executable, __file__, *arguments, "--work", which], left)
    rows = [Row(**json.loads(line)) for line in out.splitlines() if line.startswith("{")]
    for cell in todo:
        there = sum((row.precision, row.whose) == (cell.precision, cell.whose) for row in rows)
        rows += missing(cell, NOT_RUN if late else f"failed: {last_line(out)}", there)
    return rows


def of_250_steps(rows: list[Row]) -> list[Row]:
    """What the guided steps, at their largest batch, say of whole samples."""
    return [replace(row, kind="samples", whose=STEPS_250, seconds=250 * row.seconds, networks=0.0, flops=0.0, memory=0.0,
                    note="by a step's time")
            for row in rows if row.kind == "guided" and row.whose == OURS and row.images > 1 and row.seconds]


def sharded(size: int, until: float, arguments: list[str], processes: int) -> list[Row]:
    """Samples of 15 steps on so many devices at once, a process each: the slowest one's time, and all images."""
    todo = cells("samples", size, torch.device("cuda"), None)[0]
    command = [sys.executable, __file__, *arguments, "--only", "first", "--work", f"samples,{size},{until}"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": str(i)})
               for i in range(processes)]
    found = [Row(**json.loads(line)) for process in running for line in process.communicate()[0].splitlines()
             if line.startswith("{")]
    if len(found) < processes or not all(row.seconds for row in found):
        return missing(todo, f"failed on some of {processes} GPUs")
    return [replace(found[0], images=sum(row.images for row in found), seconds=max(row.seconds for row in found), flops=0.0,
                    note=f"{processes} GPUs at once")]


def goals(rows: list[Row], rates: dict[str, float]) -> list[str]:
    """A sentence for each size: how near the best guided step comes to what is aimed at."""
    told = []
    for size in dict.fromkeys(row.size for row in rows):
        steps = [row for row in rows if row.kind == "guided" and row.size == size and row.seconds]
        if ours := [row for row in steps if row.whose.startswith(OURS)]:
            best = max(ours, key=lambda row: row.images / row.seconds)
            speed, parts = best.images / best.seconds, []
            for precision in ("float32", "fp16"):
                theirs = [row.images / row.seconds for row in steps if row.whose == PEER and row.precision == precision]
                if theirs:
                    parts.append(f"{speed / max(theirs):.2f} times guided-diffusion's {precision} (goal {GOALS[precision]:g})")
            rate = rates.get(best.precision.replace("fp16", "bf16"))
            if best.flops and rate:
                parts.append(f"{best.flops / best.seconds / rate:.0%} of the matrix rate (goal {GOALS['rate']:.0%})")
            told.append(f"{size} px, at best {speed:.4g} images/s of a step ({best.precision}, {best.whose}): "
                        f"{', '.join(parts)}.")
    return told


def about(device: torch.device, rates: dict[str, float]) -> str:
    cuda = device.type == "cuda"
    card, versions = f"CPU, {torch.get_num_threads()} threads", f"torch {torch.__version__}"
    if cuda:
        card = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
        versions += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    told = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {precision}" for precision, rate in rates.items())
    return f"{card}; {versions}. Products of large matrices: {told}."


@click.command(cls=FriendlyCommand)
@click.option("--peer", type=click.Path(exists=True, file_okay=False, resolve_path=True),
              help="A checkout of guided-diffusion.")
@click.option("--small", is_flag=True, help="Tiny networks, on a CPU too: a rehearsal.")
@click.option("--minutes", default=10.0, show_default=True, help="What would take longer is told as not run.")
@click.option("--only", default="", help="Of the steps, those with these words in them, such as \"guided 64\".")
@click.option("--tests/--no-tests", default=True, show_default=True, help="Run the gpu tests first.")
@click.option("--out", default="gpu-report.md", type=click.Path(dir_okay=False, path_type=Path), show_default=True)
@click.option("--work", "part", hidden=True)
def main(peer: str | None, small: bool, minutes: float, only: str, tests: bool, out: Path, part: str | None) -> None:
    started, device = time.time(), pick_device("cpu" if small else "auto")
    if device.type == "cpu" and not small:
        raise UserError("torch sees no GPU here; run this where there is one, or rehearse it with --small.")
    exact_float32()
    if small:
        torch.set_num_threads(1)
    shapes = SMALL if small else SHAPES
    if part:
        kind, size, until = part.split(",")
        sys.path[:0] = [peer] if peer else []
        measuring = Measuring(device, float(until), most=2 if small else 4096, repeats=1 if small else 5)
        todo = cells(kind, int(size), device, peer)[:1 if only == "first" else None]
        for row in work(todo, shapes[int(size)], measuring):
            print(json.dumps(asdict(row)), flush=True)
        return
    end = started + 60 * minutes
    works = [(kind, size) for size in shapes for kind in KINDS if all(word in f"{kind} {size}" for word in only.split())]
    rows: list[Row] = []
    told = ["The `gpu` tests were not asked for."]
    with tqdm(total=len(works) + tests, file=sys.stderr, bar_format="{desc}{n}/{total} [{elapsed}]") as bar:
        if tests:
            bar.set_description("gpu tests")
            told = gpu_tests(device, FOR_TESTS * 60 * minutes, "test_sampling or eager-float32" if small else "")
            bar.update()
        rates = matrix_rates(device, small)
        torch.cuda.empty_cache()
        arguments = ["--small"] * small + (["--peer", peer] if peer else [])
        for i, (kind, size) in enumerate(works):
            bar.set_description(f"{KINDS[kind]}, {size} px")
            until = time.time() + (end - time.time()) / (len(works) - i)
            found = measured(cells(kind, size, device, peer), until, arguments)
            rows += found + (of_250_steps(found) if kind == "guided" else [])
            if kind == "samples" and torch.cuda.device_count() > 1:
                rows += sharded(size, until, arguments, torch.cuda.device_count())
            bar.update()
    report = "\n\n".join([f"# {datetime.now():%-d %B %Y}{', tiny networks' * small}", about(device, rates), "\n".join(told),
                          NOTES, *goals(rows, rates), markdown([HEAD, *(row.cells(rates) for row in rows)])])
    out.write_text(f"{report}\n")
    print(report)


if __name__ == "__main__":
    main()
