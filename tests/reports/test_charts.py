"""Charts are well-formed, put values where they belong, and escape what they are given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from deepfake.reports.charts import (
    Axes,
    Chart,
    Series,
    doubling_axes,
    draw_counts,
    draw_histogram,
    draw_lines,
    draw_points,
    draw_timeline,
    fit_axes,
    map_axes,
)

HOSTILE = "<script>&\"'\x00"


def parse(chart: Chart) -> ElementTree.Element:
    root = ElementTree.fromstring(chart.svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    return root


def found(root: ElementTree.Element, kind: str, css: str) -> list[ElementTree.Element]:
    return [e for e in root.iter(kind) if css in e.attrib.get("class", "").split()]


def test_lines_go_through_their_values() -> None:
    axes = Axes("x & y", "up")
    chart = draw_lines(
        axes, [Series("a", [0, 1], [0, 1])], "Title", "Seen.", diagonal=True, marks=[(0.5, 0.5)]
    )
    root = parse(chart)
    assert root.attrib["aria-label"] == "Title. Seen."
    (line,) = found(root, "path", "line")
    assert line.attrib["d"] == found(root, "path", "guide")[0].attrib["d"] == "M50 230L344 10"
    (mark,) = found(root, "circle", "mark")
    assert (mark.attrib["cx"], mark.attrib["cy"]) == ("197", "120")
    assert "x & y" in [text.text for text in root.iter("text")]


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    x = np.linspace(0, 1, 5000)
    root = parse(draw_lines(Axes("x", "y"), [Series("a", x, x**2)], "t", "d"))
    steps = found(root, "path", "line")[0].attrib["d"].split("L")
    assert len(steps) == 200
    assert (steps[0], steps[-1]) == ("M50 230", "344 10")


def test_a_line_without_values_is_left_out() -> None:
    assert not found(
        parse(draw_lines(Axes("x", "y"), [Series("a", [], [])], "t", "d")), "path", "s0"
    )


def test_histogram_has_reals_above_and_fakes_below() -> None:
    root = parse(draw_histogram([0.01, 0.02, 0.99], [0.97], [0.5, 0.5], "t", "d"))
    (low, high), (fake,) = found(root, "rect", "real"), found(root, "rect", "fake")
    zero = 120.0
    for bar in (low, high):
        assert float(bar.attrib["y"]) + float(bar.attrib["height"]) == pytest.approx(zero, abs=0.2)
    assert float(fake.attrib["y"]) == zero
    assert float(low.attrib["height"]) == pytest.approx(2 * float(high.attrib["height"]), abs=0.2)
    assert found(root, "path", "limit")[0].attrib["d"].startswith("M197 ")


@pytest.mark.parametrize("values", [[], [0.5], [0.0, 1.0]], ids=["none", "one", "ends"])
def test_histograms_of_few_values(values: list[float]) -> None:
    assert len(found(parse(draw_counts(values, [0.2, 0.5], "t", "d")), "rect", "all")) == len(
        values
    )
    parse(draw_histogram(values, [], [2.0], "t", "d"))


def test_points_are_dots_and_crosses() -> None:
    labels = np.array([0, 1, 1])
    root = parse(
        draw_points(Axes("x", "y"), np.array([[0, 0], [0.5, 0.5], [1, 1]]), labels, "t", "d")
    )
    assert found(root, "path", "real")[0].attrib["d"] == "M50 230h0"
    assert found(root, "path", "fake")[0].attrib["d"].count("M") == 2
    assert not found(root, "path", "limit")
    only = parse(
        draw_points(Axes("x", "y"), np.zeros((1, 2)), np.array([0]), "t", "d", limits=[0.4, 0.5])
    )
    assert not found(only, "path", "fake")
    assert found(only, "path", "limit")


def test_timeline_spans_the_clip() -> None:
    root = parse(draw_timeline([Series("", [0, 5, 10], [0.1, 0.9, 0.1])], [0.2, 0.5], "t", "d"))
    assert len(found(root, "circle", "dot")) == 3
    assert found(root, "path", "line")[0].attrib["d"].startswith("M50 ")
    assert (
        len(
            found(
                parse(draw_timeline([Series("", [0.0], [0.1])], [0.2, 0.5], "t", "d")),
                "circle",
                "dot",
            )
        )
        == 1
    )


def numbers(chart: Chart, anchor: str) -> list[float]:
    """The numbers along an axis: those in the middle of their place are along x."""
    ticks = found(parse(chart), "text", "tick")
    return [float(e.text or "") for e in ticks if e.attrib["text-anchor"] == anchor]


@pytest.mark.parametrize(
    ("last", "ticks"),
    [(0.4, [0, 0.1, 0.2, 0.3, 0.4]), (3, [0, 1, 2, 3]), (28.2, [0, 5, 10, 15, 20, 25])],
)
def test_times_are_round(last: float, ticks: list[float]) -> None:
    chart = draw_timeline([Series("", [0, last], [0.1, 0.9])], [0.2, 0.5], "t", "d")
    assert numbers(chart, "middle") == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("top", "ticks"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (17, [0, 5, 10, 15, 20]), (1234, None)]
)
def test_counts_are_whole_and_round(top: int, ticks: list[float] | None) -> None:
    found_ticks = numbers(draw_counts([0.5] * top, [0.5], "t", "d"), "end")
    assert found_ticks == (ticks or [0, 200, 400, 600, 800, 1000, 1200, 1400])


@pytest.mark.parametrize("sizes", [[], [40.0], [33.0, 1000.0], [1.0, 1e6]], ids=str)
def test_doubling_axes_hold_all_values(sizes: list[float]) -> None:
    axes = doubling_axes(sizes, "x", "y")
    assert len(axes.x_ticks) <= 7
    for share, top in ((0.04, 0.1), (0.2, 0.2), (0.3, 0.5), (0.51, 1), (1.0, 1)):
        ticks = doubling_axes(sizes, "x", "y", share).y_ticks
        assert ticks[-1] == pytest.approx(top)
        assert [float(f"{tick:.2g}") for tick in ticks] == pytest.approx(list(ticks))
    for size in sizes:
        assert 50 <= axes.x_px(size) <= 344
    assert axes.x_px(axes.x_range[0]) == 50


def test_what_is_given_is_escaped() -> None:
    svg = draw_lines(Axes(HOSTILE, HOSTILE), [], HOSTILE, HOSTILE).svg
    assert "<script" not in svg
    assert re.search(r'aria-label="&lt;script&gt;&amp;&quot;', svg)


def test_fitted_axes_hold_all_values_between_round_numbers() -> None:
    axes = fit_axes("x", "y", [Series("a", [1, 2, 3], [0.013, 0.02, 0.094])])
    assert list(axes.x_ticks) == [1, 2, 3]
    assert list(axes.y_ticks) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    low = fit_axes("x", "y", [Series("a", [1], [-3.0])])
    assert low.y_range[0] <= -3 < low.y_range[1]
    assert fit_axes("x", "y", []).x_range[0] < fit_axes("x", "y", []).x_range[1]


def test_an_empty_map_has_axes() -> None:
    for points in (np.zeros((0, 2)), np.zeros((3, 2))):
        axes = map_axes(points)
        assert axes.x_range[0] < axes.x_range[1]
