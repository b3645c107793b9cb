"""An evaluation in, its files for machines out: ``metrics.json`` and two CSV tables.

Computes no metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from deepfake.dataset.rows import SourceRow, require_label
from deepfake.dataset.texts import find_first, number_texts
from deepfake.evaluation.evaluate import Evaluation
from deepfake.evaluation.predictions import Predictions
from deepfake.metrics import Estimate
from deepfake.records import LABEL_NAMES, Limits, Verdict
from deepfake.tables import format_lines

_TEXTS = ("dataset", "path", "reason", "method", "group")


def to_json(evaluation: Evaluation, provenance: dict[str, Any]) -> dict[str, Any]:
    """The result in plain types; a metric that does not exist is ``null`` with a reason."""
    content: dict[str, Any] = _plain(
        {
            "format": 3,
            "provenance": provenance,
            "limits": evaluation.limits.to_dict(),
            "aggregation": evaluation.aggregation.to_dict(),
            "n_resamples": evaluation.n_resamples,
            "datasets": [_dataset_json(predictions) for predictions in evaluation.sets],
            "coverage": {
                name: {
                    "files": part.n_files,
                    **part.statuses,
                    "accuracy": part.accuracy,
                    "accuracy_if_wrong": part.accuracy_if_wrong,
                    "accuracy_if_real": part.accuracy_if_real,
                }
                for name, part in evaluation.coverage.items()
            },
            "levels": {
                name: {"overall": one.overall, "datasets": one.datasets, "methods": one.methods}
                for name, one in evaluation.levels.items()
            },
            "slices": {
                one.name: {"unit": one.unit, "slices": one.slices} for one in evaluation.slices
            },
            "robustness": {
                one.name: {"unit": one.unit, "points": one.points} for one in evaluation.robustness
            },
        }
    )
    return content


def _dataset_json(predictions: Predictions) -> dict[str, Any]:
    dataset = predictions.dataset
    return {
        "name": dataset.name,
        "data": dataset.origin,
        "split": dataset.split,
        "manifest_sha256": dataset.manifest_sha256,
        "data_sha256": dataset.sha256,
        "faces": len(dataset.faces),
        "remarks": dataset.remarks,
    }


def _plain(value: Any) -> Any:
    """Records become objects, all the way down; a number that does not exist becomes ``null``."""
    if is_dataclass(value):
        shown = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Estimate):
            shown = {name: part for name, part in shown.items() if part != ""}
        return _plain(shown)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_predictions(evaluation: Evaluation) -> Iterator[str]:
    """Lines of ``predictions.csv``: a row per file; without a score ``p_fake`` is empty.

    ``correct`` is empty, too, where the verdict is unclear.
    """
    return _format(
        _file_row(predictions, file, int(place), evaluation.limits)
        for predictions in evaluation.sets
        for file, place in zip(predictions.dataset.files, predictions.find_scores(), strict=True)
    )


def _file_row(
    predictions: Predictions, file: SourceRow, place: int, limits: Limits
) -> dict[str, object]:
    """A row for a file whose score is at a place of ``files``, -1 without one."""
    p_fake = verdict = None
    if place >= 0:
        p_fake = float(predictions.files.p_fake[place])
        verdict = limits.judge(p_fake, int(predictions.files.n_people[place]))
    label = "" if file.label is None else LABEL_NAMES[file.label]
    return {
        "dataset": predictions.dataset.name,
        "path": file.path,
        "status": file.status,
        "reason": file.reason,
        "label": label,
        "method": file.method,
        "group": file.group,
        "p_fake": "" if p_fake is None else f"{p_fake:.6f}",
        "verdict": "" if verdict is None else verdict.value,
        "correct": "" if verdict in (None, Verdict.UNCLEAR) or not label else int(verdict == label),
        "faces": file.faces,
        "path_uri": file.path_uri,
    }


def format_scored_faces(evaluation: Evaluation) -> Iterator[str]:
    """Lines of ``faces.csv``: a row per face."""
    return _format(row for one in evaluation.sets for row in _face_rows(one))


def _face_rows(predictions: Predictions) -> Iterator[dict[str, object]]:
    dataset = predictions.dataset
    source, id = number_texts(dataset.faces.texts("source"), dataset.files.texts("id"))
    file_of_source = find_first(id, max(source.max(), id.max(initial=-1)) + 1)
    paths = dataset.files.texts("path")
    for place, face in enumerate(dataset.faces):
        file = int(file_of_source[source[place]])
        yield {
            "dataset": dataset.name,
            "path": paths[file] if file >= 0 else "",
            "frame": face.frame,
            "time_s": f"{face.time_s:.6f}",
            "face": face.face,
            "person": "" if predictions.people[place] < 0 else predictions.people[place],
            "label": LABEL_NAMES[require_label(face)],
            "method": face.method,
            "group": face.group,
            "p_fake": f"{predictions.p_fake[place]:.6f}",
            "confidence": f"{face.confidence:.6f}",
            "sharpness": f"{predictions.sharpness[place]:.4g}",
            **dict(zip(("x0", "y0", "x1", "y1"), map("{:.2f}".format, face.box_xyxy), strict=True)),
            "crop": face.crop,
        }


def _format(rows: Iterator[Mapping[str, object]]) -> Iterator[str]:
    """Lines of one row or more; no data set is without files and faces."""
    first = next(rows)
    cells = (row.values() for row in chain([first], rows))
    return format_lines(list(first), cells, _TEXTS)
