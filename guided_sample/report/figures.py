"""Which charts there are of a comparison: those of what was measured, and varies."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from guided_sample.report.charts import Axis, Chart, Level, Point, Series, svg, swatch
from guided_sample.report.runs import Cell, Comparison
from guided_sample.report.words import better, figure, h, is_distance, is_share, spread

ARROWS = {"lower": {"x": "← better", "y": "better ↓"}, "higher": {"x": "better →", "y": "better ↑"}}
WIDE = 20.0  # the largest distance over the smallest, from which on the axis is logarithmic


def tradeoffs(c: Comparison) -> list[str]:
    """Distance against what the scale buys, recall against precision, for each network that they are measured by."""
    pairs = [(metric, c.likeness) for metric in c.metrics if metric.startswith(("FID", "FD["))]
    pairs = pairs or [(c.distance, c.likeness)] if c.distance else []
    if "FID" in c.metrics and c.likeness != "IS":
        pairs += [("FID", "IS")]
    kinds = [metric.removeprefix("recall") for metric in c.metrics if metric.startswith("recall")]
    pairs += [(f"precision{kind}", f"recall{kind}") for kind in kinds if f"precision{kind}" in c.metrics]
    return [figure_of(chart) for y, x in pairs if x and y and (chart := against(c, x, y))]


def against(c: Comparison, x: str, y: str) -> Chart | None:
    """One metric against another: a line a series, each point labelled with its scale; or where there is but one, with its
    steps."""
    place: Callable[[Cell], float | None] = lambda cell: cell.metrics[x].mean if x in cell.metrics else None  # noqa: E731
    lines = by_sampler(c) if len(c.scales) == 1 else {}
    series = series_of(lines or c.by_series, place, y, label_of(c), x)
    if sum(len(one.points) for one in series) < 2:
        return None
    return Chart(f"{c.briefly(y)} against {c.briefly(x)}", axis(c, x, "x"), axis(c, y, "y"), series,
                 (*floor_levels(c, y), *floor_levels(c, x, upright=True)))


def by_scale(c: Comparison) -> list[str]:
    """Each metric against the scale."""
    if len(c.scales) < 2:
        return []
    scale = Axis("guidance scale", "symlog", ticks=tuple(c.scales))
    return [figure_of(Chart(f"{c.briefly(metric)} by scale", scale, axis(c, metric, "y"), series, floor_levels(c, metric)))
            for metric in c.metrics if (series := series_of(c.by_series, lambda cell: cell.scale, metric))]


def by_steps(c: Comparison) -> list[str]:
    """Each metric against the number of steps, where a sampler was given several, at the scale that suits it best."""
    lines = by_sampler(c)
    if not lines:
        return []
    counts = sorted({cell.runs[0].steps for cells in lines.values() for cell in cells})
    steps = Axis("steps", "log", ticks=tuple(map(float, counts)))
    return [figure_of(Chart(f"{c.briefly(metric)} by steps", steps, axis(c, metric, "y"), series, floor_levels(c, metric)))
            for metric in c.metrics if (series := series_of(lines, lambda cell: float(cell.runs[0].steps), metric))]


def by_sampler(c: Comparison) -> dict[str, list[Cell]]:
    """The cells whose numbers of steps are to be compared, by their sampler and the scale at which that came nearest; none
    where no sampler was given several."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in sorted(c.cells, key=lambda cell: cell.runs[0].steps):
        groups.setdefault((str(cell.runs[0].settings.get("sampler")), cell.scale), []).append(cell)
    found: dict[str, list[Cell]] = {}
    for sampler in dict.fromkeys(sampler for sampler, _ in groups):
        best = c.distance and c.best(c.distance, lambda cell: cell.runs[0].settings.get("sampler") == sampler)
        scale = best.scale if best else max(scale for name, scale in groups if name == sampler)
        cells = groups[sampler, scale]
        if len({cell.runs[0].steps for cell in cells}) > 1 and len({cell.runs[0].steps for cell in cells}) == len(cells):
            found[sampler.upper() + f", scale {scale:g}" * (len(c.scales) > 1)] = cells
    return found


def by_time(c: Comparison) -> list[str]:
    """The distance against an image's seconds, or against its network evaluations where a manifest tells no time."""
    if not c.distance or len({cell.runs[0].network_calls for cell in c.cells}) < 2:
        return []
    timed = all(cell.seconds for cell in c.cells)
    x = Axis("seconds an image" if timed else "network evaluations an image", "log")
    of_cell: Callable[[Cell], float | None] = lambda cell: (  # noqa: E731
        cell.seconds if timed else float(cell.runs[0].network_calls))
    lines = by_sampler(c)
    series = series_of(lines or c.by_series, of_cell, c.distance, steps_of if lines else label_of(c))
    told = "steps" if lines else "scales" if len(c.scales) > 1 else ""
    return [figure_of(Chart(f"{c.briefly(c.distance)} against time" + f"; labels: {told}" * bool(told), x,
                            axis(c, c.distance, "y"), series, floor_levels(c, c.distance), joined=bool(lines)))]


def label_of(c: Comparison) -> Callable[[Cell], str]:
    """What is written beside a cell's point: its scale, or if they have but one, its steps."""
    return (lambda cell: f"{cell.scale:g}") if len(c.scales) > 1 else steps_of


def steps_of(cell: Cell) -> str:
    return str(cell.runs[0].steps)


def series_of(lines: dict[str, list[Cell]], x: Callable[[Cell], float | None], y: str,
              label: Callable[[Cell], str] = lambda cell: "", x_metric: str = "") -> tuple[Series, ...]:
    """Cells by the names of their lines, as the points of a chart."""
    found = [Series(name, points(cells, x, y, label, x_metric), look) for look, (name, cells) in enumerate(lines.items())]
    return tuple(one for one in found if one.points)


def points(cells: Sequence[Cell], x: Callable[[Cell], float | None], y: str, label: Callable[[Cell], str],
           x_metric: str = "") -> tuple[Point, ...]:
    """Those of the cells in which both were measured."""
    found = []
    for cell in cells:
        place = x(cell)
        if y in cell.metrics and place is not None:
            measured = cell.metrics[y]
            x_error = cell.metrics[x_metric].error if x_metric else None
            found.append(Point(place, measured.mean, label(cell), hover(cell), x_error, measured.error))
    return tuple(found)


def hover(cell: Cell) -> str:
    """The cell and all that was measured of it, a line each."""
    seeds = f", {len(cell.runs)} seeds" * (len(cell.runs) > 1)
    return "\n".join([cell.where + seeds, *(
        f"{metric} {figure(metric, found.mean)}" + (f" ± {spread(metric, found.error)}" if found.error else "")
        for metric, found in cell.metrics.items())])


def axis(c: Comparison, metric: str, which: str) -> Axis:
    """A metric's: of widely differing distances a logarithmic one; arrows show where it is better."""
    values = [cell.metrics[metric].mean for cell in c.cells if metric in cell.metrics]
    log = is_distance(metric) and min(values) > 0 and max(values) / min(values) > WIDE
    arrow = ARROWS.get(better(metric), {}).get(which, "")
    name = c.briefly(metric) + ", %" * is_share(metric)
    return Axis(name + f" ({arrow})" * bool(arrow), "log" if log else "linear", is_share(metric))


def floor_levels(c: Comparison, metric: str, upright: bool = False) -> tuple[Level, ...]:
    """What real images get."""
    return tuple(Level(value, f"real images{f', N = {N}' if N else ''}", upright) for value, N in c.floors(metric)
                 if value > 0 or axis(c, metric, "y").kind == "linear")


def figure_of(chart: Chart) -> str:
    """With its title and legend."""
    legend = "".join(f"<li>{swatch(one.look)}{h(one.name)}</li>" for one in chart.series)
    return (f'<figure class="plot"><figcaption>{h(chart.title)}</figcaption><ul class="legend">{legend}</ul>{svg(chart)}'
            f"</figure>")
