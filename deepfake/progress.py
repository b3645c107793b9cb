"""Shows how far a long job is: a bar on a terminal or in a notebook, a line now and then in a log.

Writes to standard error only; knows nothing of the job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tqdm.auto import tqdm

from deepfake.errors import one_line
from deepfake.records import Source

T = TypeVar("T")
_LOG_INTERVAL_S = 30.0
_LONGEST_NAME = 30  # letters, beside a bar


class Progress:
    """Count, rate and time left of a job.

    Args:
        total: Number of items of the whole job; ``None`` where nobody knows.
        initial: Number of items that were done before this run.
        quiet: Show nothing.
        unit: What one item is called.
        delay_s: Show nothing before.
    """

    def __init__(
        self,
        total: int | None,
        initial: int = 0,
        quiet: bool = False,
        unit: str = "file",
        delay_s: float = 0.0,
    ) -> None:
        terminal = sys.stderr.isatty()
        self._interval_s = 0.2 if terminal else _LOG_INTERVAL_S
        self._noted_s = time.monotonic() + delay_s - (self._interval_s if terminal else 0)
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=unit,
            disable=quiet,
            dynamic_ncols=terminal,
            ascii=not terminal,
            mininterval=self._interval_s,
            delay=delay_s,
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

    def note_frames(self, source: Source, n_searched: int) -> None:
        """Say how far the job is within one item: frames of a video that have been searched."""
        now = time.monotonic()
        if n_searched < 2 or now - self._noted_s < self._interval_s:
            return
        self._noted_s = now
        name = one_line(Path(source.name).name, _LONGEST_NAME)
        self._bar.set_postfix_str(f"{name}: {n_searched} frames searched")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar away while something else is written to the same terminal."""
        with tqdm.external_write_mode(file=sys.stderr):
            yield

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
