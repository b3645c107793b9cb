"""Embeddings in, scores of faces and files out, as ``Predictor`` gives them.

Knows no metric and no chart.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, NUMBER, TEXT, PackedRows
from deepfake.dataset.large_arrays import iter_items
from deepfake.dataset.rows import CropRow, CropRows, SourceRows, pack_crops
from deepfake.dataset.texts import TextIndex, Texts, Words, find_first, number_texts
from deepfake.evaluation.embeddings import Embeddings
from deepfake.evaluation.sets import EvaluationSet
from deepfake.heads import Head
from deepfake.inference.aggregation import FileScore, aggregate
from deepfake.inference.people import choose_faces, is_usable, score_faces
from deepfake.records import Aggregation, Face, FoundFace

_CHUNK = 1 << 12  # embeddings that a head scores at a time
N_DRAWN = 1000
"""Faces of a data set whose embeddings are kept to be drawn: more cannot be told apart."""


@dataclass(frozen=True, slots=True)
class ScoredPerson:
    """What an evaluation keeps of a person: the score, and whether it may decide."""

    p_fake: float
    counts: bool


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What an evaluation keeps of the score of a file, see ``FileScore``."""

    p_fake: float
    n_people: int
    people: tuple[ScoredPerson, ...]


class _ScoreRow(NamedTuple):
    id: str
    p_fake: float
    n_people: int
    end: int


_KINDS = {"id": TEXT, "p_fake": NUMBER, "n_people": COUNT, "end": COUNT}


class FileScores(Mapping[str, ScoredFile]):
    """Scores of files by id, in the order in which they came, in few bytes each.

    Args:
        scores: Id and score of each.

    Attributes:
        p_fake: ``(F,)`` float64, scores of files.
        n_people: ``(F,)`` integers, how many people count in each.
        ends: ``(F,)`` integers, the place behind each file's last person.
        person_p_fake: ``(P,)`` float64, scores of people, file by file.
        person_counts: ``(P,)`` bool, whether they count.
    """

    def __init__(self, scores: Iterable[tuple[str, FileScore | ScoredFile]]) -> None:
        p_fake, counts = array("d"), array("b")

        def list_people() -> Iterator[_ScoreRow]:
            for id, score in scores:
                p_fake.extend(one.p_fake for one in score.people)
                counts.extend(one.counts for one in score.people)
                yield _ScoreRow(id, score.p_fake, score.n_people, len(p_fake))

        rows = PackedRows.pack(_ScoreRow, _KINDS, list_people())
        self._ids = rows.texts("id")
        self.p_fake, self.n_people = rows.kept("p_fake"), rows.kept("n_people")
        self.ends = rows.kept("end")
        self.person_p_fake = np.frombuffer(p_fake)
        self.person_counts = np.frombuffer(counts, np.bool_)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __getitem__(self, id: str) -> ScoredFile:
        place = self._index.find(id)
        people = slice(int(self.ends[place - 1]) if place else 0, int(self.ends[place]))
        found = zip(
            self.person_p_fake[people].tolist(), self.person_counts[people].tolist(), strict=True
        )
        return ScoredFile(
            float(self.p_fake[place]),
            int(self.n_people[place]),
            tuple(ScoredPerson(p_fake, counts) for p_fake, counts in found),
        )

    @cached_property
    def _index(self) -> TextIndex:
        return TextIndex(self._ids)

    def find(self, ids: Texts) -> NDArray[np.int64]:
        """The place of the score of each of some files, ``(N,)``; -1 where there is none."""
        own, wanted = number_texts(self._ids, ids)
        return find_first(own, max(own.max(initial=-1), wanted.max(initial=-1)) + 1)[wanted]


@dataclass(frozen=True, slots=True)
class Predictions:
    """A data set with the scores of a checkpoint.

    Args:
        dataset: The data set.
        p_fake: ``(N,)`` float64 score of each face.
        sharpness: ``(N,)`` float32, as of ``measure_sharpness``.
        drawn: ``(M, D)`` float32, the embeddings of the faces ``choose_drawn(N)``.
        people: ``(N,)`` int32, number of the person of each face within its file; -1: a prediction
            would not score this face.
        files: Score of each file, by id; files without a score are not in it.
    """

    dataset: EvaluationSet
    p_fake: NDArray[np.float64]
    sharpness: NDArray[np.float32]
    drawn: NDArray[np.float32]
    people: NDArray[np.int32]
    files: FileScores

    def find_scores(self) -> NDArray[np.int64]:
        """For each file of the data set the place of its score in ``files``, -1 without one."""
        return self.files.find(self.dataset.files.texts("id"))


def name_groups(dataset: EvaluationSet, rows: CropRows | SourceRows) -> Words:
    """The groups of some rows of a data set; those of two data sets differ."""
    groups = rows.words("group")
    return Words(groups.numbers, Texts.of(f"{dataset.name}/{name}" for name in groups.texts))


def predict_set(
    dataset: EvaluationSet, embeddings: Iterable[Embeddings], head: Head, aggregation: Aggregation
) -> Predictions:
    """Turn embeddings into scores of faces and files; of the embeddings few are kept.

    Args:
        dataset: The data set.
        embeddings: Of its faces, some at a time, in order.
        head: Embeddings to probabilities, in evaluation mode.
        aggregation: How the faces of a file make its score.

    Raises:
        ValueError: If there are fewer embeddings than faces, or more.
    """
    n_faces = len(dataset.faces)
    # Room for all of it first: small results between large temporary arrays would keep the heap
    # from reusing the place of these.
    p_fake, sharpness = np.empty(n_faces), np.empty(n_faces, np.float32)
    wanted = choose_drawn(n_faces)
    drawn = np.empty((len(wanted), head.embedding_dim), np.float32)
    start = 0
    for part in _regroup(embeddings):
        end = start + len(part.sharpness)
        if end <= n_faces:
            with torch.inference_mode():
                p_fake[start:end] = head(torch.from_numpy(part.vectors)).numpy()
            sharpness[start:end] = part.sharpness
            inside = (wanted >= start) & (wanted < end)
            drawn[inside] = part.vectors[wanted[inside] - start]
        start = end
    if start != n_faces:
        raise ValueError(f"{start} embeddings of {n_faces} crops")
    files, people = score_files(dataset.faces, p_fake, aggregation)
    return Predictions(dataset, p_fake, sharpness, drawn, people, files)


def choose_drawn(n: int) -> NDArray[np.int64]:
    """Which of so many faces are drawn: all, or ``N_DRAWN`` at random, the same ones every time."""
    if n <= N_DRAWN:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, N_DRAWN, replace=False))


def _regroup(parts: Iterable[Embeddings]) -> Iterator[Embeddings]:
    """The same in parts of ``_CHUNK``: the last digits of a score may depend on its neighbours."""
    waiting: list[Embeddings] = []
    n_waiting = 0
    for part in parts:
        waiting.append(part)
        n_waiting += len(part.sharpness)
        if n_waiting >= _CHUNK:
            whole = Embeddings.join(waiting, n_waiting, part.vectors.shape[1])
            for start in range(0, n_waiting - _CHUNK + 1, _CHUNK):
                yield whole.where(slice(start, start + _CHUNK))
            n_waiting %= _CHUNK
            waiting = [whole.where(slice(len(whole.sharpness) - n_waiting, None))]
    if n_waiting:
        yield Embeddings.join(waiting, n_waiting, waiting[0].vectors.shape[1])


def score_files(
    faces: Sequence[CropRow], p_fake: NDArray[np.float64], aggregation: Aggregation
) -> tuple[FileScores, NDArray[np.int32]]:
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
    people = np.full(len(rows), -1, np.int32)

    def iter_scores() -> Iterator[tuple[str, FileScore]]:
        for source, found in _group_by_file(rows):
            chosen = choose_faces(found, aggregation)
            scores = [float(p_fake[one.place]) for one in chosen]
            scored = score_faces(chosen, scores, aggregation)
            for one, face in zip(chosen, scored, strict=True):
                people[one.place] = face.person
            score = aggregate(scored, aggregation)
            if score is not None:
                yield source, score

    return FileScores(iter_scores()), people


def _group_by_file(rows: CropRows) -> Iterator[tuple[str, list[_FoundRow]]]:
    """The rows of each file, in order; files in that of their first."""
    (source,) = number_texts(rows.texts("source"))
    first = find_first(source, source.max(initial=-1) + 1)[source]
    order = np.argsort(first, kind="stable")
    numbered = zip(iter_items(order), rows.choose(order), strict=True)
    for id, found in groupby(numbered, lambda one: one[1].source):
        yield id, [_find(place, row) for place, row in found]


@dataclass(frozen=True, slots=True)
class _FoundRow(FoundFace):
    """A row of a crop folder as a face that was found in a file."""

    place: int


def is_usable_row(row: CropRow, aggregation: Aggregation) -> bool:
    """Whether the face of a row may decide."""
    return is_usable(_find(0, row).face, aggregation)


def _find(place: int, row: CropRow) -> _FoundRow:
    landmarks = np.array(row.landmarks, np.float32).reshape(-1, 2)
    face = Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
    return _FoundRow(row.frame, row.time_s, row.face, face, row.rotation, place)
