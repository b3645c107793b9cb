"""A file of the queue as the API gives it and as the pages show it, in plain types.

Knows no HTTP; the templates say how it looks.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from deepfake.media.containers import HEAD_BYTES, find_container
from deepfake.media.discovery import VIDEO_SUFFIXES, display_name
from deepfake.media.files import MATROSKA, is_image
from deepfake.records import FaceScore, Result
from deepfake.web.answers import deciding_face, describe_result, find_crop, load_answer
from deepfake.web.engine import Engine
from deepfake.web.frames import KeptFrame, list_frames
from deepfake.web.store import State, StoredFile

_PLAYABLE = {"mov": "video/mp4", "matroska": "video/webm", "ogg": "video/ogg"}


def describe_file(file: StoredFile, engine: Engine, with_faces: bool = True) -> dict[str, Any]:
    """One file as the API gives it.

    Args:
        file: The file.
        engine: Knows how far it is.
        with_faces: Also every face; hundreds of files have many.
    """
    shown: dict[str, Any] = {
        "id": file.id,
        "path": display_name(file.name),
        "size": file.size,
        "sha256": file.sha256,
        "model": file.model,
        "state": file.state.value,
        "error": display_name(file.error),
        "explanation": file.explanation.value,
        "explanation_error": display_name(file.explanation_error),
    }
    if file.state is State.RUNNING:
        shown["progress"] = _describe_progress(file, engine)
    if file.answer is not None:
        result = load_answer(file.answer, file.name)
        shown |= describe_result(result)
        shown["has_thumbnail"] = deciding_face(result) is not None or bool(
            list_frames(engine.store.folder_of(file.id))
        )
        if not with_faces:
            del shown["faces"]
    return shown


def describe_score(file: StoredFile) -> dict[str, Any]:
    """One file as ``POST /api/score`` answers: always with a status, a score or a reason."""
    facts = {"sha256": file.sha256, "size": file.size}
    if file.answer is not None:
        return describe_result(load_answer(file.answer, file.name)) | facts
    unanswered = describe_result(Result(file.name, Status.UNREADABLE, reason=file.error or "cancelled"))
    return unanswered | facts


def _describe_progress(file: StoredFile, engine: Engine) -> dict[str, Any]:
    frames = engine.frames_so_far(file.id)
    model = engine.models.get(file.model)
    sampling = None if model is None else model.predictor.sampling
    is_video = file.name.lower().endswith(VIDEO_SUFFIXES)
    expected = None if sampling is None or sampling.frames is None else sampling.frames
    return {
        "n_decoded": 0 if frames is None else frames.n_decoded,
        "n_searched": 0 if frames is None else frames.n_searched,
        "n_expected": expected if is_video else 1,
    }
