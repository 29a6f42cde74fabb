"""Charts: where points, ticks and labels come to lie."""
from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest

from guided_sample.report.charts import (
    BOTTOM, COLOURS, LEFT, RIGHT, SHAPES, TOP, WIDTH, Axis, Box, Chart, Level, Point, Ruler, Series, free, svg)


def drawn(chart):
    return ElementTree.fromstring(svg(chart))


def classed(root, name):
    return [one for one in root.iter() if name in one.get("class", "").split()]


def chart(*points, x=Axis("x"), y=Axis("y"), **more):
    return Chart("y against x", x, y, (Series("one", points),), **more)


def places(root):
    """The pixels of the points' shapes."""
    return [tuple(map(float, re.findall(r"[-\d.]+", one.get("transform"))))[:2] for one in classed(root, "shape")]


@pytest.mark.parametrize("kind, values, middle", [
    ("linear", (2, 5, 8), 0.5), ("log", (1, 10, 100), 0.5), ("symlog", (0, 1, 4), 0.4207)])  # asinh(1) / asinh(4)
def test_axes_are_what_they_are_called(kind, values, middle):
    ruler = Ruler(Axis("", kind, ticks=values if kind == "symlog" else ()), values, 100, 300)
    low, at, high = map(ruler, values)
    assert (at - low) / (high - low) == pytest.approx(middle, abs=1e-4)


def test_points_lie_right_and_up_as_their_numbers_are_larger():
    (x0, y0), (x1, y1) = places(drawn(chart(Point(1, 1), Point(2, 3))))
    assert LEFT < x0 < x1 < RIGHT and TOP < y1 < y0 < BOTTOM


@pytest.mark.parametrize("low, high", [(0, 1), (0.597, 0.974), (20, 94.7), (96.489, 96.517), (1e-5, 3e-5), (-3, 1e4)])
def test_round_ticks_are_few_round_and_inside(low, high):
    ticks = Ruler(Axis(""), (low, high), BOTTOM, TOP).ticks()
    assert 3 <= len(ticks) <= 8
    steps = {round((b - a) / (high - low), 6) for a, b in zip(ticks, ticks[1:])}
    assert len(steps) == 1 and f"{ticks[1] - ticks[0]:.0e}"[0] in "125"


@pytest.mark.parametrize("low, high", [(20, 1363), (3, 90000), (0.001, 0.5), (31, 39)])
def test_logarithmic_ticks_are_few_and_inside(low, high):
    assert 2 <= len(Ruler(Axis("", "log"), (low, high), BOTTOM, TOP).ticks()) <= 10


def test_a_share_has_no_tick_above_all():
    ruler = Ruler(Axis("", percent=True), (0.9, 1.0), BOTTOM, TOP)
    assert max(ruler.ticks()) == 1 and ruler.told(1.0) == "100"


def test_ticks_that_would_stand_on_each_other_are_left_out():
    axis = Axis("", "symlog", ticks=(0, 0.5, 0.51, 0.52, 1, 10))
    assert Ruler(axis, (0, 10), LEFT, RIGHT).ticks() == [0, 0.5, 1, 10]


def test_error_bars_are_as_long_as_told_and_inside():
    root = drawn(chart(Point(1, 10, y_error=2), Point(2, 20, x_error=0.5, y_error=None)))
    bars = [one.get("d") for one in classed(root, "error")]
    (_, y0), (x1, _) = places(root)
    top, end = map(float, re.fullmatch(r"M\S+ (\S+)V(\S+)", bars[0]).groups())
    pixels = abs(places(root)[1][1] - y0) / 10  # for one unit of y
    assert abs(top - end) == pytest.approx(4 * pixels, abs=0.3) and (top + end) / 2 == pytest.approx(y0, abs=0.2)
    left, right = map(float, re.fullmatch(r"M(\S+) \S+H(\S+)", bars[1]).groups())
    assert left < x1 < right <= RIGHT and all(TOP <= y <= BOTTOM for y in (top, end))


def test_levels_are_dashed_lines_at_their_values():
    root = drawn(chart(Point(1, 1), Point(3, 3), levels=(Level(3, "floor"), Level(1, "wall", upright=True))))
    (x0, _), (_, y1) = places(root)
    paths = [one[1].get("d") for one in classed(root, "level")]
    assert paths == [f"M{LEFT} {y1}H{RIGHT}", f"M{x0} {TOP}V{BOTTOM}"]
    assert {"floor", "wall"} <= {one.text for one in classed(root, "level-label")}


def boxes(root):
    for one in [*classed(root, "label"), *classed(root, "level-label")]:
        x, y, wide = float(one.get("x")), float(one.get("y")), 6.4 * len(one.text)
        yield Box(x - wide / 2, y - 10, x + wide / 2, y + 3)


def test_labels_cover_neither_points_nor_each_other_nor_leave_the_picture():
    crowd = [Point(1 + i % 4 * 0.02, 1 + i * 0.01, label=f"{i}.5") for i in range(12)] + [Point(2, 2, "far")]
    root = drawn(chart(*crowd, levels=(Level(1.05, "real images"),)))
    found = list(boxes(root))
    assert not any(a.meets(b) for a, b in combinations(found, 2)) and len(found) > 4
    assert not any(box.meets(Box(x - 3, y - 3, x + 3, y + 3)) for box in found for x, y in places(root))
    assert all(0 <= box.top and box.right <= WIDTH for box in found)
    assert "far" in [one.text for one in classed(root, "label")]


def test_a_label_without_a_place_is_left_out():
    assert free("1", 200, 100, [], []) is not None
    assert free("1", 200, 100, [Box(0, 0, 400, 300)], []) is None


def test_the_picture_tells_what_it_is_and_each_point_what_it_stands_for():
    root = drawn(chart(Point(1, 1, hover="scale <1>"), Point(2, 2)))
    assert root.get("role") == "img" and root[0].tag == "title" and root[0].text == "y against x: 2 points of one."
    assert classed(root, "point")[0][0].text == "scale <1>"


def test_forty_series_look_different():
    looks = {(look % COLOURS, look % len(SHAPES)) for look in range(40)}
    assert len(looks) == 40


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
@pytest.mark.parametrize("kind", ["linear", "symlog"])
def test_equal_values_lie_in_the_middle(kind, value):
    ruler = Ruler(Axis("", kind), [value, value], 0, 100)
    assert 0 <= ruler(value) <= 100 and ruler.low < ruler.high
