"""Sources with what a table says of them, in few bytes each.

Knows no file: who has read the table hands over its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, TEXT, WORD, PackedRows
from deepfake.dataset.rows import LABEL
from deepfake.records import Source


@dataclass(frozen=True, slots=True)
class ToldRow:
    """What a table says of an input; empty where it says nothing.

    Args:
        line: Of the table, where its row begins.
        label: 1 = fake, 0 = real.
        split: Name of its split.
        method: Manipulation.
        group: What must stay in one split.
        original: What it was made from: as the table names it, or its id once that is found.
    """

    line: int
    label: int | None
    split: str
    method: str
    group: str
    original: str


KINDS = {
    "line": COUNT, "label": LABEL, "split": WORD, "method": WORD, "group": TEXT, "original": TEXT,
}  # fmt: skip


class LabelledSources(Sequence[Source]):
    """Sources with label, split, method, group and original, made when they are asked for.

    Args:
        sources: The inputs of a table, a row each.
        told: What it says of some of them.
        places: Which of the inputs these are, in order.
    """

    def __init__(
        self, sources: Sequence[Source], told: PackedRows[ToldRow], places: NDArray[np.int64]
    ) -> None:
        self._sources, self._told, self._places = sources, told, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Source: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, place: int | slice) -> Source | tuple[Source, ...]:
        """A source, or a part of them."""
        if isinstance(place, slice):
            own = zip(self._places[place].tolist(), self._told[place], strict=True)
            return tuple(_label(self._sources[number], told) for number, told in own)
        return _label(self._sources[int(self._places[place])], self._told[place])

    def __iter__(self) -> Iterator[Source]:
        for number, told in zip(self._places, self._told, strict=True):
            yield _label(self._sources[int(number)], told)

    def divided(self) -> LabelledSources:
        """Those that have a split."""
        which = np.flatnonzero(~self._told.words("split").are(""))
        return LabelledSources(self._sources, self._told.choose(which), self._places[which])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]


def _label(source: Source, told: ToldRow) -> Source:
    return replace(
        source,
        label=told.label,
        split=told.split or None,
        method=told.method or None,
        group=told.group or None,
        original=told.original or None,
    )
