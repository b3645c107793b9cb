"""An evaluation in, its page out: metrics, charts, mistakes, and where all of it comes from.

Computes no metric and no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepfake.dataset.manifest import require_label
from deepfake.evaluation.evaluate import (
    OVERALL,
    ROBUSTNESS_METRICS,
    UNNAMED,
    Evaluation,
    GroupMetrics,
    RobustnessCurve,
    ScoredRows,
)
from deepfake.evaluation.predictions import Predictions
from deepfake.evaluation.slices import Slicing
from deepfake.media.discovery import display_name
from deepfake.metrics import METRICS, Estimate
from deepfake.records import LABEL_NAMES
from deepfake.reports.evaluation_charts import (
    ERROR_RATES,
    draw_evaluation,
    draw_robustness,
    draw_slicing,
)
from deepfake.reports.evaluation_text import groups_of, list_gaps, list_remarks, name_severity
from deepfake.reports.page import (
    LIMITS,
    code,
    embed_thumbnail,
    list_origins,
    render,
    show,
    show_cells,
    show_interval,
    show_percent,
    text_of,
)

N_MISTAKES = 12
"""Thumbnails of each kind of mistake."""
_TILES = ("auc", "balanced_accuracy", "tpr_at_fpr_5", "ece")


def format_report(evaluation: Evaluation, provenance: Mapping[str, Any]) -> str:
    """The page of an evaluation.

    Args:
        evaluation: What was found; crops are read again for thumbnails.
        provenance: As of ``job.describe_origin``.
    """
    names = [predictions.dataset.name for predictions in evaluation.sets]
    level, coverage = evaluation.levels["file"], evaluation.coverage[OVERALL]
    threshold = evaluation.threshold
    false_positives, false_negatives = _mistakes(evaluation)
    return render(
        "evaluation.html",
        title=f"Evaluation on {', '.join(names)}",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{threshold:.4f} ({provenance['threshold_origin']})",
        remarks=list_remarks(evaluation),
        summary=_summarise(evaluation),
        tiles=[_tile(name, level.overall.metrics[name]) for name in _TILES],
        statuses=list(coverage.statuses),
        inputs=_coverage_rows(evaluation),
        metrics=[{"title": one.title, "meaning": one.meaning} for one in METRICS.values()],
        metrics_note=f"Small numbers are 95 % intervals, from {evaluation.n_resamples:,} resamples "
        "of whole groups (cluster bootstrap). The threshold is the checkpoint's, which was not "
        "chosen on these files. A track is one person in one file, and scores as the mean of its "
        "faces.",
        tables=_metric_tables(evaluation),
        charts_note="Made of files, unless a chart says otherwise. Reals are dots and blue, "
        "fakes are crosses and orange; the dashed line is the threshold.",
        charts=draw_evaluation(evaluation),
        slices=[chart for one in evaluation.slices for chart in draw_slicing(one, evaluation)],
        slice_tables=[_slice_table(slicing) for slicing in evaluation.slices],
        curves=[draw_robustness(curve) for curve in evaluation.robustness],
        curve_names=[METRICS[name].title for name in ROBUSTNESS_METRICS],
        curve_rows=_curve_rows(evaluation.robustness),
        confusion=_confusion(level.rows, threshold),
        false_positives=false_positives,
        false_negatives=false_negatives,
        n_unscored=coverage.n_unscored,
        unscored=_unscored_rows(evaluation),
        meaning=LIMITS + "These metrics hold for files like the ones measured here; on other "
        "sources, other forgeries and other shares of fakes they differ. Intervals say what "
        "other people and videos of the same kind would change, nothing more.",
        provenance=_provenance(evaluation, provenance),
    )


def _summarise(evaluation: Evaluation) -> str:
    rows, coverage = evaluation.levels["file"].rows, evaluation.coverage[OVERALL]
    predicted, fakes = rows.p_fake >= evaluation.threshold, rows.labels == 1
    text = (
        f"{coverage}. At the checkpoint's own threshold {int((predicted & fakes).sum()):,} of "
        f"{int(fakes.sum()):,} fakes were predicted fake (true positives), and "
        f"{int((predicted & ~fakes).sum()):,} of {int((~fakes).sum()):,} reals (false positives)."
    )
    if coverage.n_unscored:
        text += (
            f" Accuracy is {show(coverage.accuracy)} of the files with a score, "
            f"{show(coverage.accuracy_if_wrong)} if the {coverage.n_unscored:,} files without one "
            f"count as wrong, {show(coverage.accuracy_if_real)} if they are predicted real."
        )
    return text


def _tile(name: str, estimate: Estimate) -> dict[str, str]:
    return {
        "name": METRICS[name].title,
        "value": show(estimate.value),
        "interval": show_interval(estimate) or estimate.reason or estimate.note,
        "meaning": METRICS[name].meaning,
    }


def _coverage_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    splits = {one.dataset.name: one.dataset.split for one in evaluation.sets}
    return [
        {
            "name": name,
            "split": splits.get(name, ""),
            "files": f"{part.n_files:,}",
            "statuses": [f"{number:,}" for number in part.statuses.values()],
            "accuracies": [
                show(value)
                for value in (part.accuracy, part.accuracy_if_wrong, part.accuracy_if_real)
            ],
        }
        for name, part in evaluation.coverage.items()
        if name != OVERALL or len(evaluation.sets) > 1
    ]


def _unscored_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    return [
        {
            "name": file.path,
            "dataset": predictions.dataset.name,
            "label": "" if file.label is None else LABEL_NAMES[file.label],
            "status": file.status,
            "reason": file.reason,
        }
        for predictions in evaluation.sets
        for file in predictions.dataset.files
        if file.id not in predictions.file_p_fake
    ]


def _metric_tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    tables = []
    for name, level in evaluation.distinct_levels().items():
        tables.append(_metric_table(f"By {name} and data set", "data set", groups_of(level)))
        if list(level.methods) != [UNNAMED]:
            caption = f"By {name} and method: the fakes of each against all reals beside them"
            tables.append(_metric_table(caption, "method", level.methods))
    return tables


def _metric_table(caption: str, head: str, groups: Mapping[str, GroupMetrics]) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "counts": [f"{n:,}" for n in (group.n_real, group.n_fake, group.n_groups)],
            "cells": show_cells(group.metrics),
        }
        for name, group in groups.items()
    ]
    return {"caption": caption, "head": head, "rows": rows, "notes": list_gaps(groups)}


def _slice_table(slicing: Slicing) -> dict[str, Any]:
    rows = [
        {
            "name": f"{_number(part.low)} to {_number(part.high)}",
            "counts": [f"{part.n_real:,}", f"{part.n_fake:,}"],
            "cells": [_percent_cell(part.error_rates[name]) for name in ERROR_RATES],
        }
        for part in slicing.slices
    ]
    return {
        "caption": f"Faces by {slicing.title}, at the threshold.",
        "head": slicing.unit,
        "columns": ["real", "fake", *ERROR_RATES.values()],
        "rows": rows,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _percent_cell(estimate: Estimate) -> dict[str, str]:
    remark = estimate.reason or estimate.note
    if math.isfinite(estimate.low):
        remark = f"{100 * estimate.low:.1f}\N{EN DASH}{100 * estimate.high:.1f}"
    return {"value": show_percent(estimate.value), "remark": remark}


def _curve_rows(curves: Sequence[RobustnessCurve]) -> list[dict[str, Any]]:
    points = [("as they are", "", curve.points[0]) for curve in curves[:1]]
    for curve in curves:
        for point in curve.points[1:]:
            graded = len(curve.points) > 2
            value = f"{curve.unit}: {name_severity(point)}" if graded else curve.unit
            points.append((curve.title, value, point))
    return [
        {"name": name, "value": value, "cells": show_cells(point.metrics)}
        for name, value, point in points
    ]


def _confusion(rows: ScoredRows, threshold: float) -> dict[str, Any]:
    predicted = rows.p_fake >= threshold
    lines = []
    for label, word in enumerate(LABEL_NAMES):
        own = rows.labels == label
        numbers = [int((own & ~predicted).sum()), int((own & predicted).sum())]
        cells = [
            {
                "count": f"{number:,}",
                "share": show_percent(number / own.sum() if own.any() else math.nan),
            }
            for number in numbers
        ]
        lines.append({"name": f"{word} files", "cells": cells})
    return {
        "caption": f"Files with a score, at {threshold:.4f}.",
        "rows": lines,
        "note": "Shares are of the row: of all real and of all fake files.",
    }


def _mistakes(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The worst false positives and false negatives, with the most suspicious face of each file."""
    wrong: dict[int, list[tuple[float, Predictions, int]]] = {0: [], 1: []}
    for predictions in evaluation.sets:
        for place, file in enumerate(predictions.dataset.files):
            p_fake = predictions.file_p_fake.get(file.id)
            if p_fake is None or file.label is None:
                continue
            if (p_fake >= evaluation.threshold) != (file.label == 1):
                wrong[file.label].append((p_fake, predictions, place))
    worst = [
        sorted(wrong[0], key=lambda item: -item[0]),
        sorted(wrong[1], key=lambda item: item[0]),
    ]
    shown = [[_mistake(*item) for item in kind[:N_MISTAKES]] for kind in worst]
    return shown[0], shown[1]


def _mistake(p_fake: float, predictions: Predictions, place: int) -> dict[str, Any]:
    dataset = predictions.dataset
    file = dataset.files[place]
    faces = [number for number, row in enumerate(dataset.faces) if row.source == file.id]
    top = dataset.faces[max(faces, key=lambda number: predictions.p_fake[number])]
    path = dataset.root / top.crop
    return {
        "name": _short(file.path),
        "path": file.path,
        "label": LABEL_NAMES[require_label(file)],
        "score": f"{p_fake:.3f}",
        "detail": ", ".join(word for word in (file.method, dataset.name) if word),
        "thumbnail": embed_thumbnail(path.read_bytes()) if path.is_file() else None,
    }


def _provenance(evaluation: Evaluation, provenance: Mapping[str, Any]) -> list[Any]:
    entries = list_origins(provenance)
    for predictions in evaluation.sets:
        dataset = predictions.dataset
        text = (
            f"{display_name(dataset.origin)}, split {dataset.split}, {len(dataset.faces):,} faces"
        )
        entries.append((f"data {dataset.name}", text_of(text)))
        entries.append(("its manifest (SHA-256)", code(dataset.manifest_sha256)))
    entries.append(("a file's score", text_of(f"{evaluation.aggregation.policy} over its frames")))
    return entries


def _short(path: str) -> str:
    """The last two parts of a long path: what fits below a thumbnail."""
    parts = path.split("/")
    return path if len(parts) <= 2 else "\N{HORIZONTAL ELLIPSIS}/" + "/".join(parts[-2:])
