"""Embeddings in, scores of faces and files out, as ``Predictor`` gives them.

Knows no metric and no chart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, NUMBER, TEXT, PackedRows, number_texts
from deepfake.dataset.manifest import CropRow, CropRows, pack_crops
from deepfake.evaluation.embeddings import Embeddings
from deepfake.evaluation.sets import EvaluationSet
from deepfake.heads import Head
from deepfake.inference.aggregation import FileScore, aggregate
from deepfake.inference.people import choose_faces, score_faces
from deepfake.records import Aggregation, Face, FoundFace

_CHUNK = 1 << 16  # embeddings that a head scores at a time


@dataclass(frozen=True, slots=True)
class ScoredPerson:
    """What an evaluation keeps of a person: the score, and whether it may decide."""

    p_fake: float
    counts: bool


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What an evaluation keeps of the score of a file, see ``FileScore``."""

    id: str
    p_fake: float
    n_people: int
    people: tuple[ScoredPerson, ...]


def _write_people(people: Sequence[ScoredPerson]) -> str:
    return " ".join(f"{float(one.p_fake)!r} {int(one.counts)}" for one in people)


def _parse_people(text: str) -> tuple[ScoredPerson, ...]:
    words = text.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return tuple(ScoredPerson(float(p_fake), counts == "1") for p_fake, counts in pairs)


_KINDS = {
    "id": TEXT, "p_fake": NUMBER, "n_people": COUNT,
    "people": replace(TEXT, encode=_write_people, decode=_parse_people),
}  # fmt: skip


class FileScores(Mapping[str, ScoredFile]):
    """Scores of files by id, in the order in which they came, in few bytes each.

    Args:
        scores: Id and score of each.
    """

    def __init__(self, scores: Iterable[tuple[str, FileScore]]) -> None:
        kept = (
            ScoredFile(
                id,
                score.p_fake,
                score.n_people,
                tuple(ScoredPerson(one.p_fake, one.counts) for one in score.people),
            )
            for id, score in scores
        )
        self._rows = PackedRows.pack(ScoredFile, _KINDS, kept)
        ids = self._rows.texts("id")
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return self._rows.values("id")

    def __getitem__(self, id: str) -> ScoredFile:
        place = bisect_left(self._sorted, id)
        if place == len(self._sorted) or self._sorted[place] != id:
            raise KeyError(id)
        return self._rows[int(self._order[place])]


@dataclass(frozen=True, slots=True)
class Predictions:
    """A data set with the scores of a checkpoint.

    Args:
        dataset: The data set.
        embeddings: Of its faces.
        p_fake: ``(N,)`` float64 score of each face.
        people: Number of the person of each face within its file; ``None``: a prediction would
            not score this face.
        files: Score of each file, by id; files without a score are not in it.
    """

    dataset: EvaluationSet
    embeddings: Embeddings
    p_fake: NDArray[np.float64]
    people: tuple[int | None, ...]
    files: Mapping[str, ScoredFile]


def predict_set(
    dataset: EvaluationSet, embeddings: Embeddings, head: Head, aggregation: Aggregation
) -> Predictions:
    """Turn embeddings into scores of faces and files.

    Args:
        dataset: The data set.
        embeddings: Of its faces.
        head: Embeddings to probabilities, in evaluation mode.
        aggregation: How the faces of a file make its score.
    """
    vectors = embeddings.vectors
    with torch.inference_mode():  # some at a time: a head works in float64
        parts = [
            head(torch.from_numpy(vectors[start : start + _CHUNK]))
            for start in range(0, max(len(vectors), 1), _CHUNK)
        ]
    p_fake = torch.cat(parts).numpy()
    files, people = score_files(dataset.faces, p_fake, aggregation)
    return Predictions(dataset, embeddings, p_fake, people, files)


def score_files(
    faces: Sequence[CropRow], p_fake: NDArray[np.float64], aggregation: Aggregation
) -> tuple[FileScores, tuple[int | None, ...]]:
    """The scores of the files that faces are of.

    Args:
        faces: ``N`` rows of a manifest.
        p_fake: ``(N,)`` their scores.
        aggregation: How the faces of a file make its score.

    Returns:
        The score of each file by id, in order of the first faces, and each face's person as of
        ``Predictions``.
    """
    rows = pack_crops(faces)
    people: list[int | None] = [None] * len(rows)

    def iter_scores() -> Iterator[tuple[str, FileScore]]:
        for places in _group_by_file(rows):
            found = [_find(place, rows[place]) for place in places]
            chosen = choose_faces(found, aggregation)
            scores = [float(p_fake[one.place]) for one in chosen]
            scored = score_faces(chosen, scores, aggregation)
            for one, face in zip(chosen, scored, strict=True):
                people[one.place] = face.person
            score = aggregate(scored, aggregation)
            if score is not None:
                yield rows[places[0]].source, score

    return FileScores(iter_scores()), tuple(people)


def _group_by_file(rows: CropRows) -> Iterator[list[int]]:
    """The rows of each file, in order; files in that of their first."""
    (source,), _ = number_texts(rows.texts("source"))
    order = np.argsort(source, kind="stable")
    starts = np.flatnonzero(np.diff(source[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    for file in np.argsort(order[starts]).tolist():
        yield order[starts[file] : ends[file]].tolist()


@dataclass(frozen=True, slots=True)
class _FoundRow(FoundFace):
    """A row of a crop folder as a face that was found in a file."""

    place: int


def _find(place: int, row: CropRow) -> _FoundRow:
    landmarks = np.array(row.landmarks, np.float32).reshape(5, 2)
    face = Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
    return _FoundRow(row.frame, row.time_s, row.face, face, row.rotation, place)
