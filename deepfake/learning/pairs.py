"""Pairs of a fake and the real crop that it was made from.

Knows rows of a manifest, neither pixels nor the order in which they are trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRow, pack_crops
from deepfake.dataset.texts import number_texts
from deepfake.errors import UsageError

logger = logging.getLogger(__name__)


def find_originals(rows: Sequence[CropRow]) -> NDArray[np.int64]:
    """For every fake, the row of the real crop that it was made from; -1 where there is none.

    Of several crops of the original, that of the nearest frame, and of the same face of it.
    """
    packed = pack_crops(rows)
    labels = packed.kept("label")
    source, original = number_texts(packed.texts("source"), packed.texts("original"))
    frames, faces = packed.kept("frame"), packed.kept("face")
    reals, fakes = (np.flatnonzero(labels == label) for label in (0, 1))
    reals = reals[np.argsort(source[reals], kind="stable")]  # those of an input, in their order
    starts, ends = (
        np.searchsorted(source[reals], original[fakes], side) for side in ("left", "right")
    )
    found = np.full(len(packed), -1, np.int64)
    is_alone = ends - starts == 1
    found[fakes[is_alone]] = reals[starts[is_alone]]
    for number in np.flatnonzero(ends - starts > 1).tolist():
        fake, candidates = fakes[number], reals[starts[number] : ends[number]]
        apart = np.abs(frames[candidates] - frames[fake])
        # The nearest frame, then the same face, then the first row.
        nearest = candidates[apart == apart.min()]
        same = nearest[faces[nearest] == faces[fake]]
        found[fake] = same[0] if len(same) else nearest[0]
    return found


def find_strangers(rows: Sequence[CropRow], originals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reals of no fake, by row; a real that comes several times is none if one of them is not.

    Args:
        rows: Those that ``find_originals`` was given.
        originals: Its answer, ``(N,)``.
    """
    packed = pack_crops(rows)
    (crop,) = number_texts(packed.texts("crop"))
    reals = np.flatnonzero(packed.kept("label") == 0)
    return reals[~np.isin(crop[reals], crop[originals[originals >= 0]])]


def choose_pairs(
    labels: NDArray[np.int64],
    originals: NDArray[np.int64],
    n_strangers: int,
    wanted: Literal[True, "auto"],
    batch_size: int,
    self_blend: float = 0.0,
) -> bool:
    """Whether batches are made of pairs; says in the log what the training crops allow.

    Args:
        labels: ``(N,)``, 1 = fake, 0 = real.
        originals: ``(N,)``, as ``find_originals`` gives them.
        n_strangers: How many reals ``find_strangers`` finds.
        wanted: As ``BatchSettings.paired``.
        batch_size: Size of the global batch.
        self_blend: As ``BatchSettings.self_blend``.

    Raises:
        UsageError: If pairs are wanted for certain and there is none.
    """
    n_fakes, n_pairs = int((labels == 1).sum()), int((originals >= 0).sum())
    told = (
        f"data.batches.paired: {n_pairs} of {n_fakes} training fakes have their original among the "
        "training crops"
    )
    if wanted == "auto" and (2 * n_pairs <= n_fakes or batch_size % 2):
        logger.info("%s: no pairs, batches of %d", told, batch_size)
        return False
    if not n_pairs:
        raise UsageError(
            "data.batches.paired needs the original of fakes, but no training fake names one that "
            "is there: fill the column original of the CSV, or leave the option out"
        )
    n_reals = len(labels) - n_fakes
    level = logging.WARNING if n_pairs < n_fakes else logging.INFO
    logger.log(
        level,
        "%s; %d of %d training reals are no fake's original and come with %s",
        told,
        n_strangers,
        n_reals,
        "blends of their own" if self_blend else "the fakes of others",
    )
    return True
