"""Results as tables: scores per file, scores per face.

The first has exactly one row per input, in order. A CSV is written as the results come, a million
rows in little memory; a table of pandas is for people. Knows no model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsIndex, overload

from deepfake.media.discovery import display_name, path_uri
from deepfake.records import FaceQuality, Result, Status, Verdict, load_renderer
from deepfake.tables import format_lines

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["file", "face"]
"""One row per input, or one row per scored face."""
_CORNERS = ("x0", "y0", "x1", "y1")
_ANSWER = ("status", "reason", "remarks", "p_fake", "verdict", "real_limit", "fake_limit")
_FILE_COUNTS = ("n_found", "n_faces", "n_too_small", "n_people")
_QUALITY = ("size_px", "sharpness", "brightness", "distance")
SCORE_COLUMNS = ("path", *_ANSWER, *_FILE_COUNTS, *_CORNERS, *_QUALITY, "path_uri")
_FACE = ("frame", "time_s", "face", "person", "p_fake", "confidence")
FACE_COLUMNS = ("path", *_FACE, *_CORNERS, *_QUALITY)
_TEXTS = ("path", "status", "reason", "remarks", "verdict", "path_uri")
_COUNTS = (*_FILE_COUNTS, "frame", "face", "person")


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of a prediction job; ``str()`` is a line that adds up."""

    statuses: Counter[str]
    fakes: int
    unclear: int

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return sum(self.statuses.values())

    @property
    def answers(self) -> int:
        """Number of inputs with a score."""
        return self.statuses[Status.OK.value]

    def __str__(self) -> str:
        parts = " + ".join(f"{self.statuses[status.value]:,} {status.value}" for status in Status)
        return (
            f"{self.inputs:,} inputs = {parts}; {self.fakes:,} of the ok ones fake, "
            f"{self.unclear:,} unclear"
        )


def count(scores: Iterable[Result]) -> Totals:
    """Count statuses and decisions."""
    statuses, verdicts = Counter[str](), Counter[Verdict | None]()
    for score in scores:
        statuses[score.status.value] += 1
        verdicts[score.verdict] += 1
    return Totals(statuses, verdicts[Verdict.FAKE], verdicts[Verdict.UNCLEAR])


@dataclass(frozen=True, slots=True, repr=False)
class PicturedResult(Result):
    """A result that can show the faces it rests on.

    Args:
        crops: Encoded crop of the most suspicious face of each person, by person.
    """

    crops: Mapping[int, bytes] = field(default_factory=dict, compare=False)


class ResultList(list[Result]):
    """Results of a prediction, one per input and in order; shows itself as they do."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> ResultList: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Result | ResultList:
        """One, or a part that shows itself as well."""
        if isinstance(index, slice):
            return ResultList(super().__getitem__(index))
        return super().__getitem__(index)

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return str(self) if self else "<ResultList of no results>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        html: str = load_renderer().format_cell(self)
        return html

    def to_frame(self, level: Level = "file") -> pd.DataFrame:
        """As of ``Results.to_frame``."""
        return Results(self).to_frame(level)

    def save_html(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """As of ``Result.save_html``, for all of them."""
        page: Path = load_renderer().save_page(self, Path(path), overwrite)
        return page

    def show(self) -> None:
        """As of ``Result.show``, for all of them."""
        load_renderer().show(self)


class Results(Iterator[Result]):
    """Results of a prediction, one per input and in order, as they come.

    Args:
        scores: Where they come from.
    """

    def __init__(self, scores: Iterable[Result]) -> None:
        self._scores = iter(scores)

    def __next__(self) -> Result:
        return next(self._scores)

    def close(self) -> None:
        """End the work on results that nobody waits for any more."""
        if isinstance(self._scores, Generator):
            self._scores.close()

    def to_frame(self, level: Level = "file") -> pd.DataFrame:
        """All results that are still to come as a table of pandas.

        It has the columns of ``scores.csv`` or ``faces.csv``, numbers not rounded, and ``NaN`` or
        ``NA`` where there is no answer.

        Args:
            level: One row per input, or one row per scored face.
        """
        import pandas as pd

        columns, list_rows = LEVELS[level]
        table = pd.DataFrame([row for score in self for row in list_rows(score)], columns=columns)
        return table.astype(choose_kinds(columns))


def choose_kinds(columns: Iterable[str]) -> dict[str, str]:
    """What the cells of each column are: ``string``, ``int64`` or ``float64``."""
    return {
        name: "string" if name in _TEXTS else "int64" if name in _COUNTS else "float64"
        for name in columns
    }


def describe_results(results: Iterable[Result]) -> Iterator[str]:
    """Lines for a terminal, one per input: verdict, score between its limits, people, remarks."""
    return (f"{describe_result(one)}\n" for one in results)


def describe_result(result: Result) -> str:
    """One of these lines, without its end."""
    no_answer = [result.reason or result.status.value]
    said = no_answer if result.p_fake is None else _describe_answer(result)
    text = "; ".join([*said, *result.remarks])
    return f"{display_name(result.path)}: {display_name(text)}"


def _describe_answer(result: Result) -> list[str]:
    answer = f"{result.verdict}, p_fake {result.p_fake:.3f}"
    if result.limits is not None:
        answer += " (real up to {:.3f}, fake from {:.3f})".format(*result.limits)
    return [answer, f"{result.n_people} people"] if result.n_people > 1 else [answer]


def format_scores(scores: Iterable[Result]) -> Iterator[str]:
    """Lines of ``scores.csv``: one per input; no answer, no ``p_fake``."""
    return _format(scores, "file")


def format_faces(scores: Iterable[Result]) -> Iterator[str]:
    """Lines of ``faces.csv``: one per scored face."""
    return _format(scores, "face")


def _list_file(score: Result) -> list[list[object]]:
    """The one row of a file."""
    answer = [
        score.status.value,
        display_name(score.reason),
        display_name("; ".join(score.remarks)),
        score.p_fake,
        None if score.verdict is None else score.verdict.value,
        *(score.limits or (None, None)),
    ]
    counts = [score.n_found, score.n_faces, score.n_too_small, score.n_people]
    box = score.box_xyxy or (None,) * 4
    quality = _list_quality(score.quality)
    return [[display_name(score.path), *answer, *counts, *box, *quality, path_uri(score.path)]]


def _list_faces(score: Result) -> list[list[object]]:
    """A row for each scored face of a file."""
    name = display_name(score.path)
    rows: list[list[object]] = []
    for face in score.faces:
        place = [face.frame_index, face.time_s, face.face_index, face.person]
        known = [face.p_fake, face.confidence, *face.box_xyxy, *_list_quality(face.quality)]
        rows.append([name, *place, *known])
    return rows


def _list_quality(quality: FaceQuality | None) -> tuple[float | None, ...]:
    return (None,) * len(_QUALITY) if quality is None else astuple(quality)


LEVELS = {"file": (SCORE_COLUMNS, _list_file), "face": (FACE_COLUMNS, _list_faces)}
"""Columns of the table of files and of that of faces, and what lists the rows of a result."""


def _format(scores: Iterable[Result], level: Level) -> Iterator[str]:
    columns, list_rows = LEVELS[level]
    formats = dict.fromkeys(columns, ".6f") | dict.fromkeys(_CORNERS + _QUALITY, ".2f")
    formats |= dict.fromkeys(_TEXTS + _COUNTS, "")

    specs = [formats[column] for column in columns]

    def cells(row: list[object]) -> list[str]:
        named = zip(row, specs, strict=True)
        return ["" if value is None else format(value, spec) for value, spec in named]

    rows = (cells(row) for score in scores for row in list_rows(score))
    return format_lines(columns, rows, _TEXTS)
