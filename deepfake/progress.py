"""Shows how far a long job is: a bar on a terminal, a line now and then in a log.

Writes to standard error only; knows nothing of the job.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LOG_INTERVAL_S = 30.0


def track(
    items: Iterable[T], total: int, initial: int = 0, unit: str = "file", quiet: bool = False
) -> Iterator[T]:
    """Pass items through and show count, rate and time left.

    Args:
        items: What to count.
        total: Number of items of the whole job.
        initial: Number of items that were done before this run.
        unit: What one item is called.
        quiet: Show nothing.
    """
    terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        total=total,
        initial=initial,
        unit=unit,
        disable=quiet,
        dynamic_ncols=terminal,
        ascii=not terminal,
        mininterval=0.2 if terminal else _LOG_INTERVAL_S,
        file=sys.stderr,
    )
