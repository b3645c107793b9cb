"""Answers as tables: scores per file, scores per face, and a contest's submission.

Every table has exactly one row per input (or per row of the sample), in order. Knows no model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from deepfake.dataset.manifest import format_lines, format_table
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name, path_uri
from deepfake.records import MediaScore, Status
from deepfake.tables import read_csv

SCORE_COLUMNS = (
    *("path", "status", "reason", "p_fake", "verdict", "threshold", "n_faces"),
    *("x0", "y0", "x1", "y1", "path_uri"),
)
FACE_COLUMNS = (
    *("path", "frame", "time_s", "face", "track", "p_fake", "confidence", "x0", "y0", "x1", "y1"),
)
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
        return (
            f"{self.inputs:,} inputs = {parts}; {self.fakes:,} of the ok ones fake"
        )


def count(scores: Iterable[MediaScore]) -> Totals:
    """Count statuses and decisions."""
    statuses, fakes = Counter[str](), 0
    for score in scores:
        statuses[score.status.value] += 1
        fakes += score.verdict == "fake"
    return Totals(statuses, fakes)


def format_scores(scores: Iterable[MediaScore]) -> Iterator[str]:
    """Lines of ``scores.csv``: one per input; no answer, no ``p_fake``."""
    return format_lines(SCORE_COLUMNS, (_score_cells(score) for score in scores))


def format_faces(scores: Iterable[MediaScore]) -> Iterator[str]:
    """Lines of ``faces.csv``: one per scored face."""
    return format_lines(
        FACE_COLUMNS,
        (
            [
                *(display_name(score.path), face.frame_index, f"{face.time_s:.6f}"),
                *(face.face_index, face.track, f"{face.p_fake:.6f}", f"{face.confidence:.6f}"),
                *(f"{value:.2f}" for value in face.box_xyxy),
            ]
            for score in scores
            for face in score.faces
        ),
    )


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


def _score_cells(score: MediaScore) -> list[object]:
    answered = score.p_fake is not None
    return [
        *(display_name(score.path), score.status.value, display_name(score.reason)),
        f"{score.p_fake:.6f}" if answered else "",
        score.verdict or "",
        f"{score.threshold:.6f}",
        score.n_faces,
        *(("", "", "", "") if score.box_xyxy is None else (f"{v:.2f}" for v in score.box_xyxy)),
        path_uri(score.path),
    ]
