"""Curves as the geometry of an SVG of 400 x 220, which curve.html draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles
from typing import Any

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 400.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 390.0, 22.0, 194.0  # of the plot; above it is room for the values under the pointer
MOST_POINTS = 400  # of a line, before it is thinned
MOST_SPOTS = 80  # places that show their values
FEW = 30  # points, each of which gets a dot
ROUND = [1, 2, 2.5, 5, 10]  # what ticks are multiples of
OUTLYING = 6.0  # times the spread of the lower three quarters: higher points leave a curve that is cut

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line. `is_faint`: what stands behind its own running mean."""

    label: str
    colour: str  # CSS
    points: list[Point]  # steps done and value, finite, in order
    is_faint: bool = False


@dataclass(frozen=True)
class Curve:
    """A picture of some lines over the steps done."""

    title: str
    note: str
    series: list[Series]
    is_cut: bool = False  # at the top, above which outliers would flatten all else
    has_zero: bool = False  # whether the picture reaches to 0

    @property
    def is_empty(self) -> bool:
        return not any(one.points for one in self.series)


@dataclass(frozen=True)
class Line:
    colour: str
    is_faint: bool
    path: str  # SVG's `d`
    dots: list[Point]


@dataclass(frozen=True)
class Spot:
    """A strip of the plot that shows the values of its point under the pointer."""

    left: float
    width: float
    x: float
    step: str
    values: list[tuple[str, str, float]]  # colour, text, height of each line there


@dataclass(frozen=True)
class Drawing:
    curve: Curve
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    zero: float | None  # height of the line at 0
    marks: list[float]
    spots: list[Spot]
    above: str  # the highest value, where it is above the picture


def finite(pairs: Iterable[tuple[float, Any]]) -> list[Point]:
    """The points that have a value."""
    return [(x, float(y)) for x, y in pairs if y is not None and math.isfinite(y)]


def running_mean(points: Sequence[Point], over: int) -> list[Point]:
    """At each point the mean of it and of those before it, `over` in all."""
    means, total = [], 0.0
    for place, (x, y) in enumerate(points):
        total += y - (points[place - over][1] if place >= over else 0.0)
        means.append((x, total / min(place + 1, over)))
    return means


def drawn(curve: Curve, last_step: int, marks: Sequence[int]) -> Drawing:
    """The picture of a curve from step 0 to the last; `marks`: steps at which the run went on."""
    assert not curve.is_empty
    low, high, highest = _limits(curve)
    right = max(last_step, 1)

    def at(point: Point) -> Point:
        height = BOTTOM - (point[1] - low) / (high - low) * (BOTTOM - TOP)
        return LEFT + point[0] / right * (RIGHT - LEFT), min(max(height, -HEIGHT), 2 * HEIGHT)  # browsers lose precision far outside

    def y_of(value: float) -> float:
        return at((0, value))[1]

    lines = []
    for one in curve.series:
        places = [at(point) for point in _thinned(one.points)]
        lines.append(Line(one.colour, one.is_faint, _path(places), places if len(places) <= FEW else []))
    return Drawing(
        curve,
        lines,
        [
            (at((tick, low))[0], f"{tick:,.0f}")
            for tick in MaxNLocator(nbins=5, steps=ROUND, integer=True).tick_values(0, right)
            if 0 <= tick <= right
        ],
        [(y_of(tick), _tick(tick)) for tick in MaxNLocator(nbins=5, steps=ROUND).tick_values(low, high) if low <= tick <= high],
        y_of(0) if low < 0 < high else None,
        [at((mark, low))[0] for mark in marks],
        _spots(curve, at),
        shown(highest) if highest > high else "",
    )


def shown(value: float) -> str:
    """A figure in at most four digits."""
    text = f"{value:.2e}" if 0 < abs(value) < 1e-4 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return _exponent_in_short(text)


def _tick(value: float) -> str:
    value = 0.0 if abs(value) < 1e-12 else value
    return _exponent_in_short(f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.6g}")


def _exponent_in_short(text: str) -> str:
    """2e-5 for 2e-05."""
    return re.sub(r"e([-+])0+", r"e\1", text)


def _limits(curve: Curve) -> tuple[float, float, float]:
    """The lowest and the highest value of the picture, with some room, and the highest that there is."""
    values = [y for one in curve.series for _, y in one.points] + [0.0] * curve.has_zero
    low, highest = min(values), max(values)
    high = highest
    if curve.is_cut and len(values) > 7:
        within = low + OUTLYING * (quantiles(values, n=4)[2] - low)
        high = within if low < within < highest else highest
    room = (high - low or abs(low) or 1.0) * 0.06
    return (low if curve.has_zero and low == 0 else low - room), high + room, highest


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most about MOST_POINTS, with the lowest and highest of each stretch, so that no spike is lost."""
    stretch = math.ceil(len(points) / (MOST_POINTS / 2))
    if stretch <= 2:
        return list(points)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""


def _spots(curve: Curve, at: Callable[[Point], Point]) -> list[Spot]:
    values = [dict(one.points) for one in curve.series]
    steps = sorted({x for one in values for x in one})
    every = math.ceil(len(steps) / MOST_SPOTS)
    chosen = steps[::-1][::every][::-1]
    places = [at((step, 0))[0] for step in chosen]
    edges = [LEFT, *((one + other) / 2 for one, other in pairwise(places)), RIGHT]
    spots = []
    for step, place, left, right in zip(chosen, places, edges[:-1], edges[1:], strict=True):
        there = [(one.colour, shown(of[step]), at((step, of[step]))[1]) for one, of in zip(curve.series, values, strict=True) if step in of]
        spots.append(Spot(left, right - left, place, f"{step:,.0f}", there))
    return spots
