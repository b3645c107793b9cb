"""Results as tables: scores per file, scores per face, and a contest's submission.

Every table has exactly one row per input (or per row of the sample), in order. A CSV is written as
the results come, a million rows in little memory; a table of pandas is for people. Knows no model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from deepfake.dataset.manifest import format_lines, format_table
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name, path_uri
from deepfake.records import MediaScore, Status
from deepfake.tables import read_csv

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_CORNERS = ("x0", "y0", "x1", "y1")
_ANSWER = ("status", "reason", "p_fake", "label", "threshold", "n_faces")
SCORE_COLUMNS = ("path", *_ANSWER, *_CORNERS, "path_uri")
FACE_COLUMNS = ("path", "frame", "time_s", "face", "track", "p_fake", "confidence", *_CORNERS)
_TEXTS = ("path", "status", "reason", "label", "path_uri")
_COUNTS = ("n_faces", "frame", "face", "track")
_SAMPLE_PATH_COLUMNS = ("path", "id", "filename", "file", "name", "image", "image_id")


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of a prediction job; ``str()`` is a line that adds up."""

    statuses: Counter[str]
    fakes: int

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return sum(self.statuses.values())

    @property
    def answers(self) -> int:
        """Number of inputs with a score."""
        return self.statuses[Status.OK.value]

    def __str__(self) -> str:
        parts = " + ".join(f"{self.statuses[status.value]:,} {status.value}" for status in Status)
        return f"{self.inputs:,} inputs = {parts}; of the ok ones {self.fakes:,} are called fake"


def count(scores: Iterable[MediaScore]) -> Totals:
    """Count statuses and decisions."""
    statuses, fakes = Counter[str](), 0
    for score in scores:
        statuses[score.status.value] += 1
        fakes += score.label == "fake"
    return Totals(statuses, fakes)


class Results(Iterator[MediaScore]):
    """Results of a prediction, one per input and in order, as they come.

    Args:
        scores: Where they come from.
    """

    def __init__(self, scores: Iterable[MediaScore]) -> None:
        self._scores = iter(scores)

    def __next__(self) -> MediaScore:
        return next(self._scores)

    def close(self) -> None:
        """End the work on results that nobody waits for any more."""
        if isinstance(self._scores, Generator):
            self._scores.close()

    def to_frame(self, level: Literal["file", "face"] = "file") -> pd.DataFrame:
        """All results that are still to come as a table of pandas.

        It has the columns of ``scores.csv`` or ``faces.csv``, numbers not rounded, and ``NaN`` or
        ``NA`` where there is no answer.

        Args:
            level: One row per input, or one row per scored face.
        """
        import pandas as pd

        columns, list_rows = _LEVELS[level]
        table = pd.DataFrame([row for score in self for row in list_rows(score)], columns=columns)
        kinds = dict.fromkeys(columns, "float64")
        kinds |= {name: "string" for name in columns if name in _TEXTS}
        return table.astype(kinds | {name: "int64" for name in columns if name in _COUNTS})


def format_scores(scores: Iterable[MediaScore]) -> Iterator[str]:
    """Lines of ``scores.csv``: one per input; no answer, no ``p_fake``."""
    return _format(scores, "file")


def format_faces(scores: Iterable[MediaScore]) -> Iterator[str]:
    """Lines of ``faces.csv``: one per scored face."""
    return _format(scores, "face")


@dataclass(frozen=True, slots=True)
class Submission:
    """A filled-in sample.

    Args:
        text: The CSV.
        answered: Rows that got a score.
        without_answer: Rows whose file has no score.
        without_file: Rows that name none of the inputs.
    """

    text: str
    answered: int
    without_answer: int
    without_file: int


def fill_submission(
    sample: Path,
    scores: Iterable[MediaScore],
    fallback: float,
    value: Literal["p_fake", "label"] = "p_fake",
) -> Submission:
    """Fill column ``y`` of a contest's sample, keeping its rows, order and other columns.

    A row's file is found by its path, else by its file name, else by that name without suffix;
    a name alone must be unique.

    Args:
        sample: CSV with a ``y`` column and one that names files (``path``, ``id``, ...).
        scores: The answers; read once, and only path, score and threshold of each are kept.
        fallback: Written where there is no answer.
        value: ``p_fake``, or ``label`` for a hard 1 = fake, 0 = real.

    Raises:
        UsageError: If the sample lacks a column, or a row's file is ambiguous.
    """
    rows = read_csv(sample, ["y"])
    columns = list(rows[0].values) if rows else []
    named = [column for column in _SAMPLE_PATH_COLUMNS if column in columns]
    if not named:
        raise UsageError(
            f"{sample} has columns {', '.join(columns) or '(no rows)'}; one of "
            f"{', '.join(_SAMPLE_PATH_COLUMNS)} must name the files"
        )
    by_path = {
        _parts(score.path): _Answer(score.path, score.p_fake, score.threshold) for score in scores
    }
    by_name: dict[str, list[_Answer]] = defaultdict(list)
    by_stem: dict[str, list[_Answer]] = defaultdict(list)
    for answer in by_path.values():  # not `scores`: a file that was asked for twice is one file
        path = PurePosixPath(answer.path.replace("\\", "/"))
        by_name[path.name].append(answer)
        by_stem[path.stem].append(answer)
    counts = Counter[str]()
    cells = []
    for row in rows:
        match = _find(row[named[0]], by_path, (by_name, by_stem), f"{sample}:{row.line}")
        if match is None:
            counts["without_file"] += 1
        else:
            counts["answered" if match.p_fake is not None else "without_answer"] += 1
        answered = match is not None and match.p_fake is not None
        y = match.p_fake if match is not None and match.p_fake is not None else fallback
        threshold = match.threshold if match is not None and answered else 0.5
        filled: dict[str, object] = {
            **row.values,
            "y": f"{y:.6f}" if value == "p_fake" else int(y >= threshold),
        }
        cells.append([filled[column] for column in columns])
    return Submission(
        format_table(columns, cells),
        counts["answered"],
        counts["without_answer"],
        counts["without_file"],
    )


class _Answer(NamedTuple):
    path: str
    p_fake: float | None
    threshold: float


def _find(
    name: str,
    by_path: dict[tuple[str, ...], _Answer],
    by_last_part: tuple[dict[str, list[_Answer]], ...],
    where: str,
) -> _Answer | None:
    exact = by_path.get(_parts(name))
    if exact is not None:
        return exact
    last = _parts(name)[-1] if _parts(name) else name
    found = next((index[last] for index in by_last_part if last in index), [])
    if len(found) > 1:
        raise UsageError(
            f"{where}: {name!r} could be {found[0].path!r} or {found[1].path!r}; give predict the "
            "folder that the sample's paths start from"
        )
    return found[0] if found else None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _list_file(score: MediaScore) -> list[list[object]]:
    """The one row of a file."""
    name, reason = display_name(score.path), display_name(score.reason)
    answer = [score.status.value, reason, score.p_fake, score.label, score.threshold, score.n_faces]
    return [[name, *answer, *(score.box_xyxy or (None,) * 4), path_uri(score.path)]]


def _list_faces(score: MediaScore) -> list[list[object]]:
    """A row for each scored face of a file."""
    name = display_name(score.path)
    return [
        [name, f.frame_index, f.time_s, f.face_index, f.track, f.p_fake, f.confidence, *f.box_xyxy]
        for f in score.faces
    ]


_LEVELS = {"file": (SCORE_COLUMNS, _list_file), "face": (FACE_COLUMNS, _list_faces)}


def _format(scores: Iterable[MediaScore], level: Literal["file", "face"]) -> Iterator[str]:
    columns, list_rows = _LEVELS[level]
    formats = dict.fromkeys(columns, ".6f") | dict.fromkeys(_CORNERS, ".2f")
    formats |= dict.fromkeys(_TEXTS + _COUNTS, "")

    def cells(row: list[object]) -> Iterator[str]:
        for column, value in zip(columns, row, strict=True):
            yield "" if value is None else format(value, formats[column])

    return format_lines(columns, (cells(row) for score in scores for row in list_rows(score)))
