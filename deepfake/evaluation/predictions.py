"""Embeddings in, scores of faces and files out, as ``Predictor`` gives them.

Knows no metric and no chart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.dataset.manifest import CropRow
from deepfake.evaluation.embeddings import Embeddings
from deepfake.evaluation.sets import EvaluationSet
from deepfake.faces.tracking import link_tracks
from deepfake.heads import Head
from deepfake.inference.aggregation import aggregate
from deepfake.records import Aggregation, Face, FaceScore


@dataclass(frozen=True, slots=True)
class FileScore:
    """The score of one file.

    Args:
        p_fake: Its score.
        people: Scores of the people in it who count.
        tracks: Track of each of its faces, in their order.
    """

    p_fake: float
    people: tuple[float, ...]
    tracks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """A data set with the scores of a checkpoint.

    Args:
        dataset: The data set.
        embeddings: Of its faces.
        p_fake: ``(N,)`` float64 score of each face.
        tracks: Track of each face within its file.
        file_p_fake: Score of each file, by id; files without a score are not in it.
        n_people: How many people count in a file, by id, where it is not one.
    """

    dataset: EvaluationSet
    embeddings: Embeddings
    p_fake: NDArray[np.float64]
    tracks: tuple[int, ...]
    file_p_fake: dict[str, float]
    n_people: dict[str, int] = field(default_factory=dict)


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
    files = score_files(dataset.faces, p_fake, aggregation)
    tracks = {source: iter(file.tracks) for source, file in files.items()}
    return Predictions(
        dataset,
        embeddings,
        p_fake,
        tuple(next(tracks[face.source]) for face in dataset.faces),
        {source: file.p_fake for source, file in files.items()},
        {source: len(file.people) for source, file in files.items() if len(file.people) != 1},
    )


def score_files(
    faces: Sequence[CropRow], p_fake: NDArray[np.float64], aggregation: Aggregation
) -> dict[str, FileScore]:
    """The scores of files, by id, in the order of their first faces.

    Args:
        faces: ``N`` rows of a manifest.
        p_fake: ``(N,)`` their scores.
        aggregation: How the faces of a file make its score.
    """
    by_file: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(faces):
        by_file[row.source].append(place)
    files: dict[str, FileScore] = {}
    for source, places in by_file.items():
        rows = [faces[place] for place in places]
        people = link_tracks([row.frame for row in rows], [_face_of(row) for row in rows])
        scores = [
            FaceScore(
                row.frame,
                row.time_s,
                row.face,
                row.box_xyxy,
                row.confidence,
                p_fake=float(p_fake[place]),
                person=person,
            )
            for place, row, person in zip(places, rows, people, strict=True)
        ]
        score = aggregate(scores, aggregation)
        if score is not None:
            files[source] = FileScore(score, (score,), tuple(people))
    return files


def _face_of(row: CropRow) -> Face:
    landmarks = np.array(row.landmarks, np.float32).reshape(5, 2)
    return Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
