"""Tables: CSV and JSON read strictly, CSV written plainly, columns that line up in a terminal.

A CSV has every row complete and numbered, or an error that names the line: lenient readers (pandas
among them) shift columns, drop rows or turn the name ``NA`` into nothing, and a label table must
not. What a stranger has named is never a formula in a spreadsheet. The module does not know what
the columns mean.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deepfake.errors import UsageError

# Spreadsheets take a cell for a formula that begins so, in East Asian width as well. Apostrophes in
# front are part of the pattern: each text has a form of its own, and can be had back.
_FORMULA = re.compile("'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")
_CSV = "CSV file"


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of a table.

    Args:
        line: Line of the file on which the row starts, counted from 1.
        values: Text of every column, by name.
    """

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str, default: str = "") -> str:
        """Text of a column that the table may lack."""
        return self.values.get(column, default)


def shield(text: str) -> str:
    """Write a text so that a spreadsheet shows it and never computes it: an apostrophe in front.

    Only texts that begin with ``= + - @``, a tab or a line end change; ``unshield`` restores them.

    Example:
        >>> [shield(text) for text in ("=1+1.jpg", "a=b.jpg", "'=.jpg", "'a.jpg")]
        ["'=1+1.jpg", 'a=b.jpg', "''=.jpg", "'a.jpg"]
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unshield(text: str) -> str:
    """The text that ``shield`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def format_lines(
    columns: Sequence[str], rows: Iterable[Iterable[object]], texts: Collection[str] = ()
) -> Iterator[str]:
    r"""CSV with a header, line by line; UTF-8-safe, ``\n`` at ends, the same bytes everywhere.

    Args:
        columns: The header.
        rows: A cell for each column.
        texts: Columns whose cells somebody else has named: they are shielded.
    """
    # Python before 3.13 only quotes a lone \r if it is in the line terminator.
    write = csv.writer(_Echo(), lineterminator="\r\n").writerow
    shielded = [place for place, column in enumerate(columns) if column in texts]
    for row in chain([columns], rows):
        cells = [*row]
        if len(cells) != len(columns):
            raise ValueError(f"{len(cells)} cells for {len(columns)} columns: {cells}")
        for place in shielded:
            cells[place] = shield(str(cells[place]))
        line: Any = write(cells)  # what ``_Echo`` returned
        yield line.removesuffix("\r\n") + "\n"


class _Echo:
    """A file that gives back what is written to it: each line is had without a buffer."""

    def write(self, line: str) -> str:
        return line


def format_table(
    columns: Sequence[str], rows: Iterable[Iterable[object]], texts: Collection[str] = ()
) -> str:
    """The same as one text."""
    return "".join(format_lines(columns, rows, texts))


def read_csv(
    path: Path,
    required: Sequence[str],
    literal: bool = False,
    other_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[CsvRow]:
    r"""Read a comma-separated table with a header line.

    A byte-order mark, CRLF line ends, quoted commas and line breaks, and blank lines are fine.

    Args:
        path: A UTF-8 file.
        required: Columns that must be there; others may be.
        literal: Leave cells as they stand; else those that were shielded are restored.
        other_names: What else a column may be called; the first one that is there, in any case,
            stands for a column that is not.

    Returns:
        The rows in file order; none if there is only a header.

    Raises:
        UsageError: If the file cannot be read, is not UTF-8 text, lacks a column or names one
            twice, has an open quote, or has a row with more or fewer fields than the header.
    """
    return list(iter_csv(path, required, literal, other_names))


def iter_csv(
    path: Path,
    required: Sequence[str],
    literal: bool = False,
    other_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[CsvRow]:
    """The same row by row, in the memory of one; a wrong row is found when its turn comes."""
    _refuse_device(path, _CSV)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _iter_rows(lines, path, required, literal, other_names)
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            read_text(path)  # says where
        raise _explain_unreadable(path, _CSV, error) from error


def parse_csv(
    text: str,
    path: object,
    required: Sequence[str],
    literal: bool = False,
    other_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[CsvRow]:
    """The same of a text that is there already; ``path`` is what errors call it."""
    return _iter_rows(io.StringIO(text, newline=""), path, required, literal, other_names)


def read_text(path: Path, kind: str = _CSV) -> str:
    """Read a text file that must be UTF-8.

    Args:
        path: The file.
        kind: What it should have been, for the error.

    Raises:
        UsageError: If it cannot be read or is not UTF-8 text.
    """
    _refuse_device(path, kind)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise _explain_unreadable(path, kind, error) from error
    return decode_text(data, path)


def _refuse_device(path: Path, kind: str) -> None:
    # A fifo or device would block or never end.
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a regular file; expected a {kind}")


def _explain_unreadable(path: Path, kind: str, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path}: no such file; expected a {kind}")
    return UsageError(f"{path}: cannot be read ({error})")


def decode_text(data: bytes, path: object) -> str:
    """The text that bytes are, which must be UTF-8; ``path`` is what errors call it.

    Raises:
        UsageError: If they are not.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: UTF-16 text; save it as UTF-8 ('CSV UTF-8' in Excel)")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise UsageError(f"{path}:{line}: NUL byte; expected a text file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        seen = data[error.start : error.start + 1].hex()
        raise UsageError(
            f"{path}:{line}: byte 0x{seen} is not UTF-8; save the file as UTF-8 ('CSV UTF-8' in"
            " Excel)"
        ) from error


def parse_json(text: str) -> Any:
    """What a JSON text of somebody else says.

    Raises:
        ValueError: If it is no JSON, is nested too deeply, or holds a number that is not finite.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def format_json(content: Any) -> str:
    """JSON for anybody: a number that is not finite, which JSON does not know, is ``null``."""
    return f"{json.dumps(_nullify(content), indent=2, allow_nan=False)}\n"


def _nullify(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _nullify(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_nullify(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def align(rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table whose columns line up, numbers to the right.

    Example:
        >>> align([["a", "size"], ["bcd", 1234]])
        ['a     size', 'bcd  1,234']
    """
    cells = [[_write_cell(cell) for cell in row] for row in rows]
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


def _parse_finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word:.40} is no finite number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_parse_finite, parse_float=_parse_finite)


def _iter_rows(
    lines: Iterable[str],
    path: object,
    required: Sequence[str],
    literal: bool,
    other_names: Mapping[str, Sequence[str]],
) -> Iterator[CsvRow]:
    records = _iter_records(path, lines)
    first = next(records, None)
    if first is None:
        raise UsageError(f"{path}: empty; expected a header line with {_names(required)}")
    line, header = first
    header = _rename([name.strip() for name in header], other_names)
    _check_header(path, line, header, required, other_names)
    for line, fields in records:
        if len(fields) != len(header):
            raise UsageError(
                f"{path}:{line}: {len(fields)} fields where the header has {len(header)}"
                f" ({_names(header)}): {_shorten(fields)}; quote fields that contain commas"
            )
        if not literal and "'" in "".join(fields):
            fields = [unshield(field) for field in fields]
        yield CsvRow(line, dict(zip(header, fields, strict=True)))


def _iter_records(path: object, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(
                f"{path}:{line}: {error}; a quote in a quoted field is written twice and every"
                " quoted field must be closed"
            ) from error
        if "\0" in "".join(fields):
            raise UsageError(f"{path}:{line}: NUL byte; expected a text file in UTF-8")
        if len(fields) > 1 or any(field.strip() for field in fields):
            yield line, fields


def _rename(header: list[str], other_names: Mapping[str, Sequence[str]]) -> list[str]:
    """The header with the columns under the names that they are asked for by."""
    for column, names in other_names.items():
        lower = [name.lower() for name in header]
        found = [lower.index(name) for name in (column, *names) if name in lower]
        if found and column not in header:
            header[found[0]] = column
    return header


def _check_header(
    path: object,
    line: int,
    header: list[str],
    required: Sequence[str],
    other_names: Mapping[str, Sequence[str]],
) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UsageError(f"{path}:{line}: column {_names(twice)} appears more than once")
    missing = [name for name in required if name not in header]
    if not missing:
        return
    hint = ""
    if len(header) == 1 and ";" in header[0]:
        hint = "; the file looks ;-separated, save it with commas"
    elif len(header) == 1 and "\t" in header[0]:
        hint = "; the file looks tab-separated, save it with commas"
    others = [name for column in missing for name in other_names.get(column, ())]
    also = f" (nor {_names(others)})" if others else ""
    raise UsageError(
        f"{path}:{line}: no column {_names(missing)}{also}; the columns are {_names(header)}{hint}"
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _shorten(fields: list[str], limit: int = 120) -> str:
    text = repr(fields)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _write_cell(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
