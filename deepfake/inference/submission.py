"""A contest's sample with our scores in it: its rows, its order, its columns.

The sample is read and checked before anything is scored. Knows no model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from deepfake.errors import UsageError
from deepfake.media.discovery import has_media_suffix
from deepfake.records import EVEN_ODDS, Result
from deepfake.tables import CsvRow, format_table, read_csv, unshield

Value = Literal["p_fake", "label"]
_FILE_COLUMNS = ("path", "id", "filename", "file", "name", "image", "image_id", "image_path")
_VALUE_COLUMNS = ("y", "label", "p_fake", "target", "prediction")


@dataclass(frozen=True, slots=True)
class Submission:
    """A filled-in sample.

    Args:
        text: The CSV.
        answered: Rows that got a score.
        without_answer: Rows whose file has no score.
        without_file: Rows that name none of the inputs.
        fallback: What was written into the rows of the last two kinds.
    """

    text: str
    answered: int
    without_answer: int
    without_file: int
    fallback: str


class _Answer(NamedTuple):
    path: str
    p_fake: float | None


class Sample:
    """A contest's sample, checked.

    Args:
        path: CSV with a column that names files and one to be filled.
        columns: Names of these two; by default the first known name of each, in any case.

    Raises:
        UsageError: If the file cannot be read, has no rows, or lacks a column.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path = path
        # Ids go back as they came, whatever a spreadsheet makes of them.
        self.rows: list[CsvRow] = read_csv(path, columns or (), literal=True)
        if not self.rows:
            raise UsageError(f"{path} has no rows; nothing could be filled")
        self.columns = list(self.rows[0].values)
        if columns is None:
            columns = [self._find(_FILE_COLUMNS, "file"), self._find(_VALUE_COLUMNS, "value")]
        if len(columns) != 2 or columns[0] == columns[1]:
            raise UsageError(f"submission columns {', '.join(columns)}; expected two: FILE VALUE")
        self.file_column, self.value_column = columns

    def fill(
        self, scores: Iterable[Result], fallback: float, value: Value = "p_fake"
    ) -> Submission:
        """Write a value into every row.

        A row's file is found by its path, else by its file name, else by that name without the
        suffix of media; a name alone must be unique, and no file that of rows in two folders.

        Args:
            scores: The answers; read once, and only path and score of each are kept.
            fallback: Written, as it is, where there is no answer.
            value: ``p_fake``, or ``label`` for a hard 1 = fake, 0 = real: a contest knows no
                "unclear", so that even odds decide, not the limits.

        Raises:
            UsageError: If a row's file is ambiguous, or the fallback is no such value.
        """
        check_fallback(fallback, value)
        answers = {_parts(score.path): _answer_of(score) for score in scores}
        indices = (
            answers,
            _index(answers.values(), lambda path: path.name),
            _index(answers.values(), lambda path: path.stem),
        )
        written = f"{fallback:.6f}" if value == "p_fake" else f"{fallback:g}"
        rows_by_file: dict[str, str] = {}
        counts = Counter[str]()
        cells = []
        for row in self.rows:
            match = self._match(row, *indices)
            if match is not None:
                name = unshield(row[self.file_column])
                other = rows_by_file.setdefault(match.path, name)
                if _parts(other)[:-1] != _parts(name)[:-1]:
                    raise UsageError(
                        f"{self.path}:{row.line}: {name!r} and {other!r} would both be "
                        f"{match.path!r}; give predict the folder that the sample's paths start "
                        "from"
                    )
            if match is None or match.p_fake is None:
                counts["without_file" if match is None else "without_answer"] += 1
                shown = written
            else:
                counts["answered"] += 1
                is_fake = match.p_fake >= EVEN_ODDS
                shown = f"{match.p_fake:.6f}" if value == "p_fake" else str(int(is_fake))
            filled = {**row.values, self.value_column: shown}
            cells.append([filled[column] for column in self.columns])
        return Submission(
            format_table(self.columns, cells),
            counts["answered"],
            counts["without_answer"],
            counts["without_file"],
            written,
        )

    def _find(self, known: Sequence[str], what: str) -> str:
        by_name = {column.lower(): column for column in reversed(self.columns)}
        for name in known:
            if name in by_name:
                return by_name[name]
        raise UsageError(
            f"{self.path} has columns {', '.join(self.columns)}; none of {', '.join(known)} is the "
            f"{what}'s: name both with --submission-columns FILE VALUE"
        )

    def _match(
        self,
        row: CsvRow,
        by_path: dict[tuple[str, ...], _Answer],
        by_name: dict[str, list[_Answer]],
        by_stem: dict[str, list[_Answer]],
    ) -> _Answer | None:
        name = unshield(row[self.file_column])
        if _parts(name) in by_path:
            return by_path[_parts(name)]
        last = PurePosixPath(name.replace("\\", "/"))
        # An id with another suffix is the same file where only one file has that stem.
        found = by_name.get(last.name) or by_stem.get(last.name) or []
        if not found and has_media_suffix(last.name):
            found = by_stem.get(last.stem) or []
        if len(found) > 1:
            raise UsageError(
                f"{self.path}:{row.line}: {name!r} could be {found[0].path!r} or "
                f"{found[1].path!r}; give predict the folder that the sample's paths start from"
            )
        return found[0] if found else None


def check_fallback(fallback: float, value: Value) -> None:
    """Refuse what would be no answer of the kind that is asked for.

    Raises:
        UsageError: If it is no probability, or for labels anything but 0 and 1.
    """
    if value == "label" and fallback not in (0, 1):
        raise UsageError(
            f"rows without an answer would get {fallback:g} among labels; give --no-answer 0 for "
            "real or 1 for fake"
        )
    if not 0 <= fallback <= 1:  # false for NaN, too
        raise UsageError(
            f"rows without an answer would get {fallback:g}; give --no-answer a probability, 0 to 1"
        )


def _answer_of(score: Result) -> _Answer:
    return _Answer(score.path, score.p_fake)


def _index(
    answers: Iterable[_Answer], key: Callable[[PurePosixPath], str]
) -> dict[str, list[_Answer]]:
    index: dict[str, list[_Answer]] = defaultdict(list)
    for answer in answers:  # one a path: a file that was asked for twice is one file
        index[key(PurePosixPath(answer.path.replace("\\", "/")))].append(answer)
    return dict(index)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
