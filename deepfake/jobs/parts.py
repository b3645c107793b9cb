"""Divides a job over machines that do not know each other: ``--shard 2/4`` is the second quarter.

Inputs are cut into blocks of a size that depends on nothing but their number; a part is a run of
whole blocks. What happens inside a block is the same whoever works on it, so the parts put together
are what one machine would have made. Knows neither crops nor scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deepfake.errors import UsageError

_MOST_BLOCKS = 128
LARGEST_BLOCK = 256


@dataclass(frozen=True, slots=True)
class JobPart:
    """One of several parts of a job.

    Args:
        number: Which one, counted from 1.
        of: How many there are.

    Raises:
        UsageError: If there is no such part.

    Example:
        >>> [list(JobPart(number, 3).blocks(4)) for number in (1, 2, 3)]
        [[0], [1], [2, 3]]
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"shard {self}: expected I/N with I from 1 to N, such as 1/4 or 4/4")

    @classmethod
    def parse(cls, text: str) -> JobPart:
        """Read ``I/N``.

        Raises:
            UsageError: If it is not two such numbers.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise UsageError(f"shard {text!r}: expected I/N with I from 1 to N, such as 1/4 or 4/4")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def blocks(self, count: int) -> range:
        """Which of so many blocks are in this part; none, if there are fewer blocks than parts."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)

    def inputs(self, count: int, block_size: int) -> range:
        """Which of so many inputs are in the blocks of this part."""
        blocks = self.blocks(-(-count // block_size))
        return range(blocks.start * block_size, min(blocks.stop * block_size, count))


WHOLE = JobPart(1, 1)
"""All blocks, for a job that is not divided."""


@dataclass(frozen=True, slots=True)
class Division:
    """How a job is divided.

    Args:
        part: Do only this part of it, to be merged with the others; ``None`` does all of it.
        block_size: Inputs per block; by default few for a job of few.

    Raises:
        UsageError: If a block would hold nothing.
    """

    part: JobPart | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 1:
            raise UsageError(f"shard_size={self.block_size}; expected 1 or more inputs per shard")


def choose_block_size(inputs: int) -> int:
    """Inputs per block: one for a job of few (they may be long videos), never very many.

    Example:
        >>> [choose_block_size(inputs) for inputs in (7, 2_000, 1_000_000)]
        [1, 16, 256]
    """
    return min(max(-(-inputs // _MOST_BLOCKS), 1), LARGEST_BLOCK)


def sort_parts(parts: Iterable[tuple[Path, JobPart]]) -> list[Path]:
    """Bring parts into order.

    Args:
        parts: Where each lies, and which it is.

    Raises:
        UsageError: If one is missing or there twice, or they do not divide a job alike.
    """
    placed: dict[int, Path] = {}
    first: tuple[Path, JobPart] | None = None
    for path, part in parts:
        first = first or (path, part)
        if part.of != first[1].of:
            raise UsageError(
                f"{first[0]} is part {first[1]} and {path} is part {part}; parts of one job have "
                "the same number after the slash"
            )
        if part.number in placed:
            raise UsageError(f"{placed[part.number]} and {path} are both part {part}; give one")
        placed[part.number] = path
    if first is None:
        raise UsageError("no parts; name all parts of the job")
    missing = [JobPart(number, first[1].of) for number in range(1, first[1].of + 1)]
    missing = [part for part in missing if part.number not in placed]
    if missing:
        shown = ", ".join(str(part) for part in missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise UsageError(
            f"part {shown}{more} is missing; run the job's command with --shard {missing[0]}, and "
            "name all parts"
        )
    return [placed[number] for number in sorted(placed)]
