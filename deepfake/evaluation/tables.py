"""An evaluation in, its files for machines out: ``metrics.json`` and two CSV tables.

Computes no metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deepfake.dataset.manifest import SourceRow, format_table
from deepfake.evaluation.evaluate import Coverage, Evaluation, GroupMetrics
from deepfake.evaluation.predictions import Predictions
from deepfake.metrics import Estimate
from deepfake.records import LABEL_NAMES

FACE_COLUMNS = [
    "dataset",
    "path",
    "frame",
    "time_s",
    "face",
    "track",
    "label",
    "method",
    "group",
    "p_fake",
    "confidence",
    "sharpness",
    "x0",
    "y0",
    "x1",
    "y1",
    "crop",
]
FILE_COLUMNS = [
    "dataset",
    "path",
    "status",
    "reason",
    "label",
    "method",
    "group",
    "p_fake",
    "verdict",
    "correct",
    "faces",
    "path_uri",
]


def to_json(evaluation: Evaluation, provenance: dict[str, Any]) -> dict[str, Any]:
    """The result in plain types; a metric that does not exist is ``null`` with a reason."""
    return {
        "format": 2,
        "provenance": provenance,
        "threshold": evaluation.threshold,
        "aggregation": evaluation.aggregation.to_dict(),
        "n_resamples": evaluation.n_resamples,
        "datasets": [_dataset_json(predictions) for predictions in evaluation.sets],
        "coverage": {name: _coverage_json(part) for name, part in evaluation.coverage.items()},
        "levels": {
            name: {
                "overall": _group_json(level.overall),
                "datasets": {key: _group_json(part) for key, part in level.datasets.items()},
                "methods": {key: _group_json(part) for key, part in level.methods.items()},
            }
            for name, level in evaluation.levels.items()
        },
        "slices": {
            slicing.name: {
                "unit": slicing.unit,
                "slices": [
                    {
                        "low": part.low,
                        "median": part.median,
                        "high": part.high,
                        "n_real": part.n_real,
                        "n_fake": part.n_fake,
                        "metrics": _metrics_json(part.metrics),
                    }
                    for part in slicing.slices
                ],
            }
            for slicing in evaluation.slices
        },
        "robustness": {
            curve.name: {
                "unit": curve.unit,
                "points": [
                    {
                        "severity": point.severity,
                        "value": _number(point.value),
                        "metrics": _metrics_json(point.metrics),
                    }
                    for point in curve.points
                ],
            }
            for curve in evaluation.robustness
        },
    }


def _dataset_json(predictions: Predictions) -> dict[str, Any]:
    dataset = predictions.dataset
    return {
        "name": dataset.name,
        "data": dataset.origin,
        "split": dataset.split,
        "manifest_sha256": dataset.manifest_sha256,
        "data_sha256": dataset.sha256,
        "faces": len(dataset.faces),
        "remarks": list(dataset.remarks),
    }


def _coverage_json(coverage: Coverage) -> dict[str, Any]:
    return {
        "files": coverage.n_files,
        **coverage.statuses,
        "accuracy": _number(coverage.accuracy),
        "accuracy_if_wrong": _number(coverage.accuracy_if_wrong),
        "accuracy_if_real": _number(coverage.accuracy_if_real),
    }


def _group_json(group: GroupMetrics) -> dict[str, Any]:
    total = group.n_real + group.n_fake
    return {
        "n_real": group.n_real,
        "n_fake": group.n_fake,
        "n_groups": group.n_groups,
        "prevalence": group.n_fake / total if total else None,
        "metrics": _metrics_json(group.metrics),
    }


def _metrics_json(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {
            "value": _number(estimate.value),
            "low": _number(estimate.low),
            "high": _number(estimate.high),
            **({"reason": estimate.reason} if estimate.reason else {}),
            **({"note": estimate.note} if estimate.note else {}),
        }
        for name, estimate in metrics.items()
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def format_predictions(evaluation: Evaluation) -> str:
    """``predictions.csv``: a row per file; without a score ``p_fake`` is empty."""
    return format_table(
        FILE_COLUMNS,
        (
            _file_cells(predictions, file, evaluation.threshold)
            for predictions in evaluation.sets
            for file in predictions.dataset.files
        ),
    )


def _file_cells(predictions: Predictions, file: SourceRow, threshold: float) -> list[object]:
    p_fake = predictions.file_p_fake.get(file.id)
    verdict = "" if p_fake is None else LABEL_NAMES[int(p_fake >= threshold)]
    label = "" if file.label is None else LABEL_NAMES[file.label]
    return [
        predictions.dataset.name,
        file.path,
        file.status,
        file.reason,
        label,
        file.method,
        file.group,
        "" if p_fake is None else f"{p_fake:.6f}",
        verdict,
        int(verdict == label) if verdict and label else "",
        file.faces,
        file.path_uri,
    ]


def format_scored_faces(evaluation: Evaluation) -> str:
    """``faces.csv``: a row per face."""
    rows: list[list[object]] = []
    for predictions in evaluation.sets:
        dataset = predictions.dataset
        paths = {file.id: file.path for file in dataset.files}
        columns = zip(
            dataset.faces,
            dataset.labels,
            predictions.tracks,
            predictions.p_fake,
            predictions.embeddings.sharpness,
            strict=True,
        )
        for face, label, track, p_fake, sharpness in columns:
            rows.append(
                [
                    dataset.name,
                    paths.get(face.source, ""),
                    face.frame,
                    f"{face.time_s:.6f}",
                    face.face,
                    track,
                    LABEL_NAMES[label],
                    face.method,
                    face.group,
                    f"{p_fake:.6f}",
                    f"{face.confidence:.6f}",
                    f"{sharpness:.4g}",
                    *(f"{value:.2f}" for value in face.box_xyxy),
                    face.crop,
                ]
            )
    return format_table(FACE_COLUMNS, rows)
