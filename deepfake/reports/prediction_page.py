"""Scores in, the analyst's page out: for people who look at single files.

Computes no score.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.inference.aggregation import MOST_PEOPLE, rank_people
from deepfake.media.inspection import FileFacts
from deepfake.records import Limits, Result, Status, Verdict
from deepfake.reports.charts import Chart, Series, draw_counts, draw_timeline
from deepfake.reports.page import embed_thumbnail, render

FILES = 200
"""Files with a thumbnail."""
_OTHERS, _UNSCORED = 2000, 10_000  # rows of its tables: a page of megabytes opens on no phone


@dataclass(frozen=True, slots=True)
class Digest:
    """What a page says of a prediction, however many files it had.

    Args:
        statuses: Number of files by status.
        n_fake: Files that are predicted fake.
        n_unclear: Files whose score lies between the limits.
        values: Score of every file that has one, in input order.
        shown: The most suspicious files with their places, highest score first.
        others: The next ones.
        unscored: Files without a score with their places, in input order, as far as they fit.
    """

    statuses: dict[str, int]
    n_fake: int
    n_unclear: int
    values: NDArray[np.float64]
    shown: list[tuple[int, Result]]
    others: list[tuple[int, Result]]
    unscored: list[tuple[int, Result]]

    @property
    def n_unscored(self) -> int:
        """Number of files without a score."""
        return sum(self.statuses.values()) - len(self.values)

    @property
    def inspected(self) -> list[int]:
        """Places of the files that a page tells more of than a row."""
        return [place for place, _ in [*self.shown, *self.unscored[:FILES]]]


def digest_scores(scores: Iterable[Result]) -> Digest:
    """Read scores once, in input order, and keep what a page can hold."""
    statuses = dict.fromkeys((status.value for status in Status), 0)
    values = array("d")
    top: list[tuple[float, int, Result]] = []
    unscored: list[tuple[int, Result]] = []
    verdicts = Counter[Verdict | None]()
    for place, score in enumerate(scores):
        statuses[score.status.value] += 1
        verdicts[score.verdict] += 1
        if score.p_fake is None:
            if len(unscored) < _UNSCORED:
                unscored.append((place, score))
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
        verdicts[Verdict.FAKE],
        verdicts[Verdict.UNCLEAR],
        np.array(values, dtype=np.float64),
        ranked[:FILES],
        ranked[FILES:],
        unscored,
    )


def format_prediction_report(
    digest: Digest,
    thumbnails: Mapping[int, Mapping[int, bytes]],
    provenance: Mapping[str, Any],
    limits: Limits,
    facts: Mapping[int, FileFacts] = MappingProxyType({}),
) -> str:
    """The page of a prediction: for people who look at single files.

    Args:
        digest: The scores.
        thumbnails: Encoded crop of the most suspicious face of each person, by place and person.
        provenance: As of ``job.describe_origin``.
        limits: Of the checkpoint; those of a file are in its score.
        facts: Of files, by place.
    """
    return render(
        "prediction.html",
        title="Scores of photos and videos",
        digest=digest,
        charts=[_score_chart(digest.values, limits)] if len(digest.values) else [],
        files=[
            _file_card(score, thumbnails.get(place, {})) | {"facts": facts.get(place)}
            for place, score in digest.shown
        ],
        facts=facts,
        provenance=provenance,
    )


def _score_chart(values: NDArray[np.float64], limits: Limits) -> Chart:
    real, fake = limits.real, limits.of_fake()
    text = f"Median {np.median(values):.2f}; real up to {real:.2f}, fake from {fake:.2f}."
    return draw_counts(values, (real, fake), "Scores", text)


def _file_card(score: Result, thumbnails: Mapping[int, bytes]) -> dict[str, Any]:
    people = rank_people(score)
    return {
        "score": score,
        "people": [
            (one, embed_thumbnail(thumbnails[one.person]) if one.person in thumbnails else None)
            for one in people[:MOST_PEOPLE]
        ],
        "n_more": max(0, len(people) - MOST_PEOPLE),
        "timeline": draw_people(score) if thumbnails else None,
    }


def draw_people(
    score: Result, marks: Sequence[tuple[float, float]] = (), more: str = ""
) -> Chart | None:
    """The scores of the people of a clip over its time; ``None`` for a single moment.

    Args:
        score: Of the clip.
        marks: Time and score of faces to ring.
        more: What to add to the words.
    """
    if score.limits is None or len({face.frame_index for face in score.faces}) < 2:
        return None
    lines = []
    for person in rank_people(score)[:MOST_PEOPLE]:
        own = [face for face in score.faces if face.person == person.person]
        name = f"person {person.person + 1}" + ("" if person.counts else " (does not count)")
        lines.append(Series(name, [f.time_s for f in own], [f.p_fake for f in own]))
    top = max(score.faces, key=lambda face: face.p_fake)
    who = f" (person {top.person + 1})" if len(score.people) > 1 else ""
    text = (
        f"Highest {top.p_fake:.2f} at {top.time_s:.1f} s{who}, "
        f"real up to {score.limits[0]:.2f}, fake from {score.limits[1]:.2f}.{more}"
    )
    return draw_timeline(lines, score.limits, "Score over time", text, marks)
