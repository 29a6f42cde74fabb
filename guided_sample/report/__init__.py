"""A report on runs: one HTML file, made of their manifests, evaluations and pictures alone."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from guided_sample.report.checks import TEXT, mapping
from guided_sample.report.page import page
from guided_sample.report.runs import Compared, Run
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write


def write_report(folders: list[Path], out: Path, experiment: dict[str, Any] | None = None) -> Path:
    """Writes report.html into the folder `out`, about the runs in these folders; where it is.

    experiment  what the runs are of, as its file has it: its title, about and expected (published figures, a row or several,
                with the request's keys that a row is of) are shown; its name is what guided-sweep
                makes it again by: a published one's, or a file; "kinds" are the runs' kinds of guidance, by their names
    """
    runs = [Run.read(folder) for folder in dict.fromkeys(folders)]
    measured = [run for run in runs if run.metrics]
    if not measured:
        raise UserError(f"none of the {len(runs)} folders has an evaluation.json with figures, and a report is made of these; "
                        f"run eval-samples on them first.")
    experiment = experiment or {}
    kinds = experiment["kinds"] if mapping(TEXT).fits(experiment.get("kinds")) else {}
    html = page(Compared(measured, kinds), experiment, [run.name for run in runs if not run.metrics])
    with atomic_write(out / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return out / "report.html"
