"""Predictions in, metrics at every aggregation level out: by file, by person, by face.

Verdicts are judged by the limits of the checkpoint, always; metrics that need a single cut
(accuracy) take even odds. Knows no network, no table and no page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, NUMBER, TEXT, TEXTS, WORD, PackedRows, number_texts
from deepfake.dataset.manifest import SourceRow, require_labels
from deepfake.evaluation.bootstrap import N_RESAMPLES, bootstrap_metrics, measure_verdicts
from deepfake.evaluation.predictions import Predictions, ScoredFile
from deepfake.evaluation.slices import Slicing, compute_slices
from deepfake.metrics import NAN, Estimate
from deepfake.records import EVEN_ODDS, Aggregation, Limits, Status, Verdict

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("file", "person", "face")
ROBUSTNESS_METRICS = ("auc", "accuracy")
"""What is followed along a corruption."""
OVERALL = "all together"
UNNAMED = "(not named)"


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """What metrics are made of, a row per face, person or file.

    Args:
        labels: ``(N,)`` int64, 1 = fake.
        p_fake: ``(N,)`` float64.
        groups: ``(N,)`` text; groups of two data sets differ.
        methods: ``(N,)`` text; of reals without meaning.
        datasets: ``(N,)`` text.
        n_people: ``(N,)`` int64, people who count in a row: 1 but for files.
    """

    labels: NDArray[np.int64]
    p_fake: NDArray[np.float64]
    groups: NDArray[Any]
    methods: NDArray[Any]
    datasets: NDArray[Any]
    n_people: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> ScoredRows:
        """The rows that a mask selects."""
        return ScoredRows(*(column[mask] for column in self.columns))

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """In the order of the arguments."""
        columns = (self.labels, self.p_fake, self.groups, self.methods, self.datasets)
        return (*columns, self.n_people)

    def judge(self, limits: Limits) -> list[Verdict]:
        """The verdict on each row."""
        scores = zip(self.p_fake.tolist(), self.n_people.tolist(), strict=True)
        return [limits.judge(p_fake, n_people) for p_fake, n_people in scores]


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """The metrics of some rows.

    Args:
        n_real: Real rows.
        n_fake: Fake rows.
        n_groups: Groups that they fall into.
        prevalence: Share of fakes, ``nan`` without rows.
        metrics: By name, in the order of ``METRICS``.
        rates: Of the verdicts, by name, in the order of ``RATES``.
    """

    n_real: int
    n_fake: int
    n_groups: int
    prevalence: float
    metrics: dict[str, Estimate]
    rates: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class LevelMetrics:
    """All metrics of one aggregation level: overall, by data set, by method.

    Args:
        rows: What they were made of.
        overall: Of all rows together.
        datasets: Of each data set, in the order given.
        methods: Of each method's fakes against all reals of the data sets that it occurs in.
    """

    rows: ScoredRows
    overall: GroupMetrics
    datasets: dict[str, GroupMetrics]
    methods: dict[str, GroupMetrics]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many files have a score, and what those without one would do to the accuracy.

    Args:
        statuses: Number of files by status; they add up to all files.
        accuracy: Of the labelled files with a score, at even odds.
        accuracy_if_wrong: If every labelled file without a score counts as a mistake.
        accuracy_if_real: If they are predicted real, as whoever lets them pass does.
    """

    statuses: dict[str, int]
    accuracy: float
    accuracy_if_wrong: float
    accuracy_if_real: float

    @property
    def n_files(self) -> int:
        """Number of files."""
        return sum(self.statuses.values())

    @property
    def n_unscored(self) -> int:
        """Number of files without a score."""
        return self.n_files - self.statuses[Status.OK.value]

    def __str__(self) -> str:
        parts = " + ".join(f"{number:,} {status}" for status, number in self.statuses.items())
        return f"{self.n_files:,} files = {parts}"


@dataclass(frozen=True, slots=True)
class RobustnessPoint:
    """What is left of the metrics at one severity of a corruption.

    Args:
        severity: 0 is the crops as they are.
        value: What the severity stands for, ``nan`` at 0.
        metrics: Of files, all data sets together; ``ROBUSTNESS_METRICS`` of them.
    """

    severity: int
    value: float
    metrics: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class RobustnessCurve:
    """A corruption from severity 0 on.

    Args:
        name: Short name.
        title: For people.
        unit: What its values are.
        points: By rising severity.
    """

    name: str
    title: str
    unit: str
    points: tuple[RobustnessPoint, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that an evaluation found.

    Args:
        limits: Of the checkpoint.
        aggregation: How the frames of a file made its score.
        n_resamples: Behind each interval.
        sets: The data sets with their scores.
        levels: By name: ``file``, ``person``, ``face``.
        coverage: Of all files, by data set, and ``OVERALL``.
        slices: Error rates of faces by their size and by their sharpness.
        robustness: What corruptions do, where that was asked for.
    """

    limits: Limits
    aggregation: Aggregation
    n_resamples: int
    sets: tuple[Predictions, ...]
    levels: dict[str, LevelMetrics]
    coverage: dict[str, Coverage]
    slices: tuple[Slicing, ...]
    robustness: tuple[RobustnessCurve, ...] = ()

    def distinct_levels(self) -> dict[str, LevelMetrics]:
        """The levels without repetition: those of the same rows share a name."""
        names: dict[int, list[str]] = {}
        for name, level in self.levels.items():
            names.setdefault(id(level), []).append(name)
        return {", ".join(same): self.levels[same[0]] for same in names.values()}

    def to_frame(self) -> pd.DataFrame:
        """A row per aggregation level, group (overall, data set or method) and metric."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "level": level_name,
                    "by": by,
                    "group": group_name,
                    "n_real": group.n_real,
                    "n_fake": group.n_fake,
                    "n_groups": group.n_groups,
                    "metric": name,
                    **asdict(estimate),
                }
                for level_name, level in self.levels.items()
                for by, groups in (
                    ("overall", {OVERALL: level.overall}),
                    ("dataset", level.datasets),
                    ("method", level.methods),
                )
                for group_name, group in groups.items()
                for name, estimate in (group.metrics | group.rates).items()
            ]
        )


def evaluate_predictions(
    sets: Sequence[Predictions],
    limits: Limits,
    aggregation: Aggregation,
    n_resamples: int = N_RESAMPLES,
) -> Evaluation:
    """Compute all metrics of scored data sets.

    Args:
        sets: One or more, of different names.
        limits: Of the verdict; the checkpoint's.
        aggregation: How the scores of files were made, for the record.
        n_resamples: Of the bootstrap.
    """
    levels: dict[str, LevelMetrics] = {}
    for name, rows_of in _LEVEL_ROWS.items():
        rows = _join([rows_of(predictions) for predictions in sets])
        # Levels of the same rows are computed once.
        same = (level for level in levels.values() if _same_rows(level.rows, rows))
        levels[name] = next(same, None) or _compute_level(rows, limits, n_resamples)
    coverage = {one.dataset.name: _compute_coverage([one]) for one in sets}
    coverage[OVERALL] = _compute_coverage(sets)
    return Evaluation(
        limits=limits,
        aggregation=aggregation,
        n_resamples=n_resamples,
        sets=tuple(sets),
        levels=levels,
        coverage=coverage,
        slices=compute_slices(sets, limits, n_resamples),
    )


def compute_robustness_point(
    sets: Sequence[Predictions], n_resamples: int, severity: int, value: float
) -> RobustnessPoint:
    """The metrics of files whose crops were corrupted, and then scored as ever."""
    rows = _join([file_rows(predictions) for predictions in sets])
    metrics = bootstrap_metrics(rows.labels, rows.p_fake, rows.groups, EVEN_ODDS, n_resamples)
    return RobustnessPoint(severity, value, {name: metrics[name] for name in ROBUSTNESS_METRICS})


def start_of_robustness(evaluation: Evaluation) -> RobustnessPoint:
    """The metrics of files as they are, as the first point of every curve."""
    metrics = evaluation.levels["file"].overall.metrics
    return RobustnessPoint(0, NAN, {name: metrics[name] for name in ROBUSTNESS_METRICS})


def _face_rows(predictions: Predictions) -> ScoredRows:
    return _make_rows(_list_faces(predictions), predictions.dataset.name)


def _person_rows(predictions: Predictions) -> ScoredRows:
    """The people of the labelled files that have a score."""
    return _make_rows(
        (
            _Row(label, person.p_fake, file.group, file.method, int(person.counts))
            for file, label, score in _iter_scored(predictions)
            for person in score.people
        ),
        predictions.dataset.name,
    )


def _list_faces(predictions: Predictions) -> Iterator[_Row]:
    faces, p_fake = predictions.dataset.faces, predictions.p_fake
    labels = require_labels(faces)
    for place, (group, method) in enumerate(
        zip(faces.values("group"), faces.values("method"), strict=True)
    ):
        yield _Row(int(labels[place]), float(p_fake[place]), group, method, 1)


def file_rows(predictions: Predictions) -> ScoredRows:
    """The labelled files that have a score."""
    return _make_rows(
        (
            _Row(label, score.p_fake, file.group, file.method, score.n_people)
            for file, label, score in _iter_scored(predictions)
        ),
        predictions.dataset.name,
    )


def _iter_scored(predictions: Predictions) -> Iterator[tuple[SourceRow, int, ScoredFile]]:
    """The labelled files that have a score, with both."""
    for file in predictions.dataset.files:
        score = None if file.label is None else predictions.files.get(file.id)
        if file.label is not None and score is not None:
            yield file, file.label, score


_LEVEL_ROWS = {"file": file_rows, "person": _person_rows, "face": _face_rows}


class _Row(NamedTuple):
    label: int
    p_fake: float
    group: str
    method: str
    n_people: int


_KINDS = {"label": COUNT, "p_fake": NUMBER, "group": TEXT, "method": WORD, "n_people": COUNT}


def _make_rows(rows: Iterable[_Row], dataset: str) -> ScoredRows:
    named = (
        row._replace(group=f"{dataset}/{row.group}", method=row.method or UNNAMED) for row in rows
    )
    packed = PackedRows.pack(_Row, _KINDS, named)
    return ScoredRows(
        labels=packed.kept("label"),
        p_fake=packed.kept("p_fake"),
        groups=packed.texts("group"),
        methods=packed.texts("method"),
        datasets=np.full(len(packed), dataset, TEXTS),
        n_people=packed.kept("n_people"),
    )


def _join(parts: Sequence[ScoredRows]) -> ScoredRows:
    columns = zip(*(part.columns for part in parts), strict=True)
    return ScoredRows(*(np.concatenate(column) for column in columns))


def _same_rows(one: ScoredRows, other: ScoredRows) -> bool:
    columns = zip(one.columns, other.columns, strict=True)
    return all(np.array_equal(first, second) for first, second in columns)


def _compute_level(rows: ScoredRows, limits: Limits, n_resamples: int) -> LevelMetrics:
    verdicts = np.array(rows.judge(limits), dtype=np.str_)

    def compute(mask: NDArray[np.bool_]) -> GroupMetrics:
        part = rows.where(mask)
        return GroupMetrics(
            n_real=int((part.labels == 0).sum()),
            n_fake=int((part.labels == 1).sum()),
            n_groups=len(number_texts(part.groups)[1]),
            prevalence=float(part.labels.mean()) if len(part.labels) else NAN,
            metrics=bootstrap_metrics(
                part.labels, part.p_fake, part.groups, EVEN_ODDS, n_resamples
            ),
            rates=measure_verdicts(part.labels, verdicts[mask], part.groups, n_resamples),
        )

    overall = compute(np.ones(len(rows.labels), dtype=np.bool_))
    names = list(dict.fromkeys(rows.datasets.tolist()))
    datasets = {
        name: overall if len(names) == 1 else compute(rows.datasets == name) for name in names
    }
    fakes = rows.labels == 1
    methods = {}
    for method in sorted(set(rows.methods[fakes].tolist())):
        own = fakes & (rows.methods == method)
        beside = np.zeros(len(fakes), bool)
        for name in set(rows.datasets[own].tolist()):
            beside |= ~fakes & (rows.datasets == name)
        mask = own | beside
        methods[method] = overall if mask.all() else compute(mask)
    return LevelMetrics(rows, overall, datasets, methods)


def _compute_coverage(sets: Sequence[Predictions]) -> Coverage:
    statuses = dict.fromkeys((status.value for status in Status), 0)
    scored = correct = unscored = unscored_real = 0
    for predictions in sets:
        for file in predictions.dataset.files:
            statuses[file.status] += 1
            if file.label is None:
                continue
            score = predictions.files.get(file.id)
            if score is None:
                unscored += 1
                unscored_real += file.label == 0
            else:
                scored += 1
                correct += (score.p_fake >= EVEN_ODDS) == (file.label == 1)
    total = scored + unscored
    return Coverage(
        statuses=statuses,
        accuracy=correct / scored if scored else NAN,
        accuracy_if_wrong=correct / total if total else NAN,
        accuracy_if_real=(correct + unscored_real) / total if total else NAN,
    )
