"""Scores in, the crops that made them out: the most suspicious face of chosen files.

A prediction keeps no crops, so the chosen files go through the shared extraction once more, in
the same killable workers and with the same result. Knows no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from deepfake.evaluation.explain import extract_again
from deepfake.inference.predictor import Predictor
from deepfake.records import Result, Source


def cut_thumbnails(
    predictor: Predictor, sources: Sequence[Source], chosen: Sequence[tuple[int, Result]]
) -> dict[int, bytes]:
    """Cut out the face with the highest score of each chosen file.

    Args:
        predictor: What scored them; has the recipe, the sampling and the workers.
        sources: All inputs.
        chosen: Places among the inputs, with their scores; those without a face are passed over.

    Returns:
        Encoded crops by place; a file that has changed or gone since it was scored is not in it.
    """
    top_faces = {
        place: max(score.faces, key=lambda face: face.p_fake)
        for place, score in chosen
        if score.faces
    }
    extractions = extract_again(predictor, [sources[place] for place in top_faces])
    thumbnails = {}
    with closing(extractions):
        for (place, face), (_, extraction) in zip(top_faces.items(), extractions, strict=True):
            for crop in extraction.crops:
                if (crop.frame_index, crop.face_index) == (face.frame_index, face.face_index):
                    thumbnails[place] = crop.encoded
    return thumbnails
