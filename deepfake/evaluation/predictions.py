"""Embeddings in, scores of faces and files out, as ``Predictor`` gives them.

Knows no metric and no chart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.dataset.manifest import CropRow
from deepfake.evaluation.embeddings import Embeddings
from deepfake.evaluation.sets import EvaluationSet
from deepfake.heads import Head
from deepfake.inference.aggregation import FileScore, aggregate
from deepfake.inference.people import choose_faces, score_faces
from deepfake.records import Aggregation, Face, FoundFace


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
    files: dict[str, FileScore]


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
    with torch.inference_mode():
        p_fake = head(torch.from_numpy(embeddings.vectors)).numpy()
    files, people = score_files(dataset.faces, p_fake, aggregation)
    return Predictions(dataset, embeddings, p_fake, people, files)


def score_files(
    faces: Sequence[CropRow], p_fake: NDArray[np.float64], aggregation: Aggregation
) -> tuple[dict[str, FileScore], tuple[int | None, ...]]:
    """The scores of the files that faces are of.

    Args:
        faces: ``N`` rows of a manifest.
        p_fake: ``(N,)`` their scores.
        aggregation: How the faces of a file make its score.

    Returns:
        The score of each file by id, in order of the first faces, and each face's person as of
        ``Predictions``.
    """
    by_file: dict[str, list[_FoundRow]] = defaultdict(list)
    for place, row in enumerate(faces):
        by_file[row.source].append(_find(place, row))
    people: list[int | None] = [None] * len(faces)
    files: dict[str, FileScore] = {}
    for source, found in by_file.items():
        chosen = choose_faces(found, aggregation)
        scores = [float(p_fake[one.place]) for one in chosen]
        scored = score_faces(chosen, scores, aggregation)
        for one, face in zip(chosen, scored, strict=True):
            people[one.place] = face.person
        score = aggregate(scored, aggregation)
        if score is not None:
            files[source] = score
    return files, tuple(people)


@dataclass(frozen=True, slots=True)
class _FoundRow(FoundFace):
    """A row of a crop folder as a face that was found in a file."""

    place: int


def _find(place: int, row: CropRow) -> _FoundRow:
    landmarks = np.array(row.landmarks, np.float32).reshape(5, 2)
    face = Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
    return _FoundRow(row.frame, row.time_s, row.face, face, row.rotation, place)
