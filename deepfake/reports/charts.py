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
from collections.abc import Iterable, Mapping, Sequence
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
        mirrored: Numbers below 0 are shown without their sign.
    """

    x_label: str
    y_label: str
    x_range: tuple[float, float] = (0, 1)
    y_range: tuple[float, float] = (0, 1)
    x_ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
    y_ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)
    log_x: bool = False
    height: int = HEIGHT
    mirrored: bool = False

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


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as a page shows it.

    Args:
        title: What it shows.
        svg: The drawing; screen readers read out title and caption.
        caption: What can be seen in it, in words.
        legend: CSS class, shape and name of each of its lines or kinds of points.
    """

    title: str
    svg: str
    caption: str
    legend: Sequence[tuple[str, str, str]] = ()


def draw_lines(
    axes: Axes,
    series: Sequence[Series],
    title: str,
    caption: str,
    *,
    diagonal: bool = False,
    marks: Sequence[tuple[float, float]] = (),
    dots: bool = False,
    limits: Sequence[float] = (),
) -> Chart:
    """Lines through values, each with its own dash.

    Args:
        axes: The frame.
        series: The lines.
        title: What it shows.
        caption: What can be seen in it, in words.
        diagonal: Draw the line of chance, or of perfect calibration.
        marks: Points to ring.
        dots: Also draw the values themselves.
        limits: Where lines run across.
    """
    drawing = _Drawing(axes)
    if diagonal:
        drawing.path("guide", zip(axes.x_range, axes.y_range, strict=True))
    drawing.across(limits)
    for number, line in enumerate(series):
        points = list(zip(map(float, line.x), map(float, line.y), strict=True))
        drawing.path(f"line s{number % 6}", points if dots else _thin(points))
        for x, low, high in zip(line.x, line.low, line.high, strict=False):
            if math.isfinite(low) and math.isfinite(high):
                # Beside each other, not on top.
                shift = 3 * (number - (len(series) - 1) / 2)
                drawing.path(f"whisker s{number % 6}", [(x, low), (x, high)], shift)
        if dots:
            drawing.circles(f"dot s{number % 6}", points, 3.5)
    drawing.circles("mark", marks, 5)
    legend = [(f"line s{number % 6}", "M0 5H26", line.name) for number, line in enumerate(series)]
    return drawing.finish(title, caption, legend if len(series) > 1 else ())


def draw_histogram(
    real: Values, fake: Values, limits: Sequence[float], title: str, caption: str
) -> Chart:
    """Scores of reals above the line and of fakes below it, as shares of their class."""
    bars = {
        word: sign * _count(values) / max(len(values), 1)
        for word, sign, values in (("real", 1, real), ("fake", -1, fake))
    }
    drawing = _draw_bars(bars, "share of its class", 0.005, limits)
    drawing.path("axis", [(0, 0), (1, 0)])
    inside = WIDTH - _RIGHT - 4
    drawing.text("tag", inside, _TOP + 12, "real", "end")
    drawing.text("tag", inside, drawing.axes.bottom - 6, "fake", "end")
    return drawing.finish(title, caption)


def draw_counts(values: Values, limits: Sequence[float], title: str, caption: str) -> Chart:
    """How many files have which score."""
    # There are no half files.
    return _draw_bars({"all": _count(values)}, "files", 1, limits).finish(title, caption)


def _count(values: Values) -> NDArray[np.int64]:
    return np.histogram(np.asarray(values), _BINS, (0, 1))[0]


def _draw_bars(
    bars: Mapping[str, NDArray[Any]], y_label: str, least_step: float, limits: Sequence[float]
) -> _Drawing:
    """Bars over bins of the score, from 0 up; negative ones hang."""
    top = max(least_step, *(float(np.abs(heights).max()) for heights in bars.values()))
    step = max(_round_step(top * len(bars)), least_step)
    last = math.ceil(top / step - 1e-9)
    first = -last if len(bars) > 1 else 0
    ticks = [step * number for number in range(first, last + 1)]
    y_range = (ticks[0], ticks[-1])
    axes = Axes(
        "score (0 real, 1 fake)", y_label, y_range=y_range, y_ticks=ticks, mirrored=first < 0
    )
    drawing = _Drawing(axes)
    for kind, heights in bars.items():
        for number in np.flatnonzero(heights):
            drawing.bar(f"bar {kind}", number / _BINS, (number + 1) / _BINS, heights[number])
    for x in dict.fromkeys(min(max(limit, 0.0), 1.0) for limit in limits):
        drawing.path("limit", [(x, y_range[1]), (x, y_range[0])])
    return drawing


def draw_points(
    axes: Axes,
    points: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    title: str,
    caption: str,
    *,
    limits: Sequence[float] = (),
) -> Chart:
    """A point per row of ``(N, 2)``: dots for reals, crosses for fakes."""
    drawing = _Drawing(axes)
    shapes = {"real": "h0", "fake": "m-2-2l4 4m0-4l-4 4"}
    for label, (word, shape) in enumerate(shapes.items()):
        steps = [f"M{drawing.place(x, y)}{shape}" for x, y in points[labels == label].tolist()]
        if steps:
            drawing.parts.append(f'<path class="points {word}" d="{"".join(steps)}"/>')
    drawing.across(limits)
    legend = [(f"points {word}", f"M13 5{shape}", word) for word, shape in shapes.items()]
    return drawing.finish(title, caption, legend)


def draw_timeline(
    lines: Sequence[Series],
    limits: Sequence[float],
    title: str,
    caption: str,
    marks: Sequence[tuple[float, float]] = (),
) -> Chart:
    """Scores of a clip over its time in seconds, with the limits, and rings around points."""
    axes = time_axes(max((float(time_s) for line in lines for time_s in line.x), default=0.0))
    return draw_lines(axes, lines, title, caption, marks=marks, dots=True, limits=limits)


def time_axes(last_s: float) -> Axes:
    """Axes for scores over time, from 0 to this many seconds."""
    last = last_s or 1.0
    return Axes(
        "time in seconds",
        "score",
        x_range=(0, last),
        x_ticks=np.arange(0, last * (1 + 1e-9), _round_step(last)).tolist(),
        y_ticks=(0, 0.5, 1),
        height=_LOW_HEIGHT,
    )


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


class _Drawing:
    """An SVG in the making: whatever is put on it is placed by its axes."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.parts: list[str] = []
        bottom, right = axes.bottom, WIDTH - _RIGHT
        for value in axes.x_ticks:
            self.path("grid", [(value, axes.y_range[1]), (value, axes.y_range[0])])
            self.text("tick", axes.x_px(value), bottom + 15, f"{value:g}", "middle")
        for value in axes.y_ticks:
            self.path("grid", [(axes.x_range[0], value), (axes.x_range[1], value)])
            shown = f"{abs(value) if axes.mirrored else value:.4g}"
            self.text("tick", _LEFT - 5, axes.y_px(value) + 3.5, shown, "end")
        self.parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        self.text("label", (_LEFT + right) / 2, axes.height - 6, axes.x_label, "middle")
        turned = f'transform="translate(12 {_n((_TOP + bottom) / 2)}) rotate(-90)"'
        self.text("label", 0, 0, axes.y_label, "middle", turned)

    def place(self, x: float, y: float, shift_px: float = 0) -> str:
        """Where a value is."""
        return f"{_n(self.axes.x_px(float(x)) + shift_px)} {_n(self.axes.y_px(float(y)))}"

    def path(self, css: str, points: Iterable[tuple[float, float]], shift_px: float = 0) -> None:
        """A line through values; without values none."""
        steps = "L".join(self.place(x, y, shift_px) for x, y in points)
        if steps:
            self.parts.append(f'<path class="{css}" d="M{steps}"/>')

    def across(self, limits: Sequence[float]) -> None:
        """Limits on the upward axis; equal ones are one line."""
        for limit in dict.fromkeys(limits):
            self.path("limit", [(x, limit) for x in self.axes.x_range])

    def circles(self, css: str, points: Iterable[tuple[float, float]], radius: float) -> None:
        """A circle around each value."""
        for x, y in points:
            at = f'cx="{_n(self.axes.x_px(x))}" cy="{_n(self.axes.y_px(y))}"'
            self.parts.append(f'<circle class="{css}" {at} r="{radius}"/>')

    def bar(self, css: str, low: float, high: float, value: float) -> None:
        """A bar from 0 to a value, with a gap beside it."""
        left, right = self.axes.x_px(low) + 0.75, self.axes.x_px(high) - 0.75
        top, bottom = sorted((self.axes.y_px(0), self.axes.y_px(float(value))))
        size = f'width="{_n(right - left)}" height="{_n(bottom - top)}"'
        self.parts.append(f'<rect class="{css}" x="{_n(left)}" y="{_n(top)}" {size}/>')

    def text(self, css: str, x: float, y: float, text: str, anchor: str, more: str = "") -> None:
        """Words at a place in pixels."""
        at = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" {more}'.rstrip()
        self.parts.append(f'<text class="{css}" {at}>{escape(text)}</text>')

    def finish(
        self, title: str, caption: str, legend: Sequence[tuple[str, str, str]] = ()
    ) -> Chart:
        """The whole of it."""
        words = escape(f"{title}. {caption}", quote=True)
        head = f'<svg viewBox="0 0 {WIDTH} {self.axes.height}" role="img" aria-label="{words}">'
        return Chart(title, f"{head}{''.join(self.parts)}</svg>", caption, legend)


def _round_step(top: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that reaches the top in 3 to 6 steps or so."""
    power = 10.0 ** math.floor(math.log10(top / 3))
    return power * max(factor for factor in (1, 2, 5) if power * factor <= top / 3)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _MAX_POINTS:
        return points
    kept = np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int))
    return [points[place] for place in kept]


def _n(value: float) -> str:
    """A number with one decimal, which is finer than a screen."""
    return f"{value:.1f}".removesuffix(".0")
