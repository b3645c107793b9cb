"""Predictions in, metrics at every aggregation level out: by file, by person, by face.

Verdicts are judged by the limits of the checkpoint, always; metrics that need a single cut
(accuracy) take even odds. Knows no network, no table and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRows, SourceRows, require_labels
from deepfake.dataset.texts import Words
from deepfake.evaluation.bootstrap import N_RESAMPLES, bootstrap_metrics, measure_verdicts
from deepfake.evaluation.predictions import Predictions, name_groups
from deepfake.evaluation.sets import EvaluationSet
from deepfake.evaluation.slices import Slicing, compute_slices
from deepfake.metrics import NAN, Estimate
from deepfake.records import EVEN_ODDS, Aggregation, Limits, Status

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
        groups: ``(N,)``; groups of two data sets differ.
        methods: ``(N,)``; of reals without meaning.
        datasets: ``(N,)``.
        n_people: ``(N,)`` int64, people who count in a row: 1 but for files.
    """

    labels: NDArray[np.int64]
    p_fake: NDArray[np.float64]
    groups: Words
    methods: Words
    datasets: Words
    n_people: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> ScoredRows:
        """The rows that a mask selects."""
        if mask.all():
            return self
        return ScoredRows(*(getattr(self, field.name)[mask] for field in fields(self)))

    def judge(self, limits: Limits) -> NDArray[np.object_]:
        """The verdict on each row, ``(N,)`` of ``Verdict``."""
        verdicts = map(limits.judge, self.p_fake, self.n_people)
        return np.fromiter(verdicts, np.object_, len(self.p_fake))


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
    groups = rows.groups.numbers
    metrics = bootstrap_metrics(rows.labels, rows.p_fake, groups, EVEN_ODDS, n_resamples)
    return RobustnessPoint(severity, value, {name: metrics[name] for name in ROBUSTNESS_METRICS})


def start_of_robustness(evaluation: Evaluation) -> RobustnessPoint:
    """The metrics of files as they are, as the first point of every curve."""
    metrics = evaluation.levels["file"].overall.metrics
    return RobustnessPoint(0, NAN, {name: metrics[name] for name in ROBUSTNESS_METRICS})


def _face_rows(predictions: Predictions) -> ScoredRows:
    faces = predictions.dataset.faces
    require_labels(faces)
    n_people = np.ones(len(faces), np.int64)
    return _make_rows(predictions.dataset, faces, predictions.p_fake, n_people)


def _person_rows(predictions: Predictions) -> ScoredRows:
    """The people of the labelled files that have a score."""
    scores = predictions.files
    files, place = _find_scored(predictions)
    ends = np.concatenate([[0], scores.ends])
    n_people = ends[place + 1] - ends[place]
    # Of each person the place of the first one of the file, and how many came before in it.
    first = np.cumsum(n_people) - n_people
    person = np.repeat(ends[place] - first, n_people) + np.arange(n_people.sum())
    return _make_rows(
        predictions.dataset,
        predictions.dataset.files.choose(np.repeat(files, n_people)),
        scores.person_p_fake[person],
        scores.person_counts[person].astype(np.int64),
    )


def file_rows(predictions: Predictions) -> ScoredRows:
    """The labelled files that have a score."""
    scores = predictions.files
    files, place = _find_scored(predictions)
    return _make_rows(
        predictions.dataset,
        predictions.dataset.files.choose(files),
        scores.p_fake[place],
        scores.n_people[place].astype(np.int64),
    )


def _find_scored(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labelled files that have a score, ``(F,)``, and where in ``files`` it is, ``(F,)``."""
    place = predictions.find_scores()
    files = np.flatnonzero((predictions.dataset.files.kept("label") >= 0) & (place >= 0))
    return files, place[files]


_LEVEL_ROWS = {"file": file_rows, "person": _person_rows, "face": _face_rows}


def _make_rows(
    dataset: EvaluationSet,
    rows: CropRows | SourceRows,
    p_fake: NDArray[np.float64],
    n_people: NDArray[np.int64],
) -> ScoredRows:
    methods = rows.words("method")
    named = [method or UNNAMED for method in methods.texts]
    return ScoredRows(
        labels=rows.kept("label").astype(np.int64),
        p_fake=p_fake,
        groups=name_groups(dataset, rows),
        methods=Words.join((methods.numbers, named)),
        datasets=Words.join((np.zeros(len(rows), np.int32), [dataset.name])),
        n_people=n_people,
    )


def _join(parts: Sequence[ScoredRows]) -> ScoredRows:
    if len(parts) == 1:
        return parts[0]

    def join_words(name: str) -> Words:
        words = [getattr(part, name) for part in parts]
        return Words.join(*((one.numbers, one.texts) for one in words))

    return ScoredRows(
        labels=np.concatenate([part.labels for part in parts]),
        p_fake=np.concatenate([part.p_fake for part in parts]),
        groups=join_words("groups"),
        methods=join_words("methods"),
        datasets=join_words("datasets"),
        n_people=np.concatenate([part.n_people for part in parts]),
    )


def _same_rows(one: ScoredRows, other: ScoredRows) -> bool:
    if len(one.labels) != len(other.labels):
        return False
    columns = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return all(
        first.is_same(second) if isinstance(first, Words) else np.array_equal(first, second)
        for first, second in columns
    )


def _compute_level(rows: ScoredRows, limits: Limits, n_resamples: int) -> LevelMetrics:
    verdicts = rows.judge(limits)

    def compute(mask: NDArray[np.bool_]) -> GroupMetrics:
        part = rows.where(mask)
        groups = part.groups.numbers
        return GroupMetrics(
            n_real=int((part.labels == 0).sum()),
            n_fake=int((part.labels == 1).sum()),
            n_groups=int(np.count_nonzero(np.bincount(groups))),
            prevalence=float(part.labels.mean()) if len(part.labels) else NAN,
            metrics=bootstrap_metrics(part.labels, part.p_fake, groups, EVEN_ODDS, n_resamples),
            rates=measure_verdicts(part.labels, verdicts[mask], groups, n_resamples),
        )

    overall = compute(np.ones(len(rows.labels), dtype=np.bool_))
    names = rows.datasets.list_used()
    datasets = {
        name: overall if len(names) == 1 else compute(rows.datasets.are(name)) for name in names
    }
    fakes = rows.labels == 1
    methods = {}
    for method in sorted(rows.methods[fakes].list_used()):
        own = fakes & rows.methods.are(method)
        beside = np.zeros(len(fakes), bool)
        for name in rows.datasets[own].list_used():
            beside |= ~fakes & rows.datasets.are(name)
        mask = own | beside
        methods[method] = overall if mask.all() else compute(mask)
    return LevelMetrics(rows, overall, datasets, methods)


def _compute_coverage(sets: Sequence[Predictions]) -> Coverage:
    statuses = dict.fromkeys((status.value for status in Status), 0)
    scored = correct = unscored = unscored_real = 0
    for predictions in sets:
        files = predictions.dataset.files
        labels, place = files.kept("label"), predictions.find_scores()
        for status in statuses:
            statuses[status] += int(np.count_nonzero(files.words("status").are(status)))
        has_score = place >= 0
        unscored += int(np.count_nonzero((labels >= 0) & ~has_score))
        unscored_real += int(np.count_nonzero((labels == 0) & ~has_score))
        own = (labels >= 0) & has_score
        scored += int(np.count_nonzero(own))
        called_fake = predictions.files.p_fake[place[own]] >= EVEN_ODDS
        correct += int(np.count_nonzero(called_fake == (labels[own] == 1)))
    total = scored + unscored
    return Coverage(
        statuses=statuses,
        accuracy=correct / scored if scored else NAN,
        accuracy_if_wrong=correct / total if total else NAN,
        accuracy_if_real=(correct + unscored_real) / total if total else NAN,
    )
