"""Answers as tables: scores per file, scores per face.

The first has exactly one row per input, in order. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deepfake.dataset.manifest import format_lines
from deepfake.media.discovery import display_name, path_uri
from deepfake.records import MediaScore, Status

SCORE_COLUMNS = (
    *("path", "status", "reason", "p_fake", "verdict", "threshold", "n_faces"),
    *("x0", "y0", "x1", "y1", "path_uri"),
)
FACE_COLUMNS = (
    *("path", "frame", "time_s", "face", "track", "p_fake", "confidence", "x0", "y0", "x1", "y1"),
)


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
        return f"{self.inputs:,} inputs = {parts}; {self.fakes:,} of the ok ones fake"


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
