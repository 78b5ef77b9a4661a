"""Pictures as SVG, made here so that a page needs no script to show them, each with its description in words.

Colours are classes of the style sheet, so that they follow light and dark.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 260, 60, 20, 14, 44
"""Of a chart in units of its own, and of its margins."""
LONGEST_GAP = 2.0
"""Seconds of a pause that a timeline draws in full."""
MOST_GAPS = 12
MARKS = {"scaffold": "square", "weights": "circle", "child": "diamond", "start": "bar", "repeat": "bar"}
"""The shape that marks each lever, beside its colour."""


Place = Callable[[float, float], tuple[float, float]]
"""Where a value of the two axes lies in the picture."""


class ChartPoint(NamedTuple):
    """A value at a place of the x axis, with the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    lever: str = ""
    faint: bool = False
    """Whether the candidate was rejected."""
    href: str = ""
    title: str = ""


class Line(NamedTuple):
    """Points of one colour class, joined by a line if `joined`."""

    name: str
    css: str
    points: Sequence[ChartPoint]
    joined: bool = True


def chart(lines: Sequence[Line], title: str, x_label: str, *, unit: bool = True) -> Markup:
    """The lines over one x axis; `unit` keeps the y axis within 0 and 1 where all values are."""
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup('<p class="note">Nothing to draw yet.</p>')
    x_low, x_high = min(point.x for point in points), max(point.x for point in points)
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    y_low, y_high = _range(values, unit)
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / x_span * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / y_span * (HEIGHT - TOP - BOTTOM),
        )

    parts = [*_y_axis(y_low, y_high, at, x_low), *_x_axis(x_low, x_high, at, y_low, x_label)]
    for line in lines:
        places = [at(point.x, point.y) for point in line.points]
        if line.joined and len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {line.css}" points="{path}"/>')
        for point, (x, y) in zip(line.points, places, strict=True):
            parts.append(_point(point, x, y, line, at))
    words = "; ".join(_in_words(line) for line in lines if line.points)
    role = "group" if any(point.href for point in points) else "img"  # a picture has no links within
    keys = " ".join(f'<span class="key {line.css}">{escape(line.name)}</span>' for line in lines if line.points)
    return Markup(
        f'<figure><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="{role}" aria-label="{escape(title)}. '
        f'{escape(words)}">{"".join(parts)}</svg><figcaption>{keys}</figcaption></figure>'
    )


class Happening(NamedTuple):
    """An event on a timeline: when, in seconds, and in whose lane."""

    time: float
    lane: str
    title: str
    href: str


def timeline(events: Sequence[Happening]) -> Markup:
    """The events in a lane for each service; a gap longer than `LONGEST_GAP` is squeezed to it, and marked."""
    if not events:
        return Markup('<p class="note">No event matches.</p>')
    lanes = sorted({event.lane for event in events})
    places, gaps, now = [0.0], [], 0.0
    for before, after in itertools.pairwise(events):
        gap = max(0.0, after.time - before.time)
        now += min(gap, LONGEST_GAP)
        if gap > LONGEST_GAP:
            gaps.append((now - LONGEST_GAP / 2, gap))
        places.append(now)
    left, height = 150, 26 * len(lanes) + 30
    scale = (WIDTH - left - RIGHT) / (now or 1.0)
    parts = [
        f'<text class="tick" x="{left - 8}" y="{26 * row + 22}" text-anchor="end">{escape(lane)}</text>'
        f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{26 * row + 18}" y2="{26 * row + 18}"/>'
        for row, lane in enumerate(lanes)
    ]
    parts += [
        f'<text class="tick" x="{left + place * scale:.1f}" y="{height - 8}" text-anchor="middle">{gap:.0f} s</text>'
        f'<line class="gap" x1="{left + place * scale:.1f}" x2="{left + place * scale:.1f}" y1="6" y2="{height - 22}"/>'
        for place, gap in gaps[:MOST_GAPS]
    ]
    parts += [
        f'<a href="{escape(event.href)}"><circle class="mark dev" cx="{left + place * scale:.1f}" '
        f'cy="{26 * lanes.index(event.lane) + 18}" r="4"/><title>{escape(event.title)}</title></a>'
        for event, place in zip(events, places, strict=True)
    ]
    words = f"{len(events)} events of {len(lanes)} services in {events[-1].time - events[0].time:.1f} s"
    return Markup(
        f'<figure><svg class="chart" viewBox="0 0 {WIDTH} {height}" role="group" aria-label="{escape(words)}">'
        f'{"".join(parts)}</svg><figcaption class="note">{escape(words)}. A dashed line is a longer pause, cut to '
        f"{LONGEST_GAP:g} s.</figcaption></figure>"
    )


def sparkline(values: Sequence[float], title: str) -> Markup:
    """A small line without axes."""
    if not values:
        return Markup("")
    low, span, last = min(values), (max(values) - min(values)) or 1.0, max(1, len(values) - 1)
    path = " ".join(
        f"{2 + 76 * index / last:.1f},{18 - 16 * (value - low) / span:.1f}" for index, value in enumerate(values)
    )
    return Markup(
        f'<svg class="spark" viewBox="0 0 80 20" role="img" aria-label="{escape(title)}">'
        f'<polyline class="line dev" points="{path}"/></svg>'
    )


def _range(values: Sequence[float], unit: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.05
    if unit and low >= 0 and high <= 1:
        return max(0.0, low - pad), min(1.0, high + pad)
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Round values between the ends, three to seven of them."""
    raw = (high - low) / 5 or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_axis(low: float, high: float, at: Place, x_low: float) -> list[str]:
    parts = []
    for value in _ticks(low, high):
        y = at(x_low, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_figure(value)}</text>')
    return parts


def _figure(value: float) -> str:
    """A tick's value: thousands as k, millions as M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.10g}" if abs(value) < 1e-12 or abs(value) >= 1e-3 else f"{value:.1e}"


def _x_axis(low: float, high: float, at: Place, y_low: float, label: str) -> list[str]:
    steps = [value for value in _ticks(low, high) if value == int(value)] or [low]
    parts = [
        f'<text class="tick" x="{at(value, y_low)[0]:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
        f"{_figure(value)}</text>"
        for value in steps
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _point(point: ChartPoint, x: float, y: float, line: Line, at: Place) -> str:
    parts = []
    css = f"{line.css} {'faint' if point.faint else ''} {point.lever and 'lever-' + str(escape(point.lever))}"
    if point.low is not None and point.high is not None:
        (_, top), (_, end) = at(point.x, point.high), at(point.x, point.low)
        parts.append(f'<line class="whisker {css}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{end:.1f}"/>')
    parts.append(_shape(MARKS.get(point.lever, "circle"), x, y, css))
    inner = "".join(parts) + (f"<title>{escape(point.title)}</title>" if point.title else "")
    return f'<a href="{escape(point.href)}">{inner}</a>' if point.href else f"<g>{inner}</g>"


def _shape(shape: str, x: float, y: float, css: str) -> str:
    match shape:
        case "square":
            return f'<rect class="mark {css}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        case "diamond":
            return f'<path class="mark {css}" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
        case "bar":
            return f'<rect class="mark {css}" x="{x - 2:.1f}" y="{y - 6:.1f}" width="4" height="12"/>'
        case _:
            return f'<circle class="mark {css}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _in_words(line: Line) -> str:
    shown = line.points[:12]
    values = ", ".join(f"{point.x:g}: {point.y:.4g}" for point in shown)
    more = f", and {len(line.points) - len(shown)} more" if len(line.points) > len(shown) else ""
    return f"{line.name} {values}{more}"
