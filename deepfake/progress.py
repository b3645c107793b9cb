"""Shows how far a long job is: a bar on a terminal, a line now and then in a log.

Writes to standard error only; knows nothing of the job.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LOG_INTERVAL_S = 30.0


class Progress:
    """Count, rate and time left of a job.

    Args:
        total: Number of items of the whole job.
        initial: Number of items that were done before this run.
        quiet: Show nothing.
        unit: What one item is called.
    """

    def __init__(
        self, total: int, initial: int = 0, quiet: bool = False, unit: str = "file"
    ) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=unit,
            disable=quiet,
            dynamic_ncols=terminal,
            ascii=not terminal,
            mininterval=0.2 if terminal else _LOG_INTERVAL_S,
            file=sys.stderr,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Say that more items are done."""
        self._bar.update(count)


def track(
    items: Iterable[T], total: int, initial: int = 0, unit: str = "file", quiet: bool = False
) -> Iterator[T]:
    """Pass items through and count them; arguments as of ``Progress``."""
    with Progress(total, initial, quiet, unit) as progress:
        for item in items:
            yield item
            progress.advance()
