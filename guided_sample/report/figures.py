"""Which charts there are of a comparison: those of what was measured, and varies."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from guided_sample.metrics.words import better, figure, is_distance, is_share, spread
from guided_sample.report.charts import Axis, Chart, Level, Point, Series, svg, swatch
from guided_sample.report.runs import Compared, Group
from guided_sample.report.words import h

ARROWS = {"lower": {"x": "← better", "y": "better ↓"}, "higher": {"x": "better →", "y": "better ↑"}}
WIDE = 10.0  # the largest distance over the smallest, from which on the axis is logarithmic


def tradeoffs(c: Compared) -> list[str]:
    """Distance against what the scale buys, recall against precision, for each network that they are measured by."""
    pairs = [(metric, c.likeness) for metric in c.metrics if metric.startswith(("FID", "FD["))]
    pairs = pairs or [(c.distance, c.likeness)] if c.distance else []
    if "FID" in c.metrics and c.likeness != "IS":
        pairs += [("FID", "IS")]
    kinds = [metric.removeprefix("recall") for metric in c.metrics if metric.startswith("recall")]
    pairs += [(f"precision{kind}", f"recall{kind}") for kind in kinds if f"precision{kind}" in c.metrics]
    return [figure_of(chart) for y, x in pairs if x and y and (chart := against(c, x, y))]


def against(c: Compared, x: str, y: str) -> Chart | None:
    """One metric against another: a line a series, each point labelled with its scale; or where there is but one, with its
    steps."""
    place: Callable[[Group], float | None] = lambda group: group.metrics[x].mean if x in group.metrics else None  # noqa: E731
    lines = {} if c.over_scales else by_sampler(c)
    series = series_of(lines or c.by_series, place, y, label_of(c), x)
    if sum(len(one.points) for one in series) < 2:
        return None
    return Chart(f"{c.briefly(y)} against {c.briefly(x)}", axis(c, x, "x"), axis(c, y, "y"), series,
                 (*floor_levels(c, y), *floor_levels(c, x, upright=True)))


def by_scale(c: Compared) -> list[str]:
    """Each metric against the scale."""
    if not c.over_scales:
        return []
    scale = Axis("guidance scale", "symlog", ticks=tuple(c.scales))
    return [figure_of(Chart(f"{c.briefly(metric)} by scale", scale, axis(c, metric, "y"), series, floor_levels(c, metric)))
            for metric in c.metrics if (series := series_of(c.by_series, lambda group: group.scale, metric))]


def by_steps(c: Compared) -> list[str]:
    """Each metric against the number of steps, where a sampler was given several, at the scale that suits it best."""
    lines = by_sampler(c)
    if not lines:
        return []
    counts = sorted({group.runs[0].steps for groups in lines.values() for group in groups})
    steps = Axis("steps", "log", ticks=tuple(map(float, counts)))
    return [figure_of(Chart(f"{c.briefly(metric)} by steps", steps, axis(c, metric, "y"), series, floor_levels(c, metric)))
            for metric in c.metrics if (series := series_of(lines, lambda group: float(group.runs[0].steps), metric))]


def by_sampler(c: Compared) -> dict[str, list[Group]]:
    """The groups whose numbers of steps are to be compared, by their kind or sampler, and the scale at which that came nearest;
    none where none was given several."""
    samplers: dict[str, dict[float, list[Group]]] = {}
    for group in sorted(c.groups, key=lambda group: group.runs[0].steps):
        if group.runs[0].steps:  # told by its manifest
            samplers.setdefault(line_of(group), {}).setdefault(group.scale, []).append(group)
    found: dict[str, list[Group]] = {}
    for name, scales in samplers.items():
        best = c.distance and c.best(c.distance, lambda group: line_of(group) == name and group.runs[0].steps > 0)
        scale = best.scale if best else max(scales)
        steps = [group.runs[0].steps for group in scales[scale]]
        if len(steps) == len(set(steps)) > 1:
            found[name + f", scale {scale:g}" * (len(scales) > 1 or len(c.scales) > 1)] = scales[scale]
    return found


def line_of(group: Group) -> str:
    return group.kind or group.runs[0].sampler.upper()


def by_time(c: Compared) -> list[str]:
    """The distance against an image's seconds, or against its network evaluations where a manifest tells no time."""
    if not c.distance or len({group.runs[0].network_calls for group in c.groups}) < 2:
        return []
    timed = all(group.seconds for group in c.groups)
    x = Axis("seconds an image" if timed else "network evaluations an image", "log")
    of_group: Callable[[Group], float | None] = lambda group: (  # noqa: E731
        group.seconds if timed else float(group.runs[0].network_calls) or None)
    lines = by_sampler(c)
    series = series_of(lines or c.by_series, of_group, c.distance, steps_of if lines else label_of(c))
    told = "steps" if lines else "scales" if c.over_scales else ""
    return [figure_of(Chart(f"{c.briefly(c.distance)} against time" + f"; labels: {told}" * bool(told), x,
                            axis(c, c.distance, "y"), series, floor_levels(c, c.distance), joined=bool(lines)))]


def label_of(c: Compared) -> Callable[[Group], str]:
    """What is written beside a group's point: its scale, or if they have but one, its steps."""
    return (lambda group: f"{group.scale:g}") if c.over_scales else steps_of


def steps_of(group: Group) -> str:
    return str(group.runs[0].steps)


def series_of(lines: dict[str, list[Group]], x: Callable[[Group], float | None], y: str,
              label: Callable[[Group], str] = lambda group: "", x_metric: str = "") -> tuple[Series, ...]:
    """Cells by the names of their lines, as the points of a chart."""
    found = [Series(name, points(groups, x, y, label, x_metric), look) for look, (name, groups) in enumerate(lines.items())]
    return tuple(one for one in found if one.points)


def points(groups: Sequence[Group], x: Callable[[Group], float | None], y: str, label: Callable[[Group], str],
           x_metric: str = "") -> tuple[Point, ...]:
    """Those of the groups in which both were measured."""
    found = []
    for group in groups:
        place = x(group)
        if y in group.metrics and place is not None:
            measured = group.metrics[y]
            x_error = group.metrics[x_metric].error if x_metric else None
            found.append(Point(place, measured.mean, label(group), hover(group), x_error, measured.error))
    return tuple(found)


def hover(group: Group) -> str:
    """The group and all that was measured of it, a line each."""
    seeds = f", {len(group.runs)} seeds" * (len(group.runs) > 1)
    return "\n".join([group.where + seeds, *(
        f"{metric} {figure(metric, found.mean)}" + (f" ± {spread(metric, found.error)}" if found.error else "")
        for metric, found in group.metrics.items())])


def axis(c: Compared, metric: str, which: str) -> Axis:
    """A metric's: of widely differing distances a logarithmic one; arrows show where it is better."""
    values = [group.metrics[metric].mean for group in c.groups if metric in group.metrics]
    log = is_distance(metric) and min(values) > 0 and max(values) / min(values) > WIDE
    arrow = ARROWS.get(better(metric), {}).get(which, "")
    name = c.briefly(metric) + ", %" * is_share(metric)
    return Axis(name + f" ({arrow})" * bool(arrow), "log" if log else "linear", is_share(metric))


def floor_levels(c: Compared, metric: str, upright: bool = False) -> tuple[Level, ...]:
    """What real images get."""
    return tuple(Level(value, f"real images{f', N = {N}' if N else ''}", upright) for value, N in c.floors(metric)
                 if value > 0 or axis(c, metric, "y").kind == "linear")


def figure_of(chart: Chart) -> str:
    """With its title and legend."""
    legend = "".join(f"<li>{swatch(one.look)}{h(one.name)}</li>" for one in chart.series)
    return (f'<figure class="plot"><figcaption>{h(chart.title)}</figcaption><ul class="legend">{legend}</ul>{svg(chart)}'
            f"</figure>")
