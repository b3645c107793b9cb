"""Predictions in, metrics at every level out: for a terminal, for machines, for the report.

The threshold is the one of the checkpoint, always. Knows no network and no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import SourceRow, format_table, require_label
from deepfake.evaluation.bootstrap import ROUNDS, measure_with_intervals
from deepfake.evaluation.predictions import Predictions
from deepfake.evaluation.slices import Trait, measure_traits
from deepfake.metrics import FIGURES, Figure
from deepfake.records import LABEL_NAMES, Aggregation, Status

LEVELS = ("file", "track", "face")
FIGURE_NAMES = {
    "auc": "AUC",
    "ap": "AP",
    "eer": "EER",
    "accuracy": "accuracy",
    "balanced_accuracy": "bal. acc.",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
    "tpr_at_fpr_1": "TPR@1%",
    "tpr_at_fpr_5": "TPR@5%",
}
"""Column heads."""
ROBUST = ("auc", "accuracy")
"""Figures that are followed along a corruption."""
TOGETHER = "all together"
UNNAMED = "(not named)"
FACE_COLUMNS = (
    *("dataset", "path", "frame", "time_s", "face", "track", "label", "method", "group"),
    *("p_fake", "confidence", "sharpness", "x0", "y0", "x1", "y1", "crop"),
)
FILE_COLUMNS = (
    *("dataset", "path", "status", "reason", "label", "method", "group", "p_fake", "called"),
    *("right", "faces", "path_uri"),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """What figures are made of, a row per face, track or file.

    Args:
        labels: ``(N,)`` int64, 1 = fake.
        p_fake: ``(N,)`` float64.
        groups: ``(N,)`` text; groups of two data sets differ.
        methods: ``(N,)`` text; of reals without meaning.
        datasets: ``(N,)`` text.
    """

    labels: NDArray[np.int64]
    p_fake: NDArray[np.float64]
    groups: NDArray[np.str_]
    methods: NDArray[np.str_]
    datasets: NDArray[np.str_]

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows that a mask selects."""
        return Rows(
            self.labels[mask],
            self.p_fake[mask],
            self.groups[mask],
            self.methods[mask],
            self.datasets[mask],
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """The figures of some rows.

    Args:
        n_real: Real rows.
        n_fake: Fake rows.
        n_groups: Groups that they fall into.
        figures: By name, in the order of ``FIGURES``.
    """

    n_real: int
    n_fake: int
    n_groups: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Level:
    """All figures of one level: overall, by data set, by method.

    Args:
        rows: What they were made of.
        overall: Of all rows together.
        datasets: Of each data set, in the order given.
        methods: Of each method's fakes against all reals of the data sets that it occurs in.
    """

    rows: Rows
    overall: Slice
    datasets: dict[str, Slice]
    methods: dict[str, Slice]


@dataclass(frozen=True, slots=True)
class Readings:
    """What files without an answer would do to the accuracy.

    Args:
        statuses: Number of files by status; they add up to all files.
        answered: Accuracy of the labelled files with an answer.
        all_wrong: Accuracy if every labelled file without one counts as a mistake.
        all_real: Accuracy if they are called real, as whoever lets them pass does.
    """

    statuses: dict[str, int]
    answered: float
    all_wrong: float
    all_real: float

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(self.statuses.values())

    def __str__(self) -> str:
        parts = " + ".join(f"{number:,} {status}" for status, number in self.statuses.items())
        return f"{self.files:,} files = {parts}"


@dataclass(frozen=True, slots=True)
class Point:
    """What is left of the figures at one strength of a corruption.

    Args:
        strength: 0 is the crops as they are.
        value: What the strength stands for, ``nan`` at 0.
        figures: Of files, all data sets together; ``ROBUST`` of them.
    """

    strength: int
    value: float
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Curve:
    """A corruption from strength 0 on.

    Args:
        name: Short name.
        title: For people.
        unit: What its values are.
        points: By rising strength.
    """

    name: str
    title: str
    unit: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that an evaluation found.

    Args:
        threshold: Of the checkpoint.
        aggregation: How the frames of a file made its score.
        rounds: Drawings behind each interval.
        sets: The data sets with their scores.
        levels: By name: ``file``, ``track``, ``face``.
        readings: Of all files, by data set, and ``TOGETHER``.
        traits: How often faces are called wrongly, by their size and by their sharpness.
        curves: What corruptions do, where that was asked for.
    """

    threshold: float
    aggregation: Aggregation
    rounds: int
    sets: tuple[Predictions, ...]
    levels: dict[str, Level]
    readings: dict[str, Readings]
    traits: tuple[Trait, ...]
    curves: tuple[Curve, ...] = ()

    def distinct_levels(self) -> dict[str, Level]:
        """The levels without repetition: those of the same rows share a name."""
        names: dict[int, list[str]] = {}
        for name, level in self.levels.items():
            names.setdefault(id(level), []).append(name)
        return {", ".join(same): self.levels[same[0]] for same in names.values()}


def evaluate(
    sets: Sequence[Predictions], threshold: float, aggregation: Aggregation, rounds: int = ROUNDS
) -> Evaluation:
    """Work out all figures of scored data sets.

    Args:
        sets: One or more, of different names.
        threshold: At or above it means fake; the checkpoint's.
        aggregation: How ``file_p_fake`` was made, for the record.
        rounds: Drawings of the bootstrap.
    """
    made = {name: _join([_LEVEL_ROWS[name](scored) for scored in sets]) for name in LEVELS}
    levels: dict[str, Level] = {}
    for name, rows in made.items():
        twin = next((level for level in levels.values() if _same(level.rows, rows)), None)
        levels[name] = twin or _measure_level(rows, threshold, rounds)
    readings = {scored.material.name: _read_accuracy([scored], threshold) for scored in sets}
    readings[TOGETHER] = _read_accuracy(sets, threshold)
    traits = measure_traits(sets, threshold, rounds)
    return Evaluation(threshold, aggregation, rounds, tuple(sets), levels, readings, traits)


def measure_point(
    sets: Sequence[Predictions], threshold: float, rounds: int, strength: int, value: float
) -> Point:
    """The figures of files whose crops were damaged, and then scored as ever."""
    rows = _join([file_rows(scored) for scored in sets])
    figures = measure_with_intervals(rows.labels, rows.p_fake, rows.groups, threshold, rounds)
    return Point(strength, value, {name: figures[name] for name in ROBUST})


def start_of_curves(evaluation: Evaluation) -> Point:
    """The figures of files as they are, as the first point of every curve."""
    figures = evaluation.levels["file"].overall.figures
    return Point(0, math.nan, {name: figures[name] for name in ROBUST})


def _face_rows(scored: Predictions) -> Rows:
    faces, name = scored.material.faces, scored.material.name
    return _make_rows(
        [
            (require_label(f), p, f.group, f.method)
            for f, p in zip(faces, scored.p_fake, strict=True)
        ],
        name,
    )


def _track_rows(scored: Predictions) -> Rows:
    """The mean of a person's faces, each track a row."""
    scores: dict[tuple[str, int], list[float]] = {}
    about: dict[tuple[str, int], tuple[int, str, str]] = {}
    for face, number, p_fake in zip(
        scored.material.faces, scored.tracks, scored.p_fake, strict=True
    ):
        key = (face.source, number)
        scores.setdefault(key, []).append(float(p_fake))
        about[key] = (require_label(face), face.group, face.method)
    return _make_rows(
        [
            (about[key][0], fmean(values), about[key][1], about[key][2])
            for key, values in scores.items()
        ],
        scored.material.name,
    )


def file_rows(scored: Predictions) -> Rows:
    """The labelled files that have an answer."""
    answers = scored.file_p_fake
    return _make_rows(
        [
            (file.label, answers[file.id], file.group, file.method)
            for file in scored.material.files
            if file.label is not None and file.id in answers
        ],
        scored.material.name,
    )


_LEVEL_ROWS = {"file": file_rows, "track": _track_rows, "face": _face_rows}


def _make_rows(rows: Sequence[tuple[int, float, str, str]], dataset: str) -> Rows:
    return Rows(
        labels=np.array([row[0] for row in rows], dtype=np.int64),
        p_fake=np.array([row[1] for row in rows], dtype=np.float64),
        groups=np.array([f"{dataset}/{row[2]}" for row in rows], dtype=np.str_),
        methods=np.array([row[3] or UNNAMED for row in rows], dtype=np.str_),
        datasets=np.array([dataset] * len(rows), dtype=np.str_),
    )


def _join(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.p_fake for part in parts]),
        np.concatenate([part.groups for part in parts]),
        np.concatenate([part.methods for part in parts]),
        np.concatenate([part.datasets for part in parts]),
    )


def _same(one: Rows, other: Rows) -> bool:
    """Whether two levels are the same rows, so that nothing is worked out twice."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("labels", "p_fake", "groups", "methods", "datasets")
    )


def _measure_level(rows: Rows, threshold: float, rounds: int) -> Level:
    def measure(mask: NDArray[np.bool_]) -> Slice:
        part = rows.where(mask)
        return Slice(
            n_real=int((part.labels == 0).sum()),
            n_fake=int((part.labels == 1).sum()),
            n_groups=len(np.unique(part.groups)),
            figures=measure_with_intervals(
                part.labels, part.p_fake, part.groups, threshold, rounds
            ),
        )

    everything = np.ones(len(rows.labels), dtype=np.bool_)
    overall = measure(everything)
    names = list(dict.fromkeys(rows.datasets.tolist()))
    datasets = {
        name: overall if len(names) == 1 else measure(rows.datasets == name) for name in names
    }
    fakes = rows.labels == 1
    methods = {}
    for method in sorted(set(rows.methods[fakes].tolist())):
        own = fakes & (rows.methods == method)
        beside = ~fakes & np.isin(rows.datasets, rows.datasets[own])
        mask = own | beside
        methods[method] = overall if mask.all() else measure(mask)
    return Level(rows, overall, datasets, methods)


def _read_accuracy(sets: Sequence[Predictions], threshold: float) -> Readings:
    statuses = dict.fromkeys((status.value for status in Status), 0)
    answered = right = silent = silent_real = 0
    for scored in sets:
        for file in scored.material.files:
            statuses[file.status] += 1
            if file.label is None:
                continue
            p_fake = scored.file_p_fake.get(file.id)
            if p_fake is None:
                silent += 1
                silent_real += file.label == 0
            else:
                answered += 1
                right += (p_fake >= threshold) == (file.label == 1)
    total = answered + silent
    return Readings(
        statuses,
        right / answered if answered else math.nan,
        right / total if total else math.nan,
        (right + silent_real) / total if total else math.nan,
    )


def to_json(evaluation: Evaluation, provenance: dict[str, Any]) -> dict[str, Any]:
    """The result for machines; a figure that does not exist is ``null`` with a reason."""
    return {
        "format": 1,
        "provenance": provenance,
        "threshold": evaluation.threshold,
        "aggregation": evaluation.aggregation.to_dict(),
        "bootstrap_rounds": evaluation.rounds,
        "datasets": [
            {
                "name": scored.material.name,
                "data": scored.material.origin,
                "split": scored.material.split,
                "manifest_sha256": scored.material.manifest_sha256,
                "data_sha256": scored.material.sha256,
                "faces": len(scored.material.faces),
                "remarks": list(scored.material.remarks),
            }
            for scored in evaluation.sets
        ],
        "files": {name: _readings_json(part) for name, part in evaluation.readings.items()},
        "levels": {
            name: {
                "overall": _slice_json(level.overall),
                "datasets": {key: _slice_json(part) for key, part in level.datasets.items()},
                "methods": {key: _slice_json(part) for key, part in level.methods.items()},
            }
            for name, level in evaluation.levels.items()
        },
        "faces_by": {
            trait.name: {
                "unit": trait.unit,
                "parts": [
                    {
                        "low": part.low,
                        "median": part.middle,
                        "high": part.high,
                        "n_real": part.n_real,
                        "n_fake": part.n_fake,
                        "figures": _figures_json(
                            {"reals_accused": part.accused, "fakes_missed": part.missed}
                        ),
                    }
                    for part in trait.parts
                ],
            }
            for trait in evaluation.traits
        },
        "robustness": {
            curve.name: {
                "unit": curve.unit,
                "points": [
                    {
                        "strength": point.strength,
                        "value": _number(point.value),
                        "figures": _figures_json(point.figures),
                    }
                    for point in curve.points
                ],
            }
            for curve in evaluation.curves
        },
    }


def _readings_json(readings: Readings) -> dict[str, Any]:
    return {
        "inputs": readings.files,
        **readings.statuses,
        "accuracy_of_answers": _number(readings.answered),
        "accuracy_if_unanswered_are_wrong": _number(readings.all_wrong),
        "accuracy_if_unanswered_are_called_real": _number(readings.all_real),
    }


def _slice_json(part: Slice) -> dict[str, Any]:
    total = part.n_real + part.n_fake
    return {
        "n_real": part.n_real,
        "n_fake": part.n_fake,
        "n_groups": part.n_groups,
        "prevalence": part.n_fake / total if total else None,
        "figures": _figures_json(part.figures),
    }


def _figures_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        name: {
            "value": _number(figure.value),
            "low": _number(figure.low),
            "high": _number(figure.high),
            **({"reason": figure.reason} if figure.reason else {}),
            **({"note": figure.note} if figure.note else {}),
        }
        for name, figure in figures.items()
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def format_files(evaluation: Evaluation) -> str:
    """``predictions.csv``: a row per file; without an answer ``p_fake`` is empty."""
    return format_table(
        FILE_COLUMNS,
        (
            _file_cells(scored, file, evaluation.threshold)
            for scored in evaluation.sets
            for file in scored.material.files
        ),
    )


def _file_cells(scored: Predictions, file: SourceRow, threshold: float) -> list[object]:
    p_fake = scored.file_p_fake.get(file.id)
    called = "" if p_fake is None else LABEL_NAMES[int(p_fake >= threshold)]
    label = "" if file.label is None else LABEL_NAMES[file.label]
    return [
        *(scored.material.name, file.path, file.status, file.reason, label, file.method),
        *(file.group, "" if p_fake is None else f"{p_fake:.6f}", called),
        *(int(called == label) if called and label else "", file.faces, file.path_uri),
    ]


def format_faces(evaluation: Evaluation) -> str:
    """``faces.csv``: a row per face."""
    return format_table(
        FACE_COLUMNS,
        (
            [
                *(scored.material.name, paths.get(face.source, ""), face.frame),
                *(f"{face.time_s:.6f}", face.face, number, LABEL_NAMES[require_label(face)]),
                *(face.method, face.group, f"{p_fake:.6f}", f"{face.confidence:.6f}"),
                f"{sharpness:.4g}",
                *(f"{value:.2f}" for value in face.box_xyxy),
                face.crop,
            ]
            for scored in evaluation.sets
            for paths in [{file.id: file.path for file in scored.material.files}]
            for face, number, p_fake, sharpness in zip(
                *(scored.material.faces, scored.tracks, scored.p_fake, scored.embedded.sharpness),
                strict=True,
            )
        ),
    )


def describe(evaluation: Evaluation) -> str:
    """The result for a terminal: aligned tables, with 95 % intervals in brackets."""
    blocks = []
    for name, level in evaluation.distinct_levels().items():
        parts = dict(level.datasets)
        if len(parts) > 1:
            parts[TOGETHER] = level.overall
        blocks.append(_align(f"by {name}", parts))
        if list(level.methods) != [UNNAMED]:
            blocks.append(_align(f"methods, by {name}", level.methods))
    blocks += [_align_curve(curve) for curve in evaluation.curves]
    lines = ["\n\n".join(blocks), ""]
    for name, readings in evaluation.readings.items():
        if name == TOGETHER and len(evaluation.sets) == 1:
            continue
        lines.append(f"{name}: {readings}; accuracy {_describe_readings(readings)}")
    lines += [
        f"{scored.material.name}: {remark}"
        for scored in evaluation.sets
        for remark in scored.material.remarks
    ]
    return "\n".join(lines) + "\n"


def _describe_readings(readings: Readings) -> str:
    text = _show(readings.answered)
    if readings.statuses[Status.OK.value] == readings.files:
        return text
    return (
        f"{text} of those with an answer, {_show(readings.all_wrong)} if the others count as "
        f"wrong, {_show(readings.all_real)} if they are called real"
    )


def _align(title: str, parts: dict[str, Slice]) -> str:
    head = [title, "real", "fake", "groups", *(FIGURE_NAMES[name] for name in FIGURES)]
    table = [head]
    for name, part in parts.items():
        numbers = [f"{part.n_real:,}", f"{part.n_fake:,}", f"{part.n_groups:,}"]
        table.append([name, *numbers, *(_show(part.figures[f].value) for f in FIGURES)])
        intervals = [_show_interval(part.figures[f]) for f in FIGURES]
        if any(intervals):
            table.append(["", "", "", "", *intervals])
    return "\n".join([*_columns(table), *(f"  {line}" for line in explain(parts))])


def _align_curve(curve: Curve) -> str:
    table = [[f"{curve.title} ({curve.unit})", *(FIGURE_NAMES[name] for name in ROBUST)]]
    table[0][1:] = [cell for name in table[0][1:] for cell in (name, "")]
    for point in curve.points:
        cells = [
            cell
            for figure in point.figures.values()
            for cell in (_show(figure.value), _show_interval(figure))
        ]
        table.append([name_strength(point), *cells])
    return "\n".join(_columns(table))


def name_strength(point: Point) -> str:
    """The value of a strength, or that there is none."""
    return f"{point.value:g}" if point.strength else "as they are"


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def explain(parts: Mapping[str, Slice]) -> list[str]:
    """Why figures or intervals are missing: a line for each row of a table and each reason."""
    lines = []
    for row, part in parts.items():
        names: dict[str, list[str]] = {}
        for name, figure in part.figures.items():
            remark = f"n/a: {figure.reason}" if figure.reason else figure.note
            if remark:
                names.setdefault(remark, []).append(FIGURE_NAMES[name])
        for remark, figures in names.items():
            every = len(figures) == len(part.figures)
            lines.append(f"{row}: {'everything' if every else ', '.join(figures)} {remark}")
    return lines


def _show(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "n/a"


def _show_interval(figure: Figure) -> str:
    if not math.isfinite(figure.low):
        return ""
    return f"{_show(figure.low).removeprefix('0')}-{_show(figure.high).removeprefix('0')}"
