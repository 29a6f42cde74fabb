"""Charts as inline SVG: lines and points on two axes. Colours and sizes of letters are the page's (page.css)."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from guided_sample.report.words import h

WIDTH, HEIGHT = 380, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 368, 10, 234  # the plot's edges
LETTER, LINE = 6.4, 13.0  # width and height of a letter of 11 px
COLOURS = 8  # of page.css
SHAPES = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "M-3.6 -3.6h7.2v7.2h-7.2z", "M0 -5L4.8 3.6H-4.8z", "M0 -5L5 0L0 5L-5 0z",
          "M0 5L4.8 -3.6H-4.8z")  # COLOURS and their number have no common divisor: 40 series look different


@dataclass(frozen=True)
class Point:
    """x, y, and half the lengths of their error bars; the label beside it; what hovering over it tells."""

    x: float
    y: float
    label: str = ""
    hover: str = ""
    x_error: float | None = None
    y_error: float | None = None


@dataclass(frozen=True)
class Series:
    """look  the number of its colour and shape, that it has in all charts"""

    name: str
    points: tuple[Point, ...]
    look: int = 0


@dataclass(frozen=True)
class Axis:
    """kind   linear, log, or symlog (asinh, linear up to the least positive tick)
    ticks  where they shall be; (): where they are round
    """

    label: str
    kind: str = "linear"
    percent: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Level:
    """A dashed line across the plot: at a y, or (upright) at an x."""

    value: float
    label: str
    upright: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    joined: bool = True  # a series' points by lines


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


class Ruler:
    """An axis laid over a length of the picture, from pixel `start` to pixel `end`."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        self.linear_up_to = min((tick for tick in axis.ticks if tick > 0), default=1.0)
        low, high = self.bent(min(values)), self.bent(max(values))
        room = (high - low) * 0.06 or abs(high) * 0.06 or 0.5
        self.low, self.high = low - room, high + room
        if axis.kind == "linear" and min(values) > 0:
            self.low = max(self.low, 0.0)

    def bent(self, value: float) -> float:
        if self.axis.kind == "log":
            return math.log10(value)
        return math.asinh(value / self.linear_up_to) if self.axis.kind == "symlog" else value

    def unbent(self, value: float) -> float:
        return 10 ** value if self.axis.kind == "log" else value

    def __call__(self, value: float) -> float:
        """The pixel of a value; one beyond the axis is on its edge."""
        if self.axis.kind == "log" and value <= 0:
            return self.start
        share = (self.bent(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Those that fit side by side."""
        wanted = self.axis.ticks or (log_ticks if self.axis.kind == "log" else round_ticks)(
            self.unbent(self.low), self.unbent(self.high))
        shown: list[float] = []
        for tick in sorted(wanted):
            if self.low <= self.bent(tick) <= self.high and not (self.axis.percent and tick > 1):
                wide = LETTER * (len(self.told(tick)) + 1) if self.start < self.end else LINE
                if not shown or abs(self(tick) - self(shown[-1])) >= wide:
                    shown.append(tick)
        return shown

    def told(self, tick: float) -> str:
        return f"{100 * tick:.6g}" if self.axis.percent else f"{tick:.6g}"


def round_ticks(low: float, high: float) -> list[float]:
    """Some five multiples of 1, 2 or 5 times a power of ten."""
    size = 10 ** math.floor(math.log10((high - low) / 5))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if size * factor * 6 >= high - low)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; over more than three decades the powers alone; of less than a half, what is round."""
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0 ** power for power in powers for factor in ((1, 2, 5) if decades <= 3 else (1,))]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 2 else round_ticks(low, high)


def svg(chart: Chart) -> str:
    """The chart as an <svg> element of a picture's role, its title inside."""
    x, y = rulers(chart)
    count, names = sum(len(one.points) for one in chart.series), ", ".join(one.name for one in chart.series)
    name = f"{chart.title}: {count} points of {names}."
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{h(name)}</title>',
             *axes(chart, x, y), *levels(chart, x, y)]
    if chart.joined:
        parts += [line(one, x, y) for one in chart.series if len(one.points) > 1]
    parts += [mark(point, one.look, x, y) for one in chart.series for point in one.points]
    return "".join([*parts, *labels(chart, x, y), "</svg>"])


def rulers(chart: Chart) -> tuple[Ruler, Ruler]:
    """Both axes, long enough for all points, their error bars and the levels."""
    points = [point for one in chart.series for point in one.points]
    xs = [point.x + side * (point.x_error or 0) for point in points for side in (-1, 1)]
    ys = [point.y + side * (point.y_error or 0) for point in points for side in (-1, 1)]
    xs += [level.value for level in chart.levels if level.upright]
    ys += [level.value for level in chart.levels if not level.upright]
    return (Ruler(chart.x, positive(chart.x, xs, [point.x for point in points]), LEFT, RIGHT),
            Ruler(chart.y, positive(chart.y, ys, [point.y for point in points]), BOTTOM, TOP))


def positive(axis: Axis, values: list[float], of_points: list[float]) -> list[float]:
    """Of a log axis: the positive ones; there is a point among them."""
    return [value for value in values if value > 0] or of_points if axis.kind == "log" else values


def axes(chart: Chart, x: Ruler, y: Ruler) -> Iterator[str]:
    for tick in y.ticks():
        yield (f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{RIGHT}"/>'
               f'<text class="tick" x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{y.told(tick)}</text>')
    for tick in x.ticks():
        yield (f'<path class="grid" d="M{x(tick):.1f} {TOP}V{BOTTOM}"/>'
               f'<text class="tick" x="{x(tick):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{x.told(tick)}</text>')
    middle = (TOP + BOTTOM) / 2
    yield (f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'
           f'<text class="name" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{h(chart.x.label)}</text>'
           f'<text class="name" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle"'
           f'{squeezed(chart.y.label)}>{h(chart.y.label)}</text>')


def squeezed(name: str) -> str:
    """Of an upright axis' name that is longer than the axis."""
    long = LETTER * 1.1 * len(name) > BOTTOM - TOP
    return f' textLength="{BOTTOM - TOP}" lengthAdjust="spacingAndGlyphs"' if long else ""


def levels(chart: Chart, x: Ruler, y: Ruler) -> Iterator[str]:
    for level in chart.levels:
        at = (x if level.upright else y)(level.value)
        yield (f'<g class="level"><title>{h(level.label)}</title>'
               f'<path d="{f"M{at:.1f} {TOP}V{BOTTOM}" if level.upright else f"M{LEFT} {at:.1f}H{RIGHT}"}"/></g>')


def level_box(level: Level, x: Ruler, y: Ruler, taken: Sequence[Box]) -> Box:
    """Where its words stand: by one of its ends, on the side where they cover the least."""
    wide = LETTER * len(level.label)
    if level.upright:
        at = x(level.value)
        corners = [(left, top) for top in (TOP, BOTTOM - LINE - 2) for left in (at + 4, at - 4 - wide)]
    else:
        at = y(level.value)
        corners = [(left, top) for left in (RIGHT - 4 - wide, LEFT + 4) for top in (at - LINE - 2, at + 2)]
    boxes = [Box(left, top, left + wide, top + LINE) for left, top in corners]
    inner = [box for box in boxes if inside(box)] or boxes
    return min(inner, key=lambda box: sum(box.meets(other) for other in taken))


def line(series: Series, x: Ruler, y: Ruler) -> str:
    points = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in series.points)
    dashed = " dashed" * (series.look // COLOURS % 2)
    return f'<polyline class="line c{series.look % COLOURS}{dashed}" points="{points}"/>'


def mark(point: Point, look: int, x: Ruler, y: Ruler) -> str:
    """The point's shape, its error bars, and what hovering tells."""
    bars, px, py = "", x(point.x), y(point.y)
    if point.x_error:
        bars += f"M{x(point.x - point.x_error):.1f} {py:.1f}H{x(point.x + point.x_error):.1f}"
    if point.y_error:
        bars += f"M{px:.1f} {y(point.y - point.y_error):.1f}V{y(point.y + point.y_error):.1f}"
    bars = f'<path class="error" d="{bars}"/>' if bars else ""
    return (f'<g class="point c{look % COLOURS}"><title>{h(point.hover)}</title>{bars}'
            f'<path class="shape" transform="translate({px:.1f} {py:.1f})" d="{SHAPES[look % len(SHAPES)]}"/></g>')


def labels(chart: Chart, x: Ruler, y: Ruler) -> Iterator[str]:
    """The points' and the levels', each where it covers nothing; one that finds no such place is left to hovering."""
    taken = [Box(x(p.x) - 5, y(p.y) - 5, x(p.x) + 5, y(p.y) + 5) for one in chart.series for p in one.points]
    crossed = list(along(chart, x, y))
    for level in chart.levels:
        taken.append(level_box(level, x, y, [*taken, *crossed]))
        yield written(level.label, taken[-1], "level-label")
    for one in chart.series:
        for point in one.points:
            if point.label and (box := free(point.label, x(point.x), y(point.y), taken, crossed)):
                taken.append(box)
                yield written(point.label, box, f"label c{one.look % COLOURS}")


def written(text: str, box: Box, style: str) -> str:
    middle = (box.left + box.right) / 2
    return f'<text class="{style}" x="{middle:.1f}" y="{box.bottom - 3:.1f}" text-anchor="middle">{h(text)}</text>'


def along(chart: Chart, x: Ruler, y: Ruler) -> Iterator[Box]:
    """Small boxes along the lines, which a label had better not cross."""
    for one in chart.series if chart.joined else ():
        for a, b in zip(one.points, one.points[1:]):
            for i in range(1, 12):
                px, py = x(a.x) + (x(b.x) - x(a.x)) * i / 12, y(a.y) + (y(b.y) - y(a.y)) * i / 12
                yield Box(px - 1, py - 1, px + 1, py + 1)


def free(text: str, px: float, py: float, taken: Sequence[Box], crossed: Sequence[Box]) -> Box | None:
    """Of the places around a point the one that crosses the fewest lines; None where something stands at each."""
    wide = LETTER * len(text)
    near, far = 7.0, 15.0
    places = [(0, -1, near), (1, 0, near), (0, 1, near), (-1, 0, near), (1, -1, near - 1), (-1, -1, near - 1), (1, 1, near - 1),
              (-1, 1, near - 1), (0, -1, far), (0, 1, far), (1, 0, far), (-1, 0, far)]
    boxes = [around(px + dx * (away + wide / 2), py + dy * (away + LINE / 2), wide) for dx, dy, away in places]
    fitting = [box for box in boxes if inside(box) and not any(box.meets(other) for other in taken)]
    return min(fitting, key=lambda box: sum(box.meets(other) for other in crossed), default=None)


def around(px: float, py: float, wide: float) -> Box:
    return Box(px - wide / 2, py - LINE / 2, px + wide / 2, py + LINE / 2)


def inside(box: Box) -> bool:
    return box.left >= LEFT and box.right <= WIDTH - 2 and box.top >= 0 and box.bottom <= BOTTOM


def swatch(look: int) -> str:
    """A legend's."""
    dashed = " dashed" * (look // COLOURS % 2)
    return (f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true"><path class="line c{look % COLOURS}{dashed}" '
            f'd="M0 6H28"/><g class="point c{look % COLOURS}"><path class="shape" transform="translate(14 6)" '
            f'd="{SHAPES[look % len(SHAPES)]}"/></g></svg>')
