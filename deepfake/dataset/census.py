"""Count what there is per method, label and split, and write it as a table that lines up.

Knows no file and no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepfake.dataset.splits import SPLITS
from deepfake.media.discovery import display_name
from deepfake.records import LABEL_NAMES

_LONGEST = 25
_UNLABELLED = "no label"
_UNSPLIT = "no split"


@dataclass(frozen=True, slots=True)
class Census:
    """How many there are of each (label word, method, split).

    Args:
        counts: By those three, in words; ``str()`` is the table.
    """

    counts: Counter[tuple[str, str, str]]

    @classmethod
    def take(cls, rows: Iterable[tuple[int | None, str, str]]) -> Census:
        """Count rows of (label, method, split), empty where not known."""
        return cls(
            Counter(
                (
                    _UNLABELLED if label is None else LABEL_NAMES[label],
                    display_name(method) or "-",
                    split or _UNSPLIT,
                )
                for label, method, split in rows
            )
        )

    def __str__(self) -> str:
        splits = [
            split
            for split in (*SPLITS, _UNSPLIT)
            if any(there == split for _, _, there in self.counts)
        ]
        labels = (*LABEL_NAMES, _UNLABELLED)
        kinds = sorted(
            {(label, method) for label, method, _ in self.counts},
            key=lambda kind: (labels.index(kind[0]), kind[1]),
        )
        numbers = [[self.counts[(*kind, split)] for split in splits] for kind in kinds]
        numbers = [[*row, sum(row)] for row in numbers]
        rows = [[*kind, *row] for kind, row in zip(kinds, numbers, strict=True)]
        shown = rows[:_LONGEST]
        table: list[Sequence[object]] = [["label", "method", *splits, "all"], *shown]
        if len(rows) > len(shown):
            table.append(["...", f"{len(rows) - len(shown)} more methods"])
        if len(rows) > 1:
            table.append(["all", "", *(sum(column) for column in zip(*numbers, strict=True))])
        return "\n".join(align(table))


def align(rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table whose columns line up, numbers to the right.

    Example:
        >>> align([["a", "size"], ["bcd", 1234]])
        ['a     size', 'bcd  1,234']
    """
    cells = [[_write(cell) for cell in row] for row in rows]
    numbers = [[isinstance(cell, int | float) for cell in row] for row in rows]
    columns = max(map(len, cells), default=0)
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(columns)]
    right = [any(row[i] for row in numbers if i < len(row)) for i in range(columns)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=False)
        ).rstrip()
        for row in cells
    ]


def _write(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
