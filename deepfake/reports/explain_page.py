"""The evidence behind one score in, one self-contained HTML page out.

Says next to every map whether it passed its check. Computes no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import require_label
from deepfake.evaluation.explain import (
    SALIENT_SHARE,
    VIEW_PX,
    Explanation,
    TopFrame,
)
from deepfake.media.discovery import display_name
from deepfake.media.inspection import FileFacts
from deepfake.records import LABEL_NAMES, Aggregation, FaceScore, Limits, Result, Verdict
from deepfake.reports.charts import Chart
from deepfake.reports.page import (
    embed_image,
    embed_thumbnail,
    render,
)
from deepfake.reports.prediction_page import draw_people

_CROP_PX = 280
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (170, 170, 170)
_VERY_SAME = 0.9999  # of a cosine: the same image


def format_explanation(
    explanation: Explanation,
    aggregation: Aggregation,
    provenance: Mapping[str, Any],
    facts: FileFacts | None = None,
    show_failed: bool = True,
) -> str:
    """The page of one file.

    Args:
        explanation: What was found.
        aggregation: How its frames made its score.
        provenance: As of ``job.describe_origin``.
        facts: Of the file.
        show_failed: Show maps that fail their check, too, with a warning.
    """
    score, tops = explanation.score, explanation.top_frames
    highest = max((float(top.saliency.max()) for top in tops), default=0.0)
    return render(
        "explanation.html",
        title=f"Why {Path(display_name(score.path)).name} got its score",
        explanation=explanation,
        score=score,
        n_frames=len({face.frame_index for face in score.faces}),
        verdict_of=partial(_judge, score) if score.limits else None,
        aggregation=aggregation,
        charts=_charts(explanation),
        sought="rises" if explanation.direction < 0 else "falls",
        salient_share=SALIENT_SHARE,
        n_regions=min((len(top.random_drops) for top in tops), default=0),
        top_frames=[(top, _embed_views(top, highest)) for top in tops],
        very_same=_VERY_SAME,
        thumbnail_of=embed_thumbnail,
        word_of=lambda row: LABEL_NAMES[require_label(row)],
        provenance=provenance,
        facts=facts,
        show_failed=show_failed,
    )


def _charts(explanation: Explanation) -> list[Chart]:
    marks = [(top.face.time_s, top.face.p_fake) for top in explanation.top_frames]
    chart = draw_people(explanation.score, marks, " Rings are the faces shown below.")
    return [] if chart is None else [chart]


def _embed_views(top: TopFrame, highest: float) -> dict[str, str | None]:
    frame = None if top.frame is None else draw_boxes(top.frame, top.boxes, top.scale)
    return {
        "frame": None if frame is None else embed_image(frame, VIEW_PX),
        "crop": embed_image(top.crop, _CROP_PX),
        "map": embed_image(draw_saliency(top, highest), _CROP_PX),
    }


def draw_boxes(
    frame: NDArray[np.uint8], boxes: tuple[FaceScore, ...], scale: float = 1.0
) -> NDArray[np.uint8]:
    """A copy of a frame with boxes: the first one white, the others grey, all with a black rim.

    Args:
        frame: ``(H, W, 3)`` RGB.
        boxes: Each with the number of its person, where there are several.
        scale: Pixels of the frame per pixel of the boxes.
    """
    drawn = frame.copy()
    for number, face in enumerate(reversed(boxes), start=1):
        colour = _WHITE if number == len(boxes) else _GREY
        x0, y0, x1, y1 = (round(value * scale) for value in face.box_xyxy)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), _BLACK, 5)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), colour, 2)
        if len(boxes) > 1:
            name, at = str(face.person + 1), (x0 + 5, y0 + 22)
            cv2.putText(drawn, name, at, cv2.FONT_HERSHEY_DUPLEX, 0.7, _BLACK, 4, cv2.LINE_AA)
            cv2.putText(drawn, name, at, cv2.FONT_HERSHEY_DUPLEX, 0.7, colour, 1, cv2.LINE_AA)
    return drawn


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


def _judge(score: Result, face: FaceScore) -> Verdict:
    """What the score of a face means, where its file may be unclear for another reason."""
    assert score.limits is not None
    verdict = Limits(score.limits[0], score.limits[1:]).judge(face.p_fake)
    decides = any(one.person == face.person and one.p_fake == score.p_fake for one in score.people)
    is_unclear = score.verdict is Verdict.UNCLEAR and (decides or verdict is Verdict.FAKE)
    return Verdict.UNCLEAR if is_unclear else verdict
