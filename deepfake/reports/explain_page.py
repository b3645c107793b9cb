"""The evidence behind one score in, one self-contained HTML page out.

Says next to every map whether it passed its check. Computes no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deepfake.dataset.manifest import require_label
from deepfake.evaluation.explain import (
    N_RANDOM_REGIONS,
    SALIENT_SHARE,
    Explanation,
    Neighbour,
    TopFrame,
)
from deepfake.media.discovery import display_name
from deepfake.records import LABEL_NAMES, Aggregation, FaceScore
from deepfake.reports.charts import draw_timeline
from deepfake.reports.page import (
    LIMITS,
    embed_image,
    embed_thumbnail,
    list_origins,
    render,
)
from deepfake.reports.prediction_page import frame_scores

_FRAME_PX, _CROP_PX = 720, 280
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (170, 170, 170)
_VERY_SAME = 0.9999  # of a cosine: the same image
_WHAT = (
    "A map shows which parts of the face the score depends on. It is where the detector looks, "
    "not proof of what was done there: a real face has such parts too, a forgery may lie "
    "elsewhere, and what the network sees in a part (an edge, a texture, light) the map does not "
    "say. The nearest training faces are those that the network finds similar; that is no "
    "statement about who is shown. "
)


def format_explanation(
    explanation: Explanation, aggregation: Aggregation, provenance: Mapping[str, Any]
) -> str:
    """The page of one file.

    Args:
        explanation: What was found.
        aggregation: How its frames made its score.
        provenance: As of ``job.describe_origin``.
    """
    score = explanation.score
    origin = [("file", {"text": display_name(score.path), "code": True})]
    if explanation.reference is not None:
        reference = explanation.reference
        origin += [
            ("training faces", {"text": _describe_reference(explanation), "code": False}),
            ("their manifest (SHA-256)", {"text": reference.manifest_sha256, "code": True}),
        ]
    return render(
        "explanation.html",
        title=f"Why {_last_part(display_name(score.path))} got its score",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{score.threshold:.4f} ({provenance['threshold_origin']})",
        summary=_summarise(explanation, aggregation),
        verdict=score.verdict or "",
        score=None if score.p_fake is None else f"{score.p_fake:.3f}",
        percent=f"{100 * (score.p_fake or 0):.1f}",
        threshold_percent=f"{100 * min(max(score.threshold, 0), 1):.1f}",
        charts=_charts(explanation),
        top_note=_note(explanation),
        check=_describe_check(explanation) if explanation.top_frames else "",
        holds=bool(explanation.top_frames) and explanation.holds,
        top_frames=_cards(explanation),
        meaning=_WHAT + LIMITS + "Nobody should be accused on a score, or on a map, alone.",
        provenance=[*origin, *list_origins(provenance)],
    )


def _summarise(explanation: Explanation, aggregation: Aggregation) -> str:
    score = explanation.score
    reason = f" ({display_name(score.reason)})" if score.reason else ""
    if score.p_fake is None:
        return f"There is no score: {score.status.value}{reason}. The file was not judged."
    frames = len({face.frame_index for face in score.faces})
    people = len({face.track for face in score.faces})
    where = f"{score.n_faces:,} face{_s(score.n_faces)} in {frames:,} frame{_s(frames)}"
    if people > 1:
        where += f", {people:,} people"
    how = f"; its score is the {aggregation.policy} over them" if frames > 1 else ""
    return f"{where}{reason}{how}."


def _charts(explanation: Explanation) -> list[dict[str, Any]]:
    frames = frame_scores(explanation.score)
    if len(frames) < 2:
        return []
    times, values = zip(*frames, strict=True)
    threshold = explanation.score.threshold
    highest = max(frames, key=lambda frame: frame[1])
    by_time = dict(frames)
    marks = sorted({(top.face.time_s, by_time[top.face.time_s]) for top in explanation.top_frames})
    text = (
        f"The most fake face of each frame: highest {highest[1]:.2f} at {highest[0]:.1f} s, "
        f"threshold {threshold:.2f}. Rings are the frames shown below."
    )
    svg = draw_timeline(times, values, threshold, "Score over time", text, marks)
    return [{"title": "Score over time", "svg": Markup(svg), "legend": [], "caption": text}]


def _note(explanation: Explanation) -> str:
    if not explanation.top_frames:
        return ""
    shown, total = len(explanation.top_frames), explanation.score.n_faces
    which = "All faces" if shown == total else f"The {shown:,} most suspicious of {total:,} faces"
    return (
        f"{which}, by time. First the frame, with the face in a white box and others in grey; "
        "then what the detector saw; then where its score comes from: the brighter, the more the "
        "score falls when that part is occluded, on one scale for the page. The line is around the "
        f"most salient {SALIENT_SHARE:.0%}. Log-odds: a change by 0.7 doubles or halves the odds "
        "of fake."
    )


def _describe_check(explanation: Explanation) -> str:
    number = len(explanation.top_frames)
    salient, random = explanation.salient_drop, explanation.random_drop
    wins = sum(top.salient_drop > top.random_drop for top in explanation.top_frames)
    text = (
        f"Checked by deletion: occluding the most salient {SALIENT_SHARE:.0%} of these {number:,} "
        f"crop{_s(number)} changes the log-odds of fake by {_signed(-salient)} on average, "
        f"occluding as much elsewhere ({N_RANDOM_REGIONS} places each) by {_signed(-random)}. The "
        f"salient region takes off more in {wins:,} of {number:,}. "
    )
    if explanation.holds:
        return text + "The maps point at what the score depends on."
    return text + "The maps FAIL their check on this file: do not read anything into them."


def _cards(explanation: Explanation) -> list[dict[str, Any]]:
    highest = max((float(top.saliency.max()) for top in explanation.top_frames), default=0.0)
    return [_card(top, highest, explanation) for top in explanation.top_frames]


def _card(top: TopFrame, highest: float, explanation: Explanation) -> dict[str, Any]:
    face = top.face
    is_clip = len({other.frame_index for other in explanation.score.faces}) > 1
    where = f"{face.time_s:.1f} s, frame {face.frame_index}" if is_clip else "Photo"
    people = len({other.track for other in explanation.score.faces})
    person = f", person {face.track + 1}" if people > 1 else ""
    number = len(top.boxes)
    name = f"{where}, face {face.face_index + 1} of {number}" if number > 1 else where
    return {
        "name": f"{name}{person}",
        "score": f"{face.p_fake:.3f}",
        "verdict": LABEL_NAMES[int(face.p_fake >= explanation.score.threshold)],
        "frame": None
        if top.frame is None
        else embed_image(draw_boxes(top.frame, top.boxes), _FRAME_PX),
        "crop": embed_image(top.crop, _CROP_PX),
        "map": embed_image(draw_saliency(top, highest), _CROP_PX),
        "check": f"Without the outlined part the score is {top.p_without:.3f}: "
        f"{_signed(-top.salient_drop)} log-odds, {_signed(-top.random_drop)} elsewhere.",
        "neighbours": [_neighbour(near) for near in top.neighbours],
        "fakes": _count_fakes(top),
    }


def _neighbour(near: Neighbour) -> dict[str, Any]:
    word = LABEL_NAMES[require_label(near.row)]
    detail = "the very same image" if near.similarity > _VERY_SAME else near.row.method
    return {
        "label": word,
        "similarity": f"{near.similarity:.3f}",
        "detail": display_name(detail),
        "thumbnail": None if near.encoded is None else embed_thumbnail(near.encoded),
    }


def _count_fakes(top: TopFrame) -> str:
    fakes = sum(near.row.label == 1 for near in top.neighbours)
    return f"{fakes} of the {len(top.neighbours)} nearest training faces are fakes."


def _describe_reference(explanation: Explanation) -> str:
    reference = explanation.reference
    if reference is None:
        return ""
    text = f"{len(reference.faces):,} faces of {display_name(reference.origin)}"
    text += f", split {reference.split}"
    if explanation.foreign:
        text += "; NOT the crops that this checkpoint was trained on"
    return text


def draw_boxes(frame: NDArray[np.uint8], boxes: tuple[FaceScore, ...]) -> NDArray[np.uint8]:
    """A copy of a frame with boxes: the first one white, the others grey, all with a black rim."""
    factor = min(1.0, _FRAME_PX / max(frame.shape[:2]))
    size = tuple(max(1, round(side * factor)) for side in frame.shape[1::-1])
    drawn = np.ascontiguousarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    for number, face in enumerate(reversed(boxes), start=1):
        colour = _WHITE if number == len(boxes) else _GREY
        x0, y0, x1, y1 = (round(value * factor) for value in face.box_xyxy)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), _BLACK, 5)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), colour, 2)
    return np.asarray(drawn, dtype=np.uint8)


def draw_saliency(top: TopFrame, highest: float) -> NDArray[np.uint8]:
    """The crop in grey under its saliency map, with a line around the salient region.

    Args:
        top: Has both.
        highest: Saliency that is drawn brightest; what is not above 0 is not drawn.
    """
    side = max(_CROP_PX, top.crop.shape[0])
    size = (side, side)
    grey = cv2.cvtColor(cv2.cvtColor(top.crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    base = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    clipped = np.clip(top.saliency / highest, 0, 1) if highest > 0 else np.zeros_like(top.saliency)
    saliency = cv2.resize(clipped.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    levels = np.rint(255 * saliency).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    share = (0.75 * np.sqrt(saliency))[..., None]
    drawn = np.ascontiguousarray(np.rint(base * 0.8 * (1 - share) + colours * share), np.uint8)
    salient = cv2.resize(top.salient.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(salient, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, lines, -1, _BLACK, 4)
    cv2.drawContours(drawn, lines, -1, _WHITE, 2)
    return np.asarray(drawn, dtype=np.uint8)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _last_part(path: str) -> str:
    return path.rstrip("/").split("/")[-1] or path
