"""A file of the queue as the API gives it and as the pages show it, in plain types.

Knows no HTTP; the templates say how it looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepfake.errors import MediaError
from deepfake.media.containers import HEAD_BYTES, find_container
from deepfake.media.discovery import VIDEO_SUFFIXES, display_name
from deepfake.media.files import is_image, open_regular_file
from deepfake.media.inspection import FileFacts
from deepfake.records import Result, Status
from deepfake.web.answers import (
    deciding_face,
    describe_facts,
    describe_result,
    find_crop,
    load_answer,
    load_facts,
)
from deepfake.web.engine import Engine
from deepfake.web.frames import list_frames
from deepfake.web.queue import State, StoredFile

_PLAYED = {"mov": "video/mp4", "matroska": "video/webm", "ogg": "video/ogg"}
"""What a browser may play, if it knows the codec inside; it says so if not."""


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
        "position": file.position,
        "state": file.state.value,
        "error": display_name(file.error),
        "explanation": file.explanation.value,
        "explanation_error": display_name(file.explanation_error),
    }
    if file.state is State.RUNNING:
        shown["progress"] = _describe_progress(file, engine)
    if file.answer is not None:
        result = load_answer(file.answer, file.name)
        folder = engine.store.folder_of(file.id)
        shown |= describe_result(result)
        shown["has_thumbnail"] = choose_thumbnail(file, folder) is not None
        if with_faces:
            shown["facts"] = describe_facts(load_facts(file.answer))
        else:
            del shown["faces"]
    return shown


def describe_score(file: StoredFile) -> dict[str, Any]:
    """One file as ``POST /api/score`` answers: always with a status, a score or a reason."""
    if file.answer is not None:
        result, facts = load_answer(file.answer, file.name), load_facts(file.answer)
    else:
        reason = file.error or "cancelled: nobody waits for it any more"
        result, facts = Result(file.name, Status.UNREADABLE, reason=reason), FileFacts()
    known = {"sha256": file.sha256, "size": file.size, "facts": describe_facts(facts)}
    return describe_result(result) | known


def choose_thumbnail(file: StoredFile, folder: Path) -> Path | None:
    """The crop of the face that decided, else the first frame that was kept."""
    if file.answer is None:
        return None
    face = deciding_face(load_answer(file.answer, file.name))
    if face is not None:
        return find_crop(folder, face.frame_index, face.face_index)
    return next((frame.path for frame in list_frames(folder).values()), None)


def find_media_type(file: StoredFile) -> str | None:
    """As what a browser may play a video; ``None`` for photos and for what no browser plays."""
    if not file.is_upload and file.path.resolve() != file.path:
        return None  # a link has come into its path since it was allowed
    try:
        with open_regular_file(file.path, file.name) as opened:
            head = opened.read(HEAD_BYTES)
    except MediaError:
        return None
    return None if is_image(head) else _PLAYED.get(find_container(head) or "")


def _describe_progress(file: StoredFile, engine: Engine) -> dict[str, Any]:
    frames = engine.frames_so_far(file.id)
    model = engine.models.get(file.model)
    # Known only where the number of frames is what was asked for, and then an upper limit.
    wanted = None if model is None else model.predictor.sampling.frames
    is_video = file.name.lower().endswith(VIDEO_SUFFIXES)
    return {
        "n_decoded": frames.n_decoded,
        "n_searched": frames.n_searched,
        "n_expected": wanted if is_video else 1,
    }
