"""An evaluation in words and columns."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from guided_sample.manifest import MANIFEST
from guided_sample.metrics.words import figure, rank, spread
from noisy_clf.files import read_json

FRECHET = ("FID", "FD", "sFID")  # of which a multiple of the floor means something: they are 0 at the least


def table(found: dict[str, Any]) -> str:
    """What was measured of one, by lines: the metric with its N, the figure, its error, the floor."""
    metrics, floor, reference = found["metrics"], found["floor"], found.get("reference")
    told = [f"{found['samples']}: {found['N']} samples" + (f", against {reference['name']}" + (
        f" ({reference['N']} images)" if reference["N"] else "") if reference else "")]
    told += [f"features: {name}, SHA-256 {digest[:12]}" for name, digest in found.get("features", {}).items()]
    rows = [("metric", "figure", "error", f"floor (N = {floor['N']})" if floor else "", "")]
    for name in sorted(metrics, key=rank):
        real = floor.get(name)
        over = f"{metrics[name] / real:.2f} times it" if real and name.startswith(FRECHET) else ""
        rows.append((found["names"][name], figure(name, metrics[name]),
                     spread(name, found["errors"][name]) if name in found["errors"] else "",
                     figure(name, real) if real is not None else "", over))
    told += ["", *aligned(rows), ""]
    if found["by_class"].get("agreement"):
        told.append(f"By class: {', '.join(of_classes(found['by_class']))}")
    if any(real and name.startswith(FRECHET) and metrics[name] < real for name, real in floor.items()):
        told.append("Below the floor: the samples vary less than real images do, or their classes are spread more evenly; it "
                    "does not say that they are better than real.")
    return "\n".join([*told, *(f"Warning: {warning}" for warning in found["warnings"])])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    kept = [column for column in zip(*rows) if any(column)]
    widths = [max(map(len, column)) for column in kept]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in zip(*kept)]


def of_classes(by_class: dict[str, Any], most: int = 10) -> list[str]:
    """The classes that the judge sees the least of, at most ten."""
    shares = [(share, name) for share, name in zip(by_class["agreement"], by_class["class_names"]) if share is not None]
    told = [f"{name} {share:.0%}" for share, name in sorted(shares, key=lambda pair: pair[0])[:most]]
    return told if len(shares) <= most else ["the least seen are " + told[0], *told[1:]]


def over_seeds(samples: Sequence[Path], found: Sequence[dict[str, Any]]) -> str | None:
    """Mean, deviation and minimum of each metric, where all are runs that differ in their seed alone."""
    requests = [read_json(path / MANIFEST).get("request") if (path / MANIFEST).is_file() else None for path in samples]
    if len(found) < 2 or any(not isinstance(request, dict) for request in requests):
        return None
    seeds = {request.get("seed") for request in requests if request}
    rest = [{key: value for key, value in request.items() if key != "seed"} for request in requests if request]
    if len(seeds) < len(found) or any(one != rest[0] for one in rest) or len({one["N"] for one in found}) > 1:
        return None
    rows = [("metric", "mean", "deviation", "minimum")]
    for name in sorted(set.intersection(*(set(one["metrics"]) for one in found)), key=rank):
        values = [one["metrics"][name] for one in found]
        rows.append((found[0]["names"][name], *(figure(name, value) for value in (mean(values), stdev(values), min(values)))))
    return "\n".join([f"{len(found)} seeds:", *aligned(rows)])
