"""How results of Python show themselves: a line of a terminal, a notebook's cell, a page, a table.

The one door through which ``deepfake.result`` and ``deepfake.inference`` look up, while they run:
see the import contracts. Computes no score.
"""

from __future__ import annotations

import logging
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.errors import UsageError
from deepfake.inference.aggregation import MOST_PEOPLE, rank_people
from deepfake.inference.results import Level, PicturedResult, Results
from deepfake.inference.results import describe_result as describe_result
from deepfake.progress import is_notebook
from deepfake.records import Result
from deepfake.storage import write_atomic

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
_MOST_IN_A_CELL = 50  # results: a notebook keeps every cell in its file


def _count_people(result: Result) -> str:
    number = len(result.people)
    counting = "" if result.n_people == number else f", of whom {result.n_people} count"
    return f"{number} {'person' if number == 1 else 'people'}{counting}"


def make_frame(results: Sequence[Result], level: Level) -> pd.DataFrame:
    """A table of pandas, as of ``Results.to_frame``."""
    return Results(results).to_frame(level)


def format_cell(results: Sequence[Result]) -> str:
    """HTML for a notebook: it asks no network, and touches nothing outside of itself."""
    return _render("result.html", results[:_MOST_IN_A_CELL], len(results))


def save_page(results: Sequence[Result], path: Path, overwrite: bool) -> Path:
    """Write the same as a page of its own.

    Raises:
        UsageError: If the file exists and nobody asked to replace it, or its folder does not.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; name another file or pass overwrite=True")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    write_atomic(path, _render("result_page.html", results, len(results)))
    return path


def show(results: Sequence[Result]) -> None:
    """Show results where they are: in the notebook, else as a page in a browser."""
    if is_notebook():
        from IPython.display import HTML, display

        display(HTML(format_cell(results)))
        return
    # The browser reads it when this process may be gone; the system clears such files away.
    page = save_page(results, Path(tempfile.mkdtemp(prefix="deepfake-")) / "results.html", False)
    if not webbrowser.open(page.as_uri()):
        logger.warning("no browser was found; the page is %s", page)


def _render(template: str, results: Sequence[Result], total: int) -> str:
    from deepfake.reports.page import render

    return render(template, cards=[_make_card(one) for one in results], total=total)


def _make_card(result: Result) -> dict[str, Any]:
    from deepfake.reports.page import embed_thumbnail

    people = rank_people(result)
    crops = result.crops if isinstance(result, PicturedResult) else {}
    return {
        "score": result,
        "headline": _count_people(result),
        "people": [
            (one, embed_thumbnail(crops[one.person]) if one.person in crops else None)
            for one in people[:MOST_PEOPLE]
        ],
        "n_more": max(0, len(people) - MOST_PEOPLE),
    }
