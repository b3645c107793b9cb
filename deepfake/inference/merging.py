"""The parts of a prediction job, made by machines that do not know each other, as one.

Each part left its answers beside its table; all tables of the whole job are written from these, as
an undivided job writes them from its own. Knows no model and no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from deepfake.dataset.parts import JobPart, find_difference, sort_parts
from deepfake.errors import UsageError
from deepfake.inference.journal import count_scores, iter_scores, journal_path, read_head
from deepfake.records import MediaScore


@dataclass(frozen=True, slots=True)
class JoinedAnswers:
    """The answers of all parts.

    Args:
        journals: Where they lie, in order.
        prior: Share of fakes among the training crops of the checkpoint.
    """

    journals: tuple[Path, ...]
    prior: float

    def scores(self) -> Iterator[MediaScore]:
        """All answers in input order, one batch at a time in memory."""
        return chain.from_iterable(iter_scores(journal) for journal in self.journals)


def join_answers(parts: Sequence[Path]) -> JoinedAnswers:
    """Check that parts make up one finished job.

    Args:
        parts: The ``--output`` of all parts, in any order.

    Raises:
        UsageError: If they do not, or one is unfinished.
    """
    heads = {path: _read_part(path) for path in parts}
    ordered = sort_parts((path, JobPart.parse(str(heads[path]["part"]))) for path in parts)
    first = ordered[0]
    for path in ordered:
        difference = find_difference(_shared(heads[first]), _shared(heads[path]))
        if difference is not None:
            name, one, other = difference
            raise UsageError(
                f"{first} and {path} are of different jobs: {name}={one!r} and {other!r}; parts of "
                "one job have the same inputs, checkpoint, settings and versions"
            )
    for path in ordered:
        _check_finished(path, heads[path])
    return JoinedAnswers(tuple(map(journal_path, ordered)), float(heads[first]["prior"]))


def _read_part(path: Path) -> dict[str, Any]:
    if not journal_path(path).is_file():
        raise UsageError(
            f"{path} is no part of a prediction: {journal_path(path)} does not lie beside it; "
            "parts are made with --shard I/N, and that file stays until they are merged"
        )
    head = read_head(journal_path(path))
    if head["part"] is None:
        raise UsageError(
            f"{path} is a whole job that is unfinished, not a part of one; run its own command "
            "again to go on"
        )
    return head


def _shared(head: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in head.items() if key not in ("part", "tables")}


def _check_finished(path: Path, head: dict[str, Any]) -> None:
    part = JobPart.parse(head["part"])
    expected = len(part.inputs(head["inputs"], head["block_size"]))
    answered = count_scores(journal_path(path))
    if answered != expected or not path.is_file():
        raise UsageError(
            f"part {part} in {path} is unfinished ({answered:,} of {expected:,} inputs); go on "
            f"with its own command: deepfake predict INPUT --output {path} --shard {part} and the "
            "options that it had"
        )
