"""An evaluation in, its charts out, each with a legend and what can be seen in it in words.

Knows how figures are drawn together, no coordinates and no page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deepfake.evaluation.evaluate import (
    FIGURE_NAMES,
    ROBUST,
    TOGETHER,
    Curve,
    Evaluation,
    Level,
    Rows,
    name_strength,
)
from deepfake.evaluation.slices import Part, Trait
from deepfake.metrics import Figure, trace_calibration, trace_precision, trace_roc
from deepfake.reports.charts import (
    Axes,
    Series,
    doubling_axes,
    draw_histogram,
    draw_lines,
    draw_points,
    map_axes,
    project,
    spread,
)
from deepfake.reports.page import show, show_percent, show_with_interval

_POINTS = 1000  # of a cloud: more cannot be told apart


def draw_evaluation(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Scores, curves and maps; of files, but for the maps of faces."""
    level, threshold = evaluation.levels["file"], evaluation.threshold
    rows = level.rows
    charts = [_class_histogram(rows, threshold)]
    charts += [_roc_chart(level, threshold), _precision_chart(level, threshold)]
    charts += [_calibration_chart(level), *_map_charts(evaluation)]
    return charts


def _class_histogram(rows: Rows, threshold: float) -> dict[str, Any]:
    real, fake = rows.p_fake[rows.labels == 0], rows.p_fake[rows.labels == 1]
    middle = [f"median {np.median(part):.2f}" if len(part) else "none" for part in (real, fake)]
    text = f"Reals: {middle[0]}; fakes: {middle[1]}; threshold {threshold:.2f}."
    return {
        "title": "Scores",
        "svg": Markup(draw_histogram(real, fake, threshold, "Scores of reals and fakes", text)),
        "legend": [],
        "caption": f"{text} A good detector has the reals left and the fakes right.",
    }


def _parts_of(level: Level) -> dict[str, Rows]:
    """All rows, and each data set where there are several: the lines of a chart."""
    parts = {TOGETHER: level.rows}
    if len(level.datasets) > 1:
        parts |= {name: level.rows.where(level.rows.datasets == name) for name in level.datasets}
    return dict(list(parts.items())[:6])


def _roc_chart(level: Level, threshold: float) -> dict[str, Any]:
    series = [Series(name, *trace_roc(p.labels, p.p_fake)) for name, p in _parts_of(level).items()]
    series = [line for line in series if len(line.x)]
    rows = level.rows
    point = _operating_point(rows, threshold)
    auc = level.overall.figures["auc"]
    text = f"Area {show_with_interval(auc)}. "
    marks = []
    if point is not None:
        marks = [point]
        text += (
            f"The ring is the threshold: {point[1]:.1%} of fakes found, {point[0]:.1%} of reals "
            "accused."
        )
    axes = Axes("reals accused", "fakes found")
    svg = draw_lines(axes, series, "ROC curve", text, diagonal=True, marks=marks)
    return _line_chart("ROC", svg, series, text)


def _precision_chart(level: Level, threshold: float) -> dict[str, Any]:
    series = [
        Series(name, *trace_precision(p.labels, p.p_fake)) for name, p in _parts_of(level).items()
    ]
    series = [line for line in series if len(line.x)]
    rows = level.rows
    called, fakes = rows.p_fake >= threshold, rows.labels == 1
    marks = []
    share = float(fakes.mean()) if len(fakes) else math.nan
    text = f"Average precision {show(level.overall.figures['ap'].value)}; "
    text += f"{show_percent(share)} of the files are fakes, which is what blind accusing reaches."
    if called.any() and fakes.any():
        marks = [(float(called[fakes].mean()), float(fakes[called].mean()))]
        text += f" At the threshold {marks[0][1]:.1%} of the accusations are right."
    axes = Axes("fakes found", "accusations that are right")
    svg = draw_lines(axes, series, "Precision-recall curve", text, marks=marks)
    return _line_chart("Precision and recall", svg, series, text)


def _calibration_chart(level: Level) -> dict[str, Any]:
    rows = level.rows
    said, seen, numbers = trace_calibration(rows.labels, rows.p_fake)
    figure = level.overall.figures["ece"]
    text = f"Expected calibration error {show_with_interval(figure)}, over {len(numbers)} bins."
    text += " On the dotted line a score of 0.7 would mean 7 fakes in 10."
    svg = draw_lines(
        Axes("score", "share of fakes"),
        [Series("", said, seen)],
        "Calibration",
        text,
        diagonal=True,
        dots=True,
    )
    return {"title": "Calibration", "svg": Markup(svg), "legend": [], "caption": text}


def draw_trait(trait: Trait, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Scores against a trait, and errors by its parts."""
    return [_trait_chart(trait, evaluation), _parts_chart(trait)]


def _trait_chart(trait: Trait, evaluation: Evaluation) -> dict[str, Any]:
    labels = np.array(
        [face.label for scored in evaluation.sets for face in scored.material.faces],
        dtype=np.int64,
    )
    scores = np.concatenate([scored.p_fake for scored in evaluation.sets])
    shown = _sample(len(labels))
    values = np.maximum(trait.values, 1.0)
    text = f"Every face. Median of the {trait.unit}: {np.median(trait.values):,.0f}."
    if len(shown) < len(labels):
        text += f" {len(shown):,} of {len(labels):,} faces are drawn."
    title = f"Score against {trait.title}"
    svg = draw_points(
        doubling_axes(values, trait.unit, "score"),
        *(values[shown], scores[shown], labels[shown]),
        *(title, text),
        threshold=evaluation.threshold,
    )
    return {"title": title, "svg": Markup(svg), "legend": _class_legend(), "caption": text}


ERRORS: dict[str, Callable[[Part], Figure]] = {
    "reals accused": lambda part: part.accused,
    "fakes missed": lambda part: part.missed,
}


def _parts_chart(trait: Trait) -> dict[str, Any]:
    series = []
    for name, figure_of in ERRORS.items():
        found = [(part.middle, figure_of(part)) for part in trait.parts]
        found = [(middle, figure) for middle, figure in found if not figure.reason]
        series.append(
            Series(
                name,
                [max(middle, 1.0) for middle, _ in found],
                [figure.value for _, figure in found],
                [figure.low for _, figure in found],
                [figure.high for _, figure in found],
            )
        )
    text = f"{len(trait.parts)} parts of about equal numbers of faces, each drawn at its median. "
    if len(trait.parts) == 1:
        text = "All faces together, drawn at their median: too few, or too alike, to be parted. "
    text += "Whiskers are 95 % intervals; the table has the numbers."
    highest = max((float(v) for line in series for v in (*line.y, *line.high) if v == v), default=1)
    title = f"Errors by {trait.title}"
    axes = doubling_axes(trait.values, trait.unit, "share of its class", highest)
    return _line_chart(title, draw_lines(axes, series, title, text, dots=True), series, text)


def _map_charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    embeddings = np.concatenate([scored.embedded.vectors for scored in evaluation.sets])
    labels = np.array(
        [face.label for scored in evaluation.sets for face in scored.material.faces],
        dtype=np.int64,
    )
    plane, share = project(embeddings)
    shown = _sample(len(labels))
    text = (
        f"The embeddings of all faces in their plane of greatest variance (PCA), which holds "
        f"{share:.0%} of it."
    )
    maps = [("Map of embeddings", plane[shown], map_axes(plane[shown]), text)]
    near = spread(embeddings[shown])
    if len(near):
        text = "The same faces so that near ones stay near (t-SNE); distances between clouds and "
        text += "sizes of clouds mean nothing."
        maps.append(("Map of neighbourhoods", near, map_axes(near, ("", "")), text))
    charts = []
    for title, points, axes, caption in maps:
        if len(shown) < len(labels):
            caption += f" {len(shown):,} of {len(labels):,} faces are drawn."
        svg = draw_points(axes, points[:, 0], points[:, 1], labels[shown], title, caption)
        legend = _class_legend()
        charts.append({"title": title, "svg": Markup(svg), "legend": legend, "caption": caption})
    return charts


def draw_curve(curve: Curve) -> dict[str, Any]:
    """What a corruption does to the figures."""
    series = []
    for name in ROBUST:
        found = [(point.strength, point.figures[name]) for point in curve.points]
        found = [(strength, figure) for strength, figure in found if not figure.reason]
        series.append(
            Series(
                FIGURE_NAMES[name],
                [strength for strength, _ in found],
                [figure.value for _, figure in found],
                [figure.low for _, figure in found],
                [figure.high for _, figure in found],
            )
        )
    first, last = curve.points[0].figures["auc"], curve.points[-1].figures["auc"]
    strengths = ", ".join(name_strength(point) for point in curve.points[1:])
    text = f"AUC {show(first.value)} falls to " if last.value < first.value else "AUC "
    text += show(last.value)
    if len(curve.points) > 2:
        text += f" at the last strength. {_capital(curve.unit)}: {strengths}."
    else:
        text += f". {_capital(curve.unit)}."
    count = len(curve.points) - 1
    axes = Axes("strength", "figure", (0, count), x_ticks=range(count + 1))
    svg = draw_lines(axes, series, f"Robustness: {curve.title}", text, dots=True)
    return _line_chart(_capital(curve.title), svg, series, text)


def _line_chart(title: str, svg: str, series: Sequence[Series], caption: str) -> dict[str, Any]:
    legend = []
    if len(series) > 1:
        legend = [
            {
                "name": line.name,
                "swatch": Markup(
                    '<svg viewBox="0 0 26 10" aria-hidden="true"><path class="line '
                    f's{number % 6}" d="M0 5H26"/></svg>'
                ),
            }
            for number, line in enumerate(series)
        ]
    return {"title": title, "svg": Markup(svg), "legend": legend, "caption": caption}


def _class_legend() -> list[dict[str, Any]]:
    shapes = {"real": "M13 5h0", "fake": "M11 3l4 4m0-4l-4 4"}
    return [
        {
            "name": word,
            "swatch": Markup(
                f'<svg viewBox="0 0 26 10" aria-hidden="true"><path class="points {word}" '
                f'd="{shape}"/></svg>'
            ),
        }
        for word, shape in shapes.items()
    ]


def _operating_point(rows: Rows, threshold: float) -> tuple[float, float] | None:
    called, fakes = rows.p_fake >= threshold, rows.labels == 1
    if not fakes.any() or fakes.all():
        return None
    return float(called[~fakes].mean()), float(called[fakes].mean())


def _sample(n: int) -> NDArray[np.int64]:
    """Which rows of a cloud are drawn: all, or a fixed random choice in order."""
    if n <= _POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _POINTS, replace=False))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
