"""Count what there is per label, method and split, and write it as a table that lines up.

Knows no file and no image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepfake.dataset.splits import SPLITS
from deepfake.media.discovery import display_name
from deepfake.records import LABEL_NAMES
from deepfake.tables import align

LABEL_WORDS = (*LABEL_NAMES, "no label")
"""What tables call the labels, in their order."""
NO_SPLIT = "no split"
_LONGEST = 25


def label_word(label: int | None) -> str:
    """What tables call a label."""
    return LABEL_WORDS[-1 if label is None else label]


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many there are of each (label word, method, split).

    Args:
        counts: By those three, in words; ``str()`` is the table.
    """

    counts: Counter[tuple[str, str, str]]

    @classmethod
    def count(cls, rows: Iterable[tuple[int | None, str, str]]) -> ClassCounts:
        """Count rows of (label, method, split), empty where not known."""
        return cls(
            Counter(
                (label_word(label), display_name(method) or "-", split or NO_SPLIT)
                for label, method, split in rows
            )
        )

    def __str__(self) -> str:
        found = {split for _, _, split in self.counts}
        splits = [split for split in (*SPLITS, NO_SPLIT) if split in found]
        kinds = sorted(
            {(label, method) for label, method, _ in self.counts},
            key=lambda kind: (LABEL_WORDS.index(kind[0]), kind[1]),
        )
        numbers = [[self.counts[(*kind, split)] for split in splits] for kind in kinds]
        numbers = [[*row, sum(row)] for row in numbers]
        rows = [[*kind, *row] for kind, row in zip(kinds, numbers, strict=True)]
        table: list[Sequence[object]] = [["label", "method", *splits, "all"], *rows[:_LONGEST]]
        if len(rows) > _LONGEST:
            table.append(["...", f"{len(rows) - _LONGEST} more methods"])
        if len(rows) > 1:
            table.append(["all", "", *(sum(column) for column in zip(*numbers, strict=True))])
        return "\n".join(align(table))
