"""Several checkpoints, or two looks at each face, as one detector: the mean of their ``p_fake``.

What comes out is a ``Checkpoint`` like any other, so that all that scores, measures and explains
takes it. One that looks as its limits were chosen for keeps them with what they reach. Of others
the limits are the mean of their members', and nobody has measured what they reach together:
``calibrate`` does, and writes them as one file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from deepfake.errors import UsageError
from deepfake.heads import MeanHead
from deepfake.learning.checkpoint import Checkpoint, check_tta, load_checkpoint
from deepfake.learning.checkpoint_names import CheckpointName, NamedCheckpoint
from deepfake.learning.joined import EnsembleEmbedder, Tta, count_looks
from deepfake.records import Limits, list_differences


def load_detector(
    names: CheckpointName | Sequence[CheckpointName] | None = None, tta: Tta | None = None
) -> Checkpoint:
    """Load one checkpoint, or several as one.

    Args:
        names: As of ``load_checkpoint``, or several of them.
        tta: As of ``combine``.

    Raises:
        CheckpointError: As of ``load_checkpoint``.
        UsageError: If there is none, they cut faces otherwise, or one is named twice.
    """
    if names is None or isinstance(names, str | os.PathLike | NamedCheckpoint):
        return combine([load_checkpoint(names)], tta)
    return combine([load_checkpoint(name) for name in names], tta)


def combine(checkpoints: Sequence[Checkpoint], tta: Tta | None = None) -> Checkpoint:
    """One detector of several; the recipe, provenance and training faces are the first's.

    Args:
        checkpoints: Finished ones; a single one that looks once comes back as it is.
        tta: ``flip``, a mirrored look as well; ``none``; by default what the limits were chosen
            for, of several those of all.

    Raises:
        UsageError: If there is none, they cut faces otherwise, or one comes twice.
    """
    if not checkpoints:
        raise UsageError("no checkpoint is named")
    first = checkpoints[0]
    _check_members(checkpoints)
    check_tta(tta or "none")
    if tta is None:
        alike = {one.chosen_tta for one in checkpoints} == {first.chosen_tta}
        tta = first.chosen_tta if alike else "none"
    once = first if len(checkpoints) == 1 else _join(checkpoints)
    if tta == "none" and (len(checkpoints) > 1 or tta == first.chosen_tta):
        return once
    looks = count_looks(tta)
    # What scores needs its forward, its state and no more.
    embedder: Any = EnsembleEmbedder([once.embedder], tta).eval()
    head = MeanHead([once.head] * looks).eval()
    looking = replace(once, embedder=embedder, head=head, members=tuple(checkpoints), tta=tta)
    if len(checkpoints) == 1 and tta == first.chosen_tta:
        return looking
    return replace(
        looking,
        name=once.name + (" (flip)" if tta == "flip" else ""),
        error_rates=None,
        info=once.info | {"error_rates": None},
        sha256=_identify(checkpoints, tta),
    )


def look_once(checkpoint: Checkpoint) -> Checkpoint:
    """The same networks with one look at each face, as a file keeps them."""
    if len(checkpoint.members) > 1:
        return combine(checkpoint.members, "none")
    return checkpoint.members[0] if checkpoint.members else checkpoint


def _join(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Several that look once each."""
    first = checkpoints[0]
    embedder: Any = EnsembleEmbedder([one.embedder for one in checkpoints]).eval()
    limits = _average([one.limits for one in checkpoints])
    named = {
        name: " + ".join(str(one.info.get(name)) for one in checkpoints)
        for name in ("backbone", "head")
    }
    known = named | {
        "manifest_sha256": ", ".join({one.info["manifest_sha256"]: 0 for one in checkpoints}),
        "counts": _add_counts(checkpoints),
        "limits": limits.to_dict(),
        "error_rates": None,
    }
    return replace(
        first,
        name=" + ".join(one.name for one in checkpoints),
        embedder=embedder,
        head=MeanHead([one.head for one in checkpoints]).eval(),
        limits=limits,
        error_rates=None,
        info=first.info | known,
        sha256=_identify(checkpoints, "none"),
        members=tuple(checkpoints),
    )


def _identify(checkpoints: Sequence[Checkpoint], tta: Tta) -> str:
    identity = json.dumps([[one.sha256 for one in checkpoints], tta])
    return hashlib.sha256(identity.encode()).hexdigest()


def _check_members(checkpoints: Sequence[Checkpoint]) -> None:
    first = checkpoints[0]
    for number, other in enumerate(checkpoints[1:], 1):
        differences = list_differences(other.recipe.crop, first.recipe.crop)
        if differences:
            raise UsageError(
                f"{other.name} and {first.name} cut faces otherwise ({', '.join(differences)}); "
                "only checkpoints with one crop recipe are scored together"
            )
        if other.sha256 in {one.sha256 for one in checkpoints[:number]}:
            raise UsageError(f"{other.name} is named twice: a mean of one is itself")


def _average(several: Sequence[Limits]) -> Limits:
    length = max(len(limits.fake) for limits in several)
    fake = (fmean(limits.of_fake(people) for limits in several) for people in range(1, length + 1))
    return Limits(fmean(limits.real for limits in several), tuple(fake))


def _add_counts(checkpoints: Sequence[Checkpoint]) -> dict[str, dict[str, int]]:
    """Crops that they were trained on, by class; those of both count twice."""
    several = [one.info["counts"]["train"] for one in checkpoints]
    return {"train": {word: sum(counts[word] for counts in several) for word in several[0]}}
