"""Numbers in, SVG text out; pure functions that draw every chart of the package.

Colours are CSS classes that the page defines, so that a chart follows light and dark. Reals are
dots and fakes are crosses, so that a chart can be read without colours. Knows no HTML page and no
model.

Why not matplotlib: its SVG was tried for the same three charts. A timeline of 20 frames, a cloud of
1,000 faces and a ROC curve took 10, 117 and 15 kB instead of 2, 22 and 4, and 20 to 40 ms instead
of 0.2 to 2; a page of 200 videos would grow by 1.5 MB and wait for 4 s. Every colour is written
into every element, where no style sheet reaches it, and the names of parts repeat from one chart of
a page to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]] | Sequence[float]

WIDTH, HEIGHT = 360, 270
_LOW_HEIGHT = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 10, 40
_BINS = 20
_MAX_POINTS = 200  # of a curve: more cannot be told apart


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Args:
        name: For the legend.
        x: Horizontal values.
        y: Vertical values.
        low: Lower ends of the intervals of y, where there are any.
        high: Their upper ends.
    """

    name: str
    x: Values
    y: Values
    low: Values = ()
    high: Values = ()


@dataclass(frozen=True, slots=True)
class Axes:
    """The frame of a chart.

    Args:
        x_label: What runs to the right.
        y_label: What runs up.
        x_range: Values at the left and right end.
        y_range: Values at the lower and upper end.
        x_ticks: Values with a number.
        y_ticks: The same, upwards.
        log_x: Equal factors instead of equal steps to the right.
        height: Of the whole chart; its width is always ``WIDTH``.
    """

    x_label: str
    y_label: str
    x_range: tuple[float, float] = (0, 1)
    y_range: tuple[float, float] = (0, 1)
    x_ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
    y_ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
    log_x: bool = False
    height: int = HEIGHT

    @property
    def bottom(self) -> int:
        """Place of the lower end from the top."""
        return self.height - _BOTTOM

    def x_px(self, value: float) -> float:
        """Place of a value from the left."""
        low, high = self.x_range
        if self.log_x:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y_px(self, value: float) -> float:
        """Place of a value from the top."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)


def draw_lines(
    axes: Axes,
    series: Sequence[Series],
    title: str,
    description: str,
    *,
    diagonal: bool = False,
    marks: Sequence[tuple[float, float]] = (),
    dots: bool = False,
) -> str:
    """Lines through values, each with its own dash.

    Args:
        axes: The frame.
        series: The lines.
        title: What it shows, read out by screen readers.
        description: What can be seen in it, in words.
        diagonal: Draw the line of chance, or of perfect calibration.
        marks: Points to ring: where the threshold stands.
        dots: Also draw the values themselves.
    """
    parts = _frame(axes)
    if diagonal:
        (x0, x1), (y0, y1) = axes.x_range, axes.y_range
        parts.append(
            f'<path class="guide" d="{_path([(x0, y0), (x1, y1)], axes)}"/>',
        )
    for number, line in enumerate(series):
        points = _thin(list(zip(map(float, line.x), map(float, line.y), strict=True)))
        if points:
            parts.append(f'<path class="line s{number % 6}" d="{_path(points, axes)}"/>')
        for x, low, high in zip(line.x, line.low, line.high, strict=False):
            if math.isfinite(low) and math.isfinite(high):
                # Beside each other, not on top.
                at = _n(axes.x_px(float(x)) + 3 * (number - (len(series) - 1) / 2))
                ends = _n(axes.y_px(float(low))), _n(axes.y_px(float(high)))
                parts.append(f'<path class="whisker s{number % 6}" d="M{at} {ends[0]}V{ends[1]}"/>')
        if dots:
            parts += [
                f'<circle class="dot s{number % 6}" cx="{_n(axes.x_px(x))}" '
                f'cy="{_n(axes.y_px(y))}" r="3.5"/>'
                for x, y in points
            ]
    parts += _rings(axes, marks)
    return _svg(parts, axes, title, description)


def draw_histogram(
    real: Values, fake: Values, threshold: float, title: str, description: str
) -> str:
    """Scores of reals above the line and of fakes below it, as shares of their class."""
    edges = np.linspace(0, 1, _BINS + 1)
    shares = [
        np.histogram(np.asarray(values), edges)[0] / max(len(values), 1) for values in (real, fake)
    ]
    top = max(float(max(share.max() for share in shares)), 0.01)
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1) if top <= 2 * s or s == 1)
    limit = step * math.ceil(top / step - 1e-9)
    ticks = [k * step for k in range(-round(limit / step), round(limit / step) + 1)]
    axes = Axes(
        "score (0 real, 1 fake)", "share of its class", y_range=(-limit, limit), y_ticks=ticks
    )
    parts = _frame(axes, absolute=True)
    zero = axes.y_px(0)
    parts += _bars(axes, edges, shares[0], "real") + _bars(axes, edges, -shares[1], "fake")
    parts.append(f'<path class="axis" d="M{_LEFT} {_n(zero)}H{WIDTH - _RIGHT}"/>')
    parts.append(_threshold_line(axes, threshold))
    inside = WIDTH - _RIGHT - 4
    parts.append(f'<text class="tag" x="{inside}" y="{_TOP + 12}" text-anchor="end">real</text>')
    parts.append(
        f'<text class="tag" x="{inside}" y="{axes.bottom - 6}" text-anchor="end">fake</text>'
    )
    return _svg(parts, axes, title, description)


def draw_counts(values: Values, threshold: float, title: str, description: str) -> str:
    """How many files have which score."""
    counts, edges = np.histogram(np.asarray(values), np.linspace(0, 1, _BINS + 1))
    top = max(float(counts.max()), 1.0)
    step = max(_round_step(top), 1.0)  # there are no half files
    limit = step * math.ceil(top / step)
    ticks = np.arange(0, limit + step / 2, step).tolist()
    axes = Axes("score (0 real, 1 fake)", "files", y_range=(0, limit), y_ticks=ticks)
    parts = [*_frame(axes), *_bars(axes, edges, counts, "all"), _threshold_line(axes, threshold)]
    return _svg(parts, axes, title, description)


def draw_points(
    axes: Axes,
    x: Values,
    y: Values,
    labels: NDArray[np.integer[Any]],
    title: str,
    description: str,
    *,
    threshold: float | None = None,
) -> str:
    """A point per row: dots for reals, crosses for fakes."""
    parts = _frame(axes)
    for word, label in (("real", 0), ("fake", 1)):
        places = [
            (axes.x_px(float(a)), axes.y_px(float(b)))
            for a, b, y_true in zip(x, y, labels, strict=True)
            if y_true == label
        ]
        shape = "h0" if label == 0 else "m-2-2l4 4m0-4l-4 4"
        steps = "".join(f"M{_n(a)} {_n(b)}{shape}" for a, b in places)
        if steps:
            parts.append(f'<path class="points {word}" d="{steps}"/>')
    if threshold is not None:
        parts.append(_threshold_across(axes, threshold))
    return _svg(parts, axes, title, description)


def draw_timeline(
    times_s: Values,
    scores: Values,
    threshold: float,
    title: str,
    description: str,
    marks: Sequence[tuple[float, float]] = (),
) -> str:
    """The score of a clip over its time, with the threshold, and rings around some points."""
    last = max([float(value) for value in times_s], default=0.0) or 1.0
    step = _round_step(last)
    ticks = np.arange(0, last * (1 + 1e-9), step).tolist()
    axes = Axes(
        "time in seconds",
        "score",
        x_range=(0, last),
        x_ticks=ticks,
        y_ticks=(0, 0.5, 1),
        height=_LOW_HEIGHT,
    )
    points = list(zip(map(float, times_s), map(float, scores), strict=True))
    parts = _frame(axes)
    parts.append(_threshold_across(axes, threshold))
    if len(points) > 1:
        parts.append(f'<path class="line s0" d="{_path(points, axes)}"/>')
    parts += [
        f'<circle class="dot s0" cx="{_n(axes.x_px(a))}" cy="{_n(axes.y_px(b))}" r="3"/>'
        for a, b in points
    ]
    parts += _rings(axes, marks)
    return _svg(parts, axes, title, description)


def doubling_axes(values: Values, x_label: str, y_label: str, y_top: float = 1.0) -> Axes:
    """Axes for something against values of 1 and more, in doublings; what is smaller counts as 1.

    Args:
        values: What must fit in.
        x_label: What they are.
        y_label: What runs up.
        y_top: Highest share of it that must fit in.
    """
    low = max(min((float(value) for value in values), default=1.0), 1.0)
    high = max(max((float(value) for value in values), default=2.0), low * 1.01)
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    powers = range(first, last + 1, math.ceil((last + 1 - first) / 7))
    tops = {0.1: 5, 0.2: 4, 0.5: 5, 1.0: 4}  # with as many steps that are round
    top = next(limit for limit in tops if y_top <= limit or limit == 1)
    return Axes(
        f"{x_label} (doublings)",
        y_label,
        x_range=(float(2**first), float(2**last)),
        y_range=(0, top),
        x_ticks=[float(2**power) for power in powers],
        y_ticks=[top * step / tops[top] for step in range(tops[top] + 1)],
        log_x=True,
    )


def map_axes(
    points: NDArray[np.floating[Any]],
    labels: tuple[str, str] = ("first component", "second component"),
) -> Axes:
    """Axes without numbers around a cloud of points, ``(N, 2)``."""
    ranges = []
    for column in points.T if len(points) else np.zeros((2, 1)):
        margin = 0.05 * float(np.ptp(column)) or 0.5
        ranges.append((float(column.min()) - margin, float(column.max()) + margin))
    return Axes(*labels, ranges[0], ranges[1], (), ())


def fit_axes(x_label: str, y_label: str, series: Sequence[Series]) -> Axes:
    """Axes with round numbers around all values of lines."""
    x_ticks = _round_ticks([float(value) for line in series for value in line.x], whole=True)
    y_ticks = _round_ticks([float(value) for line in series for value in line.y])
    x_range, y_range = ((ticks[0], ticks[-1]) for ticks in (x_ticks, y_ticks))
    return Axes(x_label, y_label, x_range, y_range, x_ticks, y_ticks)


def _round_ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = _round_step(high - low or abs(high) or 1.0)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _frame(axes: Axes, absolute: bool = False) -> list[str]:
    """Grid, numbers and labels."""
    bottom, right = axes.bottom, WIDTH - _RIGHT
    parts = []
    for value in axes.x_ticks:
        x = _n(axes.x_px(value))
        parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>'
        )
    for value in axes.y_ticks:
        y = axes.y_px(value)
        shown = f"{abs(value) if absolute else value:.4g}"
        parts.append(f'<path class="grid" d="M{_LEFT} {_n(y)}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 5}" y="{_n(y + 3.5)}" text-anchor="end">{shown}</text>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="{_n(middle_x)}" y="{axes.height - 6}" text-anchor="middle">'
        f"{escape(axes.x_label)}</text>"
    )
    parts.append(
        f'<text class="label" transform="translate(12 {_n(middle_y)}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes.y_label)}</text>'
    )
    return parts


def _round_step(top: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that reaches the top in 3 to 6 steps or so."""
    power = 10.0 ** math.floor(math.log10(top / 3))
    return power * max(factor for factor in (1, 2, 5) if power * factor <= top / 3)


def _bars(
    axes: Axes, edges: NDArray[np.floating[Any]], heights: NDArray[Any], kind: str
) -> list[str]:
    """A bar from 0 to each height; a negative one hangs."""
    zero = axes.y_px(0)
    bars = []
    for low, high, value in zip(edges[:-1], edges[1:], heights, strict=True):
        if value:
            end = axes.y_px(float(value))
            left, right = axes.x_px(float(low)) + 0.75, axes.x_px(float(high)) - 0.75
            bars.append(
                f'<rect class="bar {kind}" x="{_n(left)}" y="{_n(min(zero, end))}" '
                f'width="{_n(right - left)}" height="{_n(abs(end - zero))}"/>'
            )
    return bars


def _rings(axes: Axes, marks: Sequence[tuple[float, float]]) -> list[str]:
    return [
        f'<circle class="mark" cx="{_n(axes.x_px(x))}" cy="{_n(axes.y_px(y))}" r="5"/>'
        for x, y in marks
    ]


def _threshold_line(axes: Axes, threshold: float) -> str:
    x = axes.x_px(min(max(threshold, 0), 1))
    return f'<path class="threshold" d="M{_n(x)} {_TOP}V{axes.bottom}"/>'


def _threshold_across(axes: Axes, threshold: float) -> str:
    y = axes.y_px(threshold)
    return f'<path class="threshold" d="M{_LEFT} {_n(y)}H{WIDTH - _RIGHT}"/>'


def _svg(parts: Sequence[str], axes: Axes, title: str, description: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {axes.height}" role="img" '
        f'aria-label="{escape(f"{title}. {description}", quote=True)}">' + "".join(parts) + "</svg>"
    )


def _path(points: Sequence[tuple[float, float]], axes: Axes) -> str:
    return "M" + "L".join(f"{_n(axes.x_px(x))} {_n(axes.y_px(y))}" for x, y in points)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _MAX_POINTS:
        return points
    kept = np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int))
    return [points[place] for place in kept]


def _n(value: float) -> str:
    """A number with one decimal, which is finer than a screen."""
    return f"{value:.1f}".removesuffix(".0")
