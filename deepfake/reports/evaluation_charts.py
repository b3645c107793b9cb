"""An evaluation in, its charts out, each with a legend and what can be seen in it in words.

Knows which values are drawn together, no place on a chart and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.evaluation.evaluate import (
    OVERALL,
    ROBUSTNESS_METRICS,
    Evaluation,
    LevelMetrics,
    RobustnessCurve,
    ScoredRows,
)
from deepfake.evaluation.predictions import choose_drawn
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
from deepfake.records import Limits, Verdict
from deepfake.reports.charts import (
    Axes,
    Chart,
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
_MOST_SETS = 5  # of data sets beside all together, in one chart: colours are not many


def draw_evaluation(evaluation: Evaluation) -> list[Chart]:
    """Scores, curves and maps; of files, but for the maps of faces."""
    level, limits = evaluation.levels["file"], evaluation.limits
    return [
        _class_histogram(level.rows, limits),
        _roc_chart(level, limits),
        _precision_chart(level, limits),
        _calibration_chart(level),
        *_map_charts(evaluation),
    ]


def _class_histogram(rows: ScoredRows, limits: Limits) -> Chart:
    real, fake = rows.p_fake[rows.labels == 0], rows.p_fake[rows.labels == 1]
    middle = [f"median {np.median(part):.2f}" if len(part) else "none" for part in (real, fake)]
    text = (
        f"Reals: {middle[0]}; fakes: {middle[1]}; real up to {limits.real:.2f}, fake from "
        f"{limits.of_fake():.2f}. A good detector has the reals left and the fakes right."
    )
    return draw_histogram(real, fake, lines_of(limits), "Scores", text)


def lines_of(limits: Limits) -> tuple[float, float]:
    """The limits of a file of one person, as charts draw them."""
    return limits.real, limits.of_fake()


def _trace(
    level: LevelMetrics, trace: Callable[[Labels, Scores], tuple[Scores, Scores]]
) -> list[Series]:
    """A line for all rows, and for each data set where there are several."""
    rows, parts = level.rows, {OVERALL: level.rows}
    if len(level.datasets) > 1:
        parts |= {name: rows.where(rows.datasets.are(name)) for name in level.datasets}
    series = [
        Series(name, *trace(part.labels, part.p_fake))
        for name, part in list(parts.items())[: 1 + _MOST_SETS]
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


def _roc_chart(level: LevelMetrics, limits: Limits) -> Chart:
    rows, marks = level.rows, list[tuple[float, float]]()
    text = f"Area {show_with_interval(level.overall.metrics['auc'])}. "
    if has_both_classes(rows.labels):
        said, fakes = rows.judge(limits), rows.labels == 1
        for positive in (said == Verdict.FAKE, said != Verdict.REAL):
            marks.append((float(positive[~fakes].mean()), float(positive[fakes].mean())))
        (fpr, tpr), (_, not_real) = marks
        text += (
            f"The rings are the limits: {tpr:.1%} of the fakes and {fpr:.1%} of the reals are "
            f"called fake, {1 - not_real:.1%} of the fakes are called real."
        )
    axes = Axes("false positive rate", "true positive rate")
    text += _name_drawn(level)
    return draw_lines(axes, _trace(level, trace_roc), "ROC", text, diagonal=True, marks=marks)


def _name_drawn(level: LevelMetrics) -> str:
    """That some data sets have no line of their own; empty where all have."""
    n_sets = len(level.datasets)
    return f" {_MOST_SETS} of {n_sets} data sets are drawn." if n_sets > _MOST_SETS else ""


def _precision_chart(level: LevelMetrics, limits: Limits) -> Chart:
    rows, marks = level.rows, list[tuple[float, float]]()
    predicted, fakes = rows.judge(limits) == Verdict.FAKE, rows.labels == 1
    share = float(fakes.mean()) if len(fakes) else float("nan")
    text = (
        f"Average precision {show(level.overall.metrics['ap'].value)}; {show_percent(share)} of "
        "the files are fakes, which is the precision of chance."
    )
    if predicted.any() and fakes.any():
        recall, precision = float(predicted[fakes].mean()), float(fakes[predicted].mean())
        marks = [(recall, precision)]
        text += f" Of the files that are called fake {precision:.1%} are (the ring)."
    text += _name_drawn(level)
    series, title = _trace(level, trace_precision), "Precision and recall"
    return draw_lines(Axes("recall", "precision"), series, title, text, marks=marks)


def _calibration_chart(level: LevelMetrics) -> Chart:
    scores, shares, numbers = trace_calibration(level.rows.labels, level.rows.p_fake)
    ece = show_with_interval(level.overall.metrics["ece"])
    text = (
        f"Expected calibration error {ece}, over {len(numbers)} bins. On the dotted line a score "
        "of 0.7 would mean 7 fakes in 10."
    )
    series, axes = [Series("", scores, shares)], Axes("score", "share of fakes")
    return draw_lines(axes, series, "Calibration", text, diagonal=True, dots=True)


def draw_slicing(slicing: Slicing, evaluation: Evaluation) -> list[Chart]:
    """Scores against the values, and error rates by slice."""
    scores = np.concatenate([predictions.p_fake for predictions in evaluation.sets])
    values = np.maximum(slicing.values, 1.0)
    shown = choose_drawn(len(values))
    cloud = _draw_cloud(
        evaluation,
        shown,
        doubling_axes(values, slicing.unit, "score"),
        np.column_stack([values[shown], scores[shown]]),
        f"Score against {slicing.title}",
        f"Every face. Median of the {slicing.unit}: {np.median(slicing.values):,.0f}.",
        limits=lines_of(evaluation.limits),
    )
    return [cloud, _slice_chart(slicing)]


def _slice_chart(slicing: Slicing) -> Chart:
    series = [
        _line_of(title, [(max(p.median, 1.0), p.metrics[name]) for p in slicing.slices])
        for name, title in ERROR_RATES.items()
    ]
    text = f"{len(slicing.slices)} slices of about equal numbers of faces, drawn at their medians. "
    if len(slicing.slices) == 1:
        text = "All faces together, drawn at their median: too few, or too alike, to be sliced. "
    text += "Whiskers are 95 % intervals; the table has the values."
    highest = max((float(v) for line in series for v in (*line.y, *line.high) if v == v), default=1)
    axes = doubling_axes(slicing.values, slicing.unit, "share of its class", highest)
    return draw_lines(axes, series, f"Errors by {slicing.title}", text, dots=True)


def _line_of(name: str, points: Sequence[tuple[float, Estimate]]) -> Series:
    """A line with whiskers; what does not exist is left out."""
    there = [(x, one.value, one.low, one.high) for x, one in points if not one.reason]
    return Series(name, *zip(*there, strict=True)) if there else Series(name, (), ())


def _map_charts(evaluation: Evaluation) -> list[Chart]:
    # As many as a cloud takes of those that were kept of each data set.
    kept = np.concatenate([one.drawn for one in evaluation.sets])
    of_all = _places_of_kept(evaluation)
    shown = choose_drawn(len(kept))
    plane, share = project_by_pca(kept)
    charts = [
        _draw_cloud(
            evaluation,
            of_all[shown],
            map_axes(plane[shown]),
            plane[shown],
            "PCA of the embeddings",
            "The embeddings of the drawn faces in their plane of greatest variance, which holds "
            f"{share:.0%} of it.",
        )
    ]
    near = place_by_tsne(kept[shown])
    if len(near):
        text = (
            "The same faces so that near ones stay near; distances between clouds and sizes of "
            "clouds mean nothing."
        )
        axes, title = map_axes(near, ("", "")), "t-SNE of the embeddings"
        charts.append(_draw_cloud(evaluation, of_all[shown], axes, near, title, text))
    return charts


def _places_of_kept(evaluation: Evaluation) -> NDArray[np.int64]:
    """Of the kept embeddings, their places among the faces of all data sets."""
    places, n_before = [], 0
    for one in evaluation.sets:
        places.append(n_before + choose_drawn(len(one.p_fake)))
        n_before += len(one.p_fake)
    return np.concatenate(places)


def _draw_cloud(
    evaluation: Evaluation,
    places: NDArray[np.int64],
    axes: Axes,
    points: NDArray[np.float64],
    title: str,
    caption: str,
    limits: Sequence[float] = (),
) -> Chart:
    """The points of the faces at some places, which are all, or the caption says how many."""
    labels = np.concatenate([one.dataset.labels for one in evaluation.sets])
    if len(points) < len(labels):
        caption += f" {len(points):,} of {len(labels):,} faces are drawn."
    return draw_points(axes, points, labels[places], title, caption, limits=limits)


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


def draw_robustness(curve: RobustnessCurve) -> Chart:
    """What a corruption does to the metrics."""
    series = [
        _line_of(METRICS[name].title, [(p.severity, p.metrics[name]) for p in curve.points])
        for name in ROBUSTNESS_METRICS
    ]
    first, last = (curve.points[place].metrics["auc"].value for place in (0, -1))
    text = f"AUC {show(first)} falls to " if last < first else "AUC "
    text += show(last)
    unit, count = _capital(curve.unit), len(curve.points) - 1
    severities = ", ".join(name_severity(point) for point in curve.points[1:])
    text += f" at the last severity. {unit}: {severities}." if count > 1 else f". {unit}."
    axes = Axes("severity", "metric", (0, count), x_ticks=range(count + 1))
    return draw_lines(axes, series, f"Robustness: {curve.title}", text, dots=True)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
