"""Embeddings in, scores of faces and files out, as ``Predictor`` gives them.

Knows no metric and no chart.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

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
class Predictions:
    """A data set with the scores of a checkpoint.

    Args:
        dataset: The data set.
        embeddings: Of its faces.
        p_fake: ``(N,)`` float64 score of each face.
        tracks: Track of each face within its file.
        file_p_fake: Score of each file, by id; files without a score are not in it.
    """

    dataset: EvaluationSet
    embeddings: Embeddings
    p_fake: NDArray[np.float64]
    tracks: tuple[int, ...]
    file_p_fake: dict[str, float]


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
    by_file: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(dataset.faces):
        by_file[row.source].append(place)
    tracks = [0] * len(dataset.faces)
    file_p_fake: dict[str, float] = {}
    for source, places in by_file.items():
        rows = [dataset.faces[place] for place in places]
        numbers = link_tracks([row.frame for row in rows], [_face_of(row) for row in rows])
        scores = []
        for place, row, number in zip(places, rows, numbers, strict=True):
            tracks[place] = number
            scores.append(
                FaceScore(
                    row.frame,
                    row.time_s,
                    row.face,
                    row.box_xyxy,
                    row.confidence,
                    p_fake=float(p_fake[place]),
                    person=number,
                )
            )
        score = aggregate(scores, aggregation)
        if score is not None:
            file_p_fake[source] = score
    return Predictions(dataset, embeddings, p_fake, tuple(tracks), file_p_fake)


def _face_of(row: CropRow) -> Face:
    landmarks = np.array(row.landmarks, np.float32).reshape(5, 2)
    return Face(np.array(row.box_xyxy, np.float32), row.confidence, landmarks)
