"""Files whose faces go through the network together, on one device or on several.

What is a group depends on the files alone, so that their scores do, too. Knows no head, no limit
and no answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from deepfake.faces.extraction import decode_crop
from deepfake.faces.quality import TrainingFaces
from deepfake.inference.scoring import Scorer
from deepfake.records import Extraction, FaceCrop, FaceQuality, Source

_GROUPS_PER_DEVICE = 2  # one that is scored, one that waits: more would only cost memory


class ItemToScore(NamedTuple):
    """A file whose faces were cut out, and those of them that are scored."""

    source: Source
    extraction: Extraction
    crops: Sequence[FaceCrop]


class ScoredFace(NamedTuple):
    """What the scoring of a crop gives."""

    p_fake: float
    quality: FaceQuality


Group = list[ItemToScore]
"""Files of which all faces are scored before any is answered."""


def iter_groups(items: Iterable[tuple[ItemToScore, bool]], batch_size: int) -> Generator[Group]:
    """Files in groups, in order, each of about ``batch_size`` faces.

    Args:
        items: Each file, and whether it is the last of its block: no group reaches beyond it.
        batch_size: Faces that fill a group.
    """
    held: Group = []
    faces = 0
    for item, is_last in items:
        held.append(item)
        faces += len(item.crops)
        # Files without faces fill no batch; they must not pile up either.
        if is_last or faces >= batch_size or len(held) >= 4 * batch_size:
            yield held
            held, faces = [], 0
    if held:
        yield held


def score_groups(
    groups: Iterable[Group], scorers: Sequence[Scorer], faces: TrainingFaces, threads: bool
) -> Generator[tuple[Group, list[ScoredFace]]]:
    """Score every face of groups; the groups come back in order.

    Args:
        groups: As of ``iter_groups``.
        scorers: One for each device; they take groups in turn.
        faces: Measures how good a crop is.
        threads: Give each scorer a thread, beside which the next groups are made; else the first
            one scores here.
    """
    if not threads:
        for group in groups:
            yield group, _score_group(scorers[0], group, faces)
        return
    with ExitStack() as stack:
        pool = []
        for number in range(len(scorers)):
            thread = ThreadPoolExecutor(1, f"deepfake-score-{number}")
            stack.callback(thread.shutdown, cancel_futures=True)
            pool.append(thread)
        flying: deque[tuple[Group, Future[list[ScoredFace]]]] = deque()
        for number, group in enumerate(groups):
            if len(flying) == _GROUPS_PER_DEVICE * len(scorers):
                done, scores = flying.popleft()
                yield done, scores.result()
            turn = number % len(scorers)
            flying.append((group, pool[turn].submit(_score_group, scorers[turn], group, faces)))
        for done, scores in flying:
            yield done, scores.result()


def _score_group(scorer: Scorer, group: Group, faces: TrainingFaces) -> list[ScoredFace]:
    """Score and quality of every crop of a group, in order."""
    crops = [crop for item in group for crop in item.crops]
    scored: list[ScoredFace] = []
    while len(scored) < len(crops):
        part = crops[len(scored) : len(scored) + scorer.batch_size]
        images = [decode_crop(crop.encoded) for crop in part]
        p_fake = scorer.score(np.stack(images))
        for crop, image, score in zip(part, images, p_fake, strict=True):
            scored.append(ScoredFace(score, faces.measure(image, crop.face.box_xyxy)))
    return scored
