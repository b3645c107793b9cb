"""The pages that people see; scripts fill in what changes.

No style and no script stands inside a page: the server's policy forbids it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepfake.media.discovery import display_name
from deepfake.records import FaceScore, Result
from deepfake.reports.charts import Series, draw_lines, time_axes
from deepfake.reports.page import render
from deepfake.web.answers import load_answer, load_facts
from deepfake.web.frames import KeptFrame, list_frames
from deepfake.web.queue import State, StoredFile
from deepfake.web.views import find_media_type

if TYPE_CHECKING:
    from deepfake.web.app import Server

_ROOM = "deepfake.web"
_STRIP = 24  # crops of one person that the page shows


def render_index(server: Server) -> str:
    """The page with the queue."""
    return render(
        "index.html",
        _ROOM,
        title="deepfake",
        models=list(server.engine.models.values()),
        limits=server.limits,
        allowed=[display_name(str(folder)) for folder in server.allowed],
        is_remote=server.access.proxy is not None or server.access.is_password,
    )


def render_api(description: dict[str, Any], server: Server) -> str:
    """The API for people."""
    return render(
        "api.html",
        _ROOM,
        title="deepfake: the API",
        description=description,
        origin=server.access.origin,
        secret_word="PASSWORD" if server.access.is_password else "TOKEN",
    )


def render_file(file: StoredFile, server: Server) -> str:
    """The page of one file: its answer, or what became of it instead."""
    folder = server.store.folder_of(file.id)
    result = None if file.answer is None else load_answer(file.answer, file.name)
    frames = list_frames(folder)
    model = server.engine.models.get(file.model)
    times = {face.frame_index: face.time_s for face in result.faces} if result else {}
    media = find_media_type(file) if result is not None and len(times) > 1 else None
    return render(
        "file.html",
        _ROOM,
        title=display_name(file.name),
        file=file,
        result=result,
        model=model,
        media=media,
        frames=_choose_frames(frames, times),
        people=[] if result is None else _list_people(result),
        chart=None if result is None else _draw_people(result),
        facts=None if file.answer is None else load_facts(file.answer),
        has_ended=file.state not in (State.QUEUED, State.RUNNING),
    )


def _choose_frames(
    frames: Mapping[int, KeptFrame], times: Mapping[int, float]
) -> list[tuple[KeptFrame, float]]:
    """Kept frames with their times: those with a face, else the one that was kept all the same."""
    found = [(frame, times[index]) for index, frame in frames.items() if index in times]
    return found or [(frame, 0.0) for frame in frames.values()]


def _list_people(result: Result) -> list[dict[str, Any]]:
    """Each person with the faces that the strip shows: the most suspicious ones, by time."""
    by_person: dict[int, list[FaceScore]] = defaultdict(list)
    for face in result.faces:
        by_person[face.person].append(face)
    people = []
    for person in result.people:
        faces = sorted(by_person[person.person], key=lambda face: -face.p_fake)[:_STRIP]
        faces.sort(key=lambda face: (face.frame_index, face.face_index))
        people.append({"score": person, "faces": faces, "n_all": len(by_person[person.person])})
    return people


def _draw_people(result: Result) -> dict[str, Any] | None:
    """A curve a person over the time of a clip, and where on it which time is."""
    by_person: dict[int, list[FaceScore]] = defaultdict(list)
    for face in result.faces:
        by_person[face.person].append(face)
    times = sorted({face.time_s for face in result.faces})
    if len(times) < 2 or result.limits is None:
        return None
    axes = time_axes(times[-1])
    series = [
        Series(f"person {person + 1}", *_curve(faces))
        for person, faces in sorted(by_person.items())
    ]
    top = max(result.faces, key=lambda face: face.p_fake)
    caption = (
        f"Score of each person over time; the highest is {top.p_fake:.2f} at {top.time_s:.1f} s. "
        f"Fake from {result.limits[1]:.2f}, real up to {result.limits[0]:.2f}."
    )
    chart = draw_lines(axes, series, "Score over time", caption, dots=True, limits=result.limits)
    first, last = axes.x_range
    return {"chart": chart, "left": axes.x_px(first), "right": axes.x_px(last), "last_s": last}


def _curve(faces: Sequence[FaceScore]) -> tuple[list[float], list[float]]:
    ordered = sorted(faces, key=lambda face: face.time_s)
    return [face.time_s for face in ordered], [face.p_fake for face in ordered]
