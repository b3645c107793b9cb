"""Scores in, the analyst's page out: for people who look at single files.

Computes no score.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deepfake.media.discovery import display_name
from deepfake.records import MediaScore, Status
from deepfake.reports.charts import draw_counts, draw_timeline
from deepfake.reports.page import LIMITS, embed_thumbnail, list_origins, render

FILES = 200
"""Files with a thumbnail."""
_OTHERS, _UNSCORED = 2000, 10_000  # rows of its tables: a page of megabytes opens on no phone


@dataclass(frozen=True, slots=True)
class Digest:
    """What a page says of a prediction, however many files it had.

    Args:
        statuses: Number of files by status.
        n_fake: Files that are predicted fake.
        values: Score of every file that has one, in input order.
        shown: The most suspicious files with their places, highest score first.
        others: The next ones.
        unscored: Files without a score, in input order, as far as they fit.
    """

    statuses: dict[str, int]
    n_fake: int
    values: NDArray[np.float64]
    shown: list[tuple[int, MediaScore]]
    others: list[tuple[int, MediaScore]]
    unscored: list[MediaScore]

    @property
    def n_unscored(self) -> int:
        """Number of files without a score."""
        return sum(self.statuses.values()) - len(self.values)


def digest_scores(scores: Iterable[MediaScore]) -> Digest:
    """Read scores once, in input order, and keep what a page can hold."""
    statuses = dict.fromkeys((status.value for status in Status), 0)
    values = array("d")
    top: list[tuple[float, int, MediaScore]] = []
    unscored: list[MediaScore] = []
    n_fake = 0
    for place, score in enumerate(scores):
        statuses[score.status.value] += 1
        n_fake += score.verdict == "fake"
        if score.p_fake is None:
            if len(unscored) < _UNSCORED:
                unscored.append(score)
            continue
        values.append(score.p_fake)
        # Places differ, so that scores themselves are never compared; the first of equals wins.
        entry = (score.p_fake, -place, score)
        if len(top) < FILES + _OTHERS:
            heapq.heappush(top, entry)
        else:
            heapq.heappushpop(top, entry)
    ranked = [(-place, score) for _, place, score in sorted(top, key=lambda e: e[:2], reverse=True)]
    return Digest(
        statuses,
        n_fake,
        np.array(values, dtype=np.float64),
        ranked[:FILES],
        ranked[FILES:],
        unscored,
    )


def format_prediction_report(
    digest: Digest,
    thumbnails: Mapping[int, bytes],
    provenance: Mapping[str, Any],
    threshold: float,
) -> str:
    """The page of a prediction: for people who look at single files.

    Args:
        digest: The scores.
        thumbnails: Encoded crop of the most suspicious face of the shown files, by place.
        provenance: As of ``job.describe_origin``.
        threshold: Of the checkpoint.
    """
    values, n_files = digest.values, sum(digest.statuses.values())
    rest = len(values) - len(digest.shown) - len(digest.others)
    parts = " + ".join(f"{number:,} {status}" for status, number in digest.statuses.items())
    more = f", {rest:,} further ones are in the table of scores alone" if rest else ""
    return render(
        "prediction.html",
        title="Scores of photos and videos",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{threshold:.4f} ({provenance['threshold_origin']})",
        summary=f"{n_files:,} inputs = {parts}. Of the {len(values):,} with a score, "
        f"{digest.n_fake:,} {'is' if digest.n_fake == 1 else 'are'} predicted fake.",
        charts=[_score_chart(values, threshold)] if len(values) else [],
        files_note="Each thumbnail is the most suspicious face of its file; the mark on the bar is "
        "the threshold. For videos, the line shows the most fake face of each frame.",
        files=[
            _file_card(score, thumbnails.get(place), threshold) for place, score in digest.shown
        ],
        others=[_file_card(score, None, threshold) for _, score in digest.others],
        others_note=f"{len(digest.others):,} files with lower scores{more}.",
        threshold_percent=f"{100 * min(max(threshold, 0), 1):.1f}",
        unscored=[
            {
                "name": display_name(score.path),
                "status": score.status.value,
                "reason": display_name(score.reason),
            }
            for score in digest.unscored
        ],
        n_unscored=digest.n_unscored,
        meaning=LIMITS + "A file without a score was not judged: it is neither real nor fake. "
        "Nobody should be accused on a score alone.",
        provenance=list_origins(provenance),
    )


def _score_chart(values: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    text = f"Median {np.median(values):.2f}; threshold {threshold:.2f}."
    svg = draw_counts(values, threshold, "Scores of all files", text)
    return {"title": "Scores", "svg": Markup(svg), "legend": [], "caption": text}


def _file_card(score: MediaScore, thumbnail: bytes | None, threshold: float) -> dict[str, Any]:
    frames = frame_scores(score)
    detail = [f"{score.n_faces:,} face{'s' if score.n_faces != 1 else ''}"]
    people = len({face.track for face in score.faces})
    if people > 1:
        detail.append(f"{people} people")
    if score.reason:
        detail.append(display_name(score.reason))
    timeline = None
    if len(frames) > 1 and thumbnail is not None:
        top = max(frames, key=lambda frame: frame[1])
        text = f"Highest {top[1]:.2f} at {top[0]:.1f} s, threshold {threshold:.2f}."
        times, values = zip(*frames, strict=True)
        timeline = Markup(draw_timeline(times, values, threshold, "Score over time", text))
    p_fake = score.p_fake or 0.0
    return {
        "name": display_name(score.path),
        "score": f"{p_fake:.3f}",
        "percent": f"{100 * p_fake:.1f}",
        "verdict": score.verdict or "",
        "n_faces": f"{score.n_faces:,}",
        "detail": ", ".join(detail),
        "thumbnail": embed_thumbnail(thumbnail) if thumbnail is not None else None,
        "timeline": timeline,
    }


def frame_scores(score: MediaScore) -> list[tuple[float, float]]:
    """Time in seconds and highest face score of each frame with a face."""
    return [
        (faces[0].time_s, max(face.p_fake for face in faces))
        for _, group in groupby(score.faces, key=lambda face: face.frame_index)
        if (faces := list(group))
    ]
