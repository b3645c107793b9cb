"""Shows how far a long job is: a bar on a terminal or in a notebook, a line now and then in a log.

Writes to standard error, in a notebook to the cell; knows nothing of the job.
"""

from __future__ import annotations

import html
import io
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

from deepfake.errors import one_line
from deepfake.records import Source

T = TypeVar("T")
_LOG_INTERVAL_S = 30.0
_LONGEST_NAME = 30  # letters, beside a bar


def is_notebook() -> bool:
    """Whether a kernel runs this, whose front end shows HTML."""
    interactive = sys.modules.get("IPython")  # a notebook has imported it long ago
    shell = interactive.get_ipython() if interactive is not None else None
    return hasattr(shell, "kernel")


class _NotebookBar(tqdm):  # type: ignore[type-arg]
    """A bar of HTML in the cell, drawn again in its place.

    tqdm's own wants ipywidgets, warns where they are missing, and leaves nothing to see in a
    notebook that was stored.
    """

    _handle: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the state of now."""
        from IPython.display import display

        text = tqdm.format_meter(**{**self.format_dict, "bar_format": self._choose_format()})
        share = f' max="{self.total}" value="{min(self.n, self.total)}"' if self.total else ""
        bar = f"<progress{share}></progress>" if self.total or not self.disable else ""
        shown = {"text/html": f"<div>{bar} {html.escape(text)}</div>", "text/plain": text}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _choose_format(self) -> str:
        count = f"{{n_fmt}}/{{total_fmt}} {self.unit}s" if self.total else f"{{n_fmt}} {self.unit}s"
        left = ", {remaining} left" if self.total and self.n < self.total else ""
        return f"{count}, {{elapsed}} passed{left}{{postfix}}"


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
        notebook = is_notebook()
        terminal = sys.stderr.isatty() and not notebook
        is_seen = terminal or notebook
        self._interval_s = 0.2 if is_seen else _LOG_INTERVAL_S
        self._noted_s = time.monotonic() + delay_s - (self._interval_s if is_seen else 0)
        make_bar = _NotebookBar if notebook else tqdm
        self._bar = make_bar(
            total=total,
            initial=initial,
            unit=unit,
            disable=quiet,
            dynamic_ncols=terminal,
            ascii=not terminal,
            mininterval=self._interval_s,
            delay=delay_s,
            file=io.StringIO() if notebook else sys.stderr,  # a line's end, which nobody needs
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
        self._bar.set_postfix_str("", refresh=False)  # the one whose frames were told is done
        self._bar.update(count)


def track(
    items: Iterable[T], total: int, initial: int = 0, unit: str = "file", quiet: bool = False
) -> Iterator[T]:
    """Pass items through and count them; arguments as of ``Progress``."""
    with Progress(total, initial, quiet, unit) as progress:
        for item in items:
            yield item
            progress.advance()
