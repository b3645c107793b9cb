"""Several checkpoints, or two looks at each face, as one detector: the mean of their ``p_fake``.

What comes out is a ``Checkpoint`` like any other, so that all that scores, measures and explains
takes it. One that looks as its limits were chosen for keeps them with what they reach. Of others
the limits are the mean of their members': nobody has measured what they reach together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from deepfake.errors import UsageError
from deepfake.heads import MeanHead
from deepfake.learning.checkpoint import Checkpoint, Tta, check_tta, load_checkpoint
from deepfake.learning.checkpoint_names import CheckpointName, NamedCheckpoint
from deepfake.records import Limits, list_differences


class EnsembleEmbedder(nn.Module):
    """Embeddings of several networks side by side, of unit norm again.

    Args:
        members: The networks, for crops of one size.
        tta: ``flip`` puts that of the mirrored crop behind each.
    """

    def __init__(self, members: Sequence[nn.Module], tta: Tta = "none") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.tta = tta
        # Kept in the state: the same networks with other looks are another network.
        self.register_buffer("n_looks", torch.tensor(count_looks(tta)))

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch, ``(B, 3, S, S)`` to ``(B, looks * sum of D)``."""
        looks = [images] if self.tta == "none" else [images, images.flip(-1)]
        vectors = [member(look) for member in self.members for look in looks]
        joined: Tensor = torch.cat(vectors, dim=1) / len(vectors) ** 0.5
        return joined


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
    as_chosen = len(checkpoints) == 1 and tta == first.chosen_tta
    if as_chosen and tta == "none":
        return first
    head = MeanHead([one.head for one in checkpoints for _ in range(count_looks(tta))]).eval()
    # What scores needs its forward, its state and no more.
    embedder: Any = EnsembleEmbedder([one.embedder for one in checkpoints], tta).eval()
    members = tuple(checkpoints)
    if as_chosen:
        return replace(first, embedder=embedder, head=head, members=members, tta=tta)
    limits = _average([one.limits for one in checkpoints])
    known = {
        "backbone": " + ".join(str(one.info["backbone"]) for one in checkpoints),
        "manifest_sha256": ", ".join({one.info["manifest_sha256"]: 0 for one in checkpoints}),
        "counts": _add_counts(checkpoints),
        "limits": limits.to_dict(),
        "error_rates": None,
    }
    identity = json.dumps([[one.sha256 for one in checkpoints], tta])
    return replace(
        first,
        name=" + ".join(one.name for one in checkpoints) + (" (flip)" if tta == "flip" else ""),
        embedder=embedder,
        head=head,
        limits=limits,
        error_rates=None,
        info=first.info | known,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        members=members,
        tta=tta,
    )


def count_looks(tta: Tta) -> int:
    """How often a face passes a network."""
    return 2 if tta == "flip" else 1


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
