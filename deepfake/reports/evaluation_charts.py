"""An evaluation in, its charts out, each with a legend and what can be seen in it in words.

Knows which values are drawn together, no place on a chart and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deepfake.evaluation.evaluate import (
    OVERALL,
    ROBUSTNESS_METRICS,
    Evaluation,
    LevelMetrics,
    RobustnessCurve,
    ScoredRows,
)
from deepfake.evaluation.slices import Slicing
from deepfake.metrics import (
    CALIBRATION_BINS,
    METRICS,
    Estimate,
    Floats,
    Labels,
    Scores,
    calibration_bin,
    has_both_classes,
)
from deepfake.reports.charts import (
    Axes,
    Series,
    doubling_axes,
    draw_histogram,
    draw_lines,
    draw_points,
    map_axes,
)
from deepfake.reports.evaluation_text import name_severity
from deepfake.reports.page import show, show_percent, show_with_interval

ERROR_RATES = {
    "false_positive_rate": "false positive rate",
    "false_negative_rate": "false negative rate",
}
"""Titles of the metrics of a slice."""
MIN_ROWS_OF_TSNE = 10
_POINTS = 1000  # of a cloud: more cannot be told apart


def draw_evaluation(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Scores, curves and maps; of files, but for the maps of faces."""
    level, threshold = evaluation.levels["file"], evaluation.threshold
    return [
        _class_histogram(level.rows, threshold),
        _roc_chart(level, threshold),
        _precision_chart(level, threshold),
        _calibration_chart(level),
        *_map_charts(evaluation),
    ]


def _class_histogram(rows: ScoredRows, threshold: float) -> dict[str, Any]:
    real, fake = rows.p_fake[rows.labels == 0], rows.p_fake[rows.labels == 1]
    middle = [f"median {np.median(part):.2f}" if len(part) else "none" for part in (real, fake)]
    text = f"Reals: {middle[0]}; fakes: {middle[1]}; threshold {threshold:.2f}."
    svg = draw_histogram(real, fake, threshold, "Scores of reals and fakes", text)
    text += " A good detector has the reals left and the fakes right."
    return _line_chart("Scores", svg, [], text)


def _trace(
    level: LevelMetrics, trace: Callable[[Labels, Scores], tuple[Scores, Scores]]
) -> list[Series]:
    """A line for all rows, and for each data set where there are several."""
    rows, parts = level.rows, {OVERALL: level.rows}
    if len(level.datasets) > 1:
        parts |= {name: rows.where(rows.datasets == name) for name in level.datasets}
    series = [
        Series(name, *trace(part.labels, part.p_fake)) for name, part in list(parts.items())[:6]
    ]
    return [line for line in series if len(line.x)]


def trace_roc(y_true: Labels, y_score: Scores) -> tuple[Scores, Scores]:
    """False and true positive rate as the threshold falls; empty with one class."""
    from sklearn.metrics import roc_curve

    if not has_both_classes(y_true):
        return np.zeros(0), np.zeros(0)
    fpr, tpr, _ = roc_curve(y_true, y_score)
    return fpr, tpr


def trace_precision(y_true: Labels, y_score: Scores) -> tuple[Scores, Scores]:
    """Recall and precision as the threshold falls; empty with one class."""
    from sklearn.metrics import precision_recall_curve

    if not has_both_classes(y_true):
        return np.zeros(0), np.zeros(0)
    precision, recall, _ = precision_recall_curve(y_true, y_score, drop_intermediate=True)
    # Its last point is no threshold: the curve begins where the first file is predicted fake.
    return recall[-2::-1], precision[-2::-1]


def trace_calibration(y_true: Labels, p_fake: Scores) -> tuple[Floats, Floats, Floats]:
    """Mean score, share of fakes and number of rows of each bin of the ECE that is not empty."""
    bins = calibration_bin(p_fake)
    rows, scores, fakes = (
        np.bincount(bins, weights, minlength=CALIBRATION_BINS).astype(np.float64)
        for weights in (np.ones(len(y_true)), p_fake, y_true)
    )
    there = rows > 0
    return scores[there] / rows[there], fakes[there] / rows[there], rows[there]


def _roc_chart(level: LevelMetrics, threshold: float) -> dict[str, Any]:
    series, rows, marks = _trace(level, trace_roc), level.rows, list[tuple[float, float]]()
    text = f"Area {show_with_interval(level.overall.metrics['auc'])}. "
    predicted, fakes = rows.p_fake >= threshold, rows.labels == 1
    if has_both_classes(rows.labels):
        fpr, tpr = float(predicted[~fakes].mean()), float(predicted[fakes].mean())
        marks = [(fpr, tpr)]
        text += (
            f"The ring is the threshold: true positive rate {tpr:.1%}, false positive rate "
            f"{fpr:.1%}."
        )
    axes = Axes("false positive rate", "true positive rate")
    svg = draw_lines(axes, series, "ROC curve", text, diagonal=True, marks=marks)
    return _line_chart("ROC", svg, series, text)


def _precision_chart(level: LevelMetrics, threshold: float) -> dict[str, Any]:
    series, rows, marks = _trace(level, trace_precision), level.rows, list[tuple[float, float]]()
    predicted, fakes = rows.p_fake >= threshold, rows.labels == 1
    share = float(fakes.mean()) if len(fakes) else float("nan")
    text = (
        f"Average precision {show(level.overall.metrics['ap'].value)}; {show_percent(share)} of "
        "the files are fakes, which is the precision of chance."
    )
    if predicted.any() and fakes.any():
        recall, precision = float(predicted[fakes].mean()), float(fakes[predicted].mean())
        marks = [(recall, precision)]
        text += f" At the threshold the precision is {precision:.1%}."
    svg = draw_lines(
        Axes("recall", "precision"), series, "Precision-recall curve", text, marks=marks
    )
    return _line_chart("Precision and recall", svg, series, text)


def _calibration_chart(level: LevelMetrics) -> dict[str, Any]:
    scores, shares, numbers = trace_calibration(level.rows.labels, level.rows.p_fake)
    ece = show_with_interval(level.overall.metrics["ece"])
    text = (
        f"Expected calibration error {ece}, over {len(numbers)} bins. On the dotted line a score "
        "of 0.7 would mean 7 fakes in 10."
    )
    series = [Series("", scores, shares)]
    axes = Axes("score", "share of fakes")
    svg = draw_lines(axes, series, "Calibration", text, diagonal=True, dots=True)
    return _line_chart("Calibration", svg, series, text)


def draw_slicing(slicing: Slicing, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Scores against the values, and error rates by slice."""
    return [_value_chart(slicing, evaluation), _slice_chart(slicing)]


def _value_chart(slicing: Slicing, evaluation: Evaluation) -> dict[str, Any]:
    labels = np.concatenate([predictions.dataset.labels for predictions in evaluation.sets])
    scores = np.concatenate([predictions.p_fake for predictions in evaluation.sets])
    shown = _sample(len(labels))
    values = np.maximum(slicing.values, 1.0)
    text = f"Every face. Median of the {slicing.unit}: {np.median(slicing.values):,.0f}."
    title = f"Score against {slicing.title}"
    text += _describe_sample(shown, labels)
    axes = doubling_axes(values, slicing.unit, "score")
    x, y = values[shown], scores[shown]
    svg = draw_points(axes, x, y, labels[shown], title, text, threshold=evaluation.threshold)
    return {"title": title, "svg": Markup(svg), "legend": _class_legend(), "caption": text}


def _line_of(name: str, points: Sequence[tuple[float, Estimate]]) -> Series:
    """A line with whiskers; what does not exist is left out."""
    there = [(x, estimate) for x, estimate in points if not estimate.reason]
    return Series(
        name,
        x=[x for x, _ in there],
        y=[estimate.value for _, estimate in there],
        low=[estimate.low for _, estimate in there],
        high=[estimate.high for _, estimate in there],
    )


def _slice_chart(slicing: Slicing) -> dict[str, Any]:
    series = [
        _line_of(title, [(max(p.median, 1.0), p.error_rates[name]) for p in slicing.slices])
        for name, title in ERROR_RATES.items()
    ]
    text = f"{len(slicing.slices)} slices of about equal numbers of faces, drawn at their medians. "
    if len(slicing.slices) == 1:
        text = "All faces together, drawn at their median: too few, or too alike, to be sliced. "
    text += "Whiskers are 95 % intervals; the table has the values."
    highest = max((float(v) for line in series for v in (*line.y, *line.high) if v == v), default=1)
    title = f"Errors by {slicing.title}"
    axes = doubling_axes(slicing.values, slicing.unit, "share of its class", highest)
    return _line_chart(title, draw_lines(axes, series, title, text, dots=True), series, text)


def _map_charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    embeddings = np.concatenate([one.embeddings.vectors for one in evaluation.sets])
    labels = np.concatenate([one.dataset.labels for one in evaluation.sets])
    plane, share = project_by_pca(embeddings)
    shown = _sample(len(labels))
    text = (
        f"The embeddings of all faces in their plane of greatest variance, which holds {share:.0%} "
        "of it."
    )
    maps = [("PCA of the embeddings", plane[shown], map_axes(plane[shown]), text)]
    near = place_by_tsne(embeddings[shown])
    if len(near):
        text = (
            "The same faces so that near ones stay near; distances between clouds and sizes of "
            "clouds mean nothing."
        )
        maps.append(("t-SNE of the embeddings", near, map_axes(near, ("", "")), text))
    charts = []
    for title, points, axes, caption in maps:
        caption += _describe_sample(shown, labels)
        svg = draw_points(axes, points[:, 0], points[:, 1], labels[shown], title, caption)
        legend = _class_legend()
        charts.append({"title": title, "svg": Markup(svg), "legend": legend, "caption": caption})
    return charts


def project_by_pca(embeddings: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], float]:
    """The plane of greatest variance (PCA).

    Returns:
        ``(N, 2)`` coordinates, and the share of the variance that lies in the plane.
    """
    centred = np.asarray(embeddings, dtype=np.float64)
    if not len(centred):
        return np.zeros((0, 2)), 0.0
    centred = centred - centred.mean(axis=0)
    # Of the D x D matrix: rows may be many.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    plane = np.zeros((len(centred), 2))
    shown = centred @ vectors[:, ::-1][:, :2]
    plane[:, : shown.shape[1]] = shown
    total = float(values.sum())
    return plane, float(values[-2:].sum() / total) if total > 0 else 0.0


def place_by_tsne(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """A plane in which near rows stay near, whatever becomes of far ones (t-SNE).

    Returns:
        ``(N, 2)`` coordinates without a unit; of fewer than ``MIN_ROWS_OF_TSNE`` rows none.

    References:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    if len(embeddings) < MIN_ROWS_OF_TSNE:
        return np.zeros((0, 2))
    from sklearn.manifold import TSNE

    # Up to the 30 neighbours that are usual; a cloud that is smaller has fewer.
    # Half of the usual 1000 steps: the rest takes as long and keeps no more neighbours together.
    tsne = TSNE(
        perplexity=min(30.0, (len(embeddings) - 1) / 3), max_iter=500, random_state=0, n_jobs=1
    )
    return np.asarray(tsne.fit_transform(np.asarray(embeddings)), dtype=np.float64)


def draw_robustness(curve: RobustnessCurve) -> dict[str, Any]:
    """What a corruption does to the metrics."""
    series = [
        _line_of(METRICS[name].title, [(p.severity, p.metrics[name]) for p in curve.points])
        for name in ROBUSTNESS_METRICS
    ]
    first, last = (curve.points[place].metrics["auc"].value for place in (0, -1))
    severities = ", ".join(name_severity(point) for point in curve.points[1:])
    text = f"AUC {show(first)} falls to " if last < first else "AUC "
    text += show(last)
    unit = _capital(curve.unit)
    count = len(curve.points) - 1
    text += f" at the last severity. {unit}: {severities}." if count > 1 else f". {unit}."
    axes = Axes("severity", "metric", (0, count), x_ticks=range(count + 1))
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


def _sample(n: int) -> NDArray[np.int64]:
    """Which rows of a cloud are drawn: all, or a fixed random choice in order."""
    if n <= _POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _POINTS, replace=False))


def _describe_sample(shown: NDArray[np.int64], labels: Labels) -> str:
    if len(shown) == len(labels):
        return ""
    return f" {len(shown):,} of {len(labels):,} faces are drawn."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
