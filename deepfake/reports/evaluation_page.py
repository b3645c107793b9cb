"""An evaluation in, its page out: figures, pictures, mistakes, and where all of it comes from.

Works out no figure and no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepfake.dataset.manifest import require_label
from deepfake.evaluation.evaluate import (
    FIGURE_NAMES,
    ROBUST,
    TOGETHER,
    UNNAMED,
    Curve,
    Evaluation,
    Rows,
    Slice,
    explain,
    name_strength,
)
from deepfake.evaluation.predictions import Predictions
from deepfake.evaluation.slices import Trait
from deepfake.media.discovery import display_name
from deepfake.metrics import FIGURES, Figure
from deepfake.records import LABEL_NAMES, Status
from deepfake.reports.evaluation_charts import ERRORS, draw_curve, draw_evaluation, draw_trait
from deepfake.reports.page import (
    LIMITS,
    code,
    list_origins,
    make_thumbnail,
    render,
    show,
    show_interval,
    show_percent,
    text_of,
)

MISTAKES = 12
"""Thumbnails of each kind of mistake."""
_MEANINGS = {
    "auc": "chance that a fake scores above a real",
    "balanced_accuracy": "right calls at the threshold, both classes alike",
    "tpr_at_fpr_5": "fakes found if 1 real in 20 may be accused",
    "ece": "how far scores are from being probabilities",
}
_TILE_NAMES = {
    "auc": "AUC",
    "balanced_accuracy": "Balanced accuracy",
    "tpr_at_fpr_5": "Found at 5 % false alarms",
    "ece": "Calibration error",
}


def format_report(evaluation: Evaluation, provenance: Mapping[str, Any]) -> str:
    """The page of an evaluation.

    Args:
        evaluation: What was found; crops are read again for thumbnails.
        provenance: As of ``job.describe_origin``.
    """
    level = evaluation.levels["file"]
    names = [scored.material.name for scored in evaluation.sets]
    overall = evaluation.readings[TOGETHER]
    tables, notes = _figure_tables(evaluation)
    alarms, missed = _mistakes(evaluation)
    threshold = evaluation.threshold
    return render(
        "evaluation.html",
        title=f"Evaluation on {', '.join(names)}",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{threshold:.4f} ({provenance['threshold_origin']})",
        remarks=[
            f"{scored.material.name}: {remark}"
            for scored in evaluation.sets
            for remark in scored.material.remarks
        ],
        summary=_summarise(evaluation),
        tiles=[_tile(name, level.overall.figures[name]) for name in _MEANINGS],
        statuses=list(overall.statuses),
        inputs=_input_rows(evaluation),
        figure_names=[FIGURE_NAMES[name] for name in FIGURES],
        figures_note=notes,
        tables=tables,
        pictures_note="Made of files, unless a picture says otherwise. Reals are dots and blue, "
        "fakes are crosses and orange; the dashed line is the threshold.",
        charts=draw_evaluation(evaluation),
        traits=[chart for trait in evaluation.traits for chart in draw_trait(trait, evaluation)],
        trait_tables=[_trait_table(trait) for trait in evaluation.traits],
        curves=[draw_curve(curve) for curve in evaluation.curves],
        curve_names=[FIGURE_NAMES[name] for name in ROBUST],
        curve_rows=_curve_rows(evaluation.curves),
        confusion=_confusion(level.rows, threshold),
        false_alarms=alarms,
        missed=missed,
        n_unanswered=overall.files - overall.statuses[Status.OK.value],
        unanswered=[
            {
                "name": file.path,
                "dataset": scored.material.name,
                "label": "" if file.label is None else LABEL_NAMES[file.label],
                "status": file.status,
                "reason": file.reason,
            }
            for scored in evaluation.sets
            for file in scored.material.files
            if file.id not in scored.file_p_fake
        ],
        meaning=LIMITS + "These figures hold for files like the ones measured here; other sources, "
        "other forgeries and other shares of fakes have other figures. Intervals say what another "
        "drawing of the same kind of people and videos would change, nothing more.",
        provenance=_provenance(evaluation, provenance),
    )


def _summarise(evaluation: Evaluation) -> str:
    rows, readings = evaluation.levels["file"].rows, evaluation.readings[TOGETHER]
    called = rows.p_fake >= evaluation.threshold
    fakes = rows.labels == 1
    text = (
        f"{readings}. At the checkpoint's own threshold it found {int((called & fakes).sum()):,} "
        f"of {int(fakes.sum()):,} fakes and accused {int((called & ~fakes).sum()):,} of "
        f"{int((~fakes).sum()):,} reals."
    )
    silent = readings.files - readings.statuses[Status.OK.value]
    if silent:
        text += (
            f" Accuracy is {show(readings.answered)} of the answers, {show(readings.all_wrong)} "
            f"if the {silent:,} files without one count as wrong, {show(readings.all_real)} if "
            "they are called real."
        )
    return text


def _tile(name: str, figure: Figure) -> dict[str, str]:
    return {
        "name": _TILE_NAMES[name],
        "value": show(figure.value),
        "interval": show_interval(figure) or figure.reason or figure.note,
        "meaning": _MEANINGS[name],
    }


def _input_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    splits = {scored.material.name: scored.material.split for scored in evaluation.sets}
    return [
        {
            "name": name,
            "split": splits.get(name, ""),
            "files": f"{part.files:,}",
            "statuses": [f"{number:,}" for number in part.statuses.values()],
            "readings": [show(value) for value in (part.answered, part.all_wrong, part.all_real)],
        }
        for name, part in evaluation.readings.items()
        if name != TOGETHER or len(evaluation.sets) > 1
    ]


def _figure_tables(evaluation: Evaluation) -> tuple[list[dict[str, Any]], str]:
    tables = []
    note = (
        f"Small numbers are 95 % intervals, from {evaluation.rounds:,} drawings of whole groups. "
        "Accuracies are at the checkpoint's threshold, which was not chosen on these files."
    )
    note += " A track is one person in one file, and scores as the mean of its faces."
    for name, level in evaluation.distinct_levels().items():
        parts = dict(level.datasets)
        if len(parts) > 1:
            parts[TOGETHER] = level.overall
        tables.append(_figure_table(f"By {name} and data set", "data set", parts))
        if list(level.methods) != [UNNAMED]:
            tables.append(
                _figure_table(
                    f"By {name} and method: the fakes of each against all reals beside them",
                    "method",
                    level.methods,
                )
            )
    return tables, note


def _figure_table(caption: str, head: str, parts: Mapping[str, Slice]) -> dict[str, Any]:
    return {
        "caption": caption,
        "head": head,
        "rows": [
            {
                "name": name,
                "n_real": f"{part.n_real:,}",
                "n_fake": f"{part.n_fake:,}",
                "n_groups": f"{part.n_groups:,}",
                "cells": [
                    {"value": show(figure.value), "interval": show_interval(figure)}
                    for figure in part.figures.values()
                ],
            }
            for name, part in parts.items()
        ],
        "notes": explain(parts),
    }


def _trait_table(trait: Trait) -> dict[str, Any]:
    rows = [
        {
            "name": f"{_number(part.low)} to {_number(part.high)}",
            "counts": [f"{part.n_real:,}", f"{part.n_fake:,}"],
            "cells": [_cell(figure_of(part)) for figure_of in ERRORS.values()],
        }
        for part in trait.parts
    ]
    return {
        "caption": f"Faces by {trait.title}, at the threshold.",
        "head": trait.unit,
        "columns": ["real", "fake", *ERRORS],
        "rows": rows,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _cell(figure: Figure) -> dict[str, str]:
    return {"value": show_percent(figure.value), "remark": _percents(figure)}


def _percents(figure: Figure) -> str:
    if math.isfinite(figure.low):
        return f"{100 * figure.low:.1f}\N{EN DASH}{100 * figure.high:.1f}"
    return figure.reason or figure.note


def _curve_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    points = [("as they are", "", curve.points[0]) for curve in curves[:1]]
    points += [
        (
            curve.title,
            f"{curve.unit}: {name_strength(point)}" if len(curve.points) > 2 else curve.unit,
            point,
        )
        for curve in curves
        for point in curve.points[1:]
    ]
    return [
        {
            "name": name,
            "value": value,
            "cells": [
                {"value": show(figure.value), "interval": show_interval(figure)}
                for figure in point.figures.values()
            ],
        }
        for name, value, point in points
    ]


def _confusion(rows: Rows, threshold: float) -> dict[str, Any]:
    called = rows.p_fake >= threshold
    lines = []
    for label, word in enumerate(LABEL_NAMES):
        own = rows.labels == label
        numbers = [int((own & ~called).sum()), int((own & called).sum())]
        lines.append(
            {
                "name": f"{word} files",
                "cells": [
                    {
                        "count": f"{number:,}",
                        "share": show_percent(number / own.sum() if own.any() else math.nan),
                    }
                    for number in numbers
                ],
            }
        )
    return {
        "caption": f"Files with an answer, at {threshold:.4f}.",
        "rows": lines,
        "note": "Shares are of the row: of all real and of all fake files.",
    }


def _mistakes(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The worst false alarms and the worst misses, with the most suspicious face of each file."""
    wrong: dict[int, list[tuple[float, Predictions, int]]] = {0: [], 1: []}
    for scored in evaluation.sets:
        for place, file in enumerate(scored.material.files):
            p_fake = scored.file_p_fake.get(file.id)
            if p_fake is None or file.label is None:
                continue
            if (p_fake >= evaluation.threshold) != (file.label == 1):
                wrong[file.label].append((p_fake, scored, place))
    kinds = []
    for label, direction in ((0, -1), (1, 1)):
        worst = sorted(wrong[label], key=lambda item, d=direction: d * item[0])  # type: ignore[misc]
        kinds.append([_mistake(*item) for item in worst[:MISTAKES]])
    return kinds[0], kinds[1]


def _mistake(p_fake: float, scored: Predictions, place: int) -> dict[str, Any]:
    material = scored.material
    file = material.files[place]
    faces = [number for number, row in enumerate(material.faces) if row.source == file.id]
    peak = material.faces[max(faces, key=lambda number: scored.p_fake[number])]
    path = material.root / peak.crop
    picture = make_thumbnail(path.read_bytes()) if path.is_file() else None
    return {
        "name": _short(file.path),
        "path": file.path,
        "label": LABEL_NAMES[require_label(file)],
        "score": f"{p_fake:.3f}",
        "detail": ", ".join(word for word in (file.method, material.name) if word),
        "picture": picture,
    }


def _provenance(evaluation: Evaluation, provenance: Mapping[str, Any]) -> list[Any]:
    entries = list_origins(provenance)
    for scored in evaluation.sets:
        material = scored.material
        entries += [
            (
                f"data {material.name}",
                text_of(
                    f"{display_name(material.origin)}, split {material.split}, "
                    f"{len(material.faces):,} faces"
                ),
            ),
            ("its manifest (SHA-256)", code(material.manifest_sha256)),
        ]
    entries.append(("a file's score", text_of(f"{evaluation.aggregation.policy} over its frames")))
    return entries


def _short(path: str) -> str:
    """The last two parts of a long path: what fits below a thumbnail."""
    parts = path.split("/")
    return path if len(parts) <= 2 else "\N{HORIZONTAL ELLIPSIS}/" + "/".join(parts[-2:])
