"""Tables of results as files: CSV, Parquet, JSON or JSON lines, by the suffix of their name.

All are written as the results come, a million rows in little memory. Parquet and JSON hold the
settings that the scores depend on. Knows no model and no job.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from deepfake.errors import UsageError
from deepfake.inference.results import LEVELS, Level, choose_kinds, format_faces, format_scores
from deepfake.media.discovery import display_name, path_uri
from deepfake.records import Result

_GROUP_ROWS = 2**14  # of Parquet: columns are compressed by so many rows, held in memory meanwhile
_METADATA_KEY = "deepfake"


def check_format(option: str, path: Path) -> None:
    """Refuse, before any work, a table that could not be written.

    Args:
        option: What names the file, for the message.
        path: The file.

    Raises:
        UsageError: If its suffix is none of ours, or needs a package that is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise UsageError(
            f"--{option} {path}: no table is written as {suffix or 'a file without suffix'}; "
            f"name it {', '.join(_WRITERS)}"
        )
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError(
            f"--{option} {path} needs pyarrow, not installed here: "
            "pip install 'deepfake[parquet]', or write .csv or .jsonl"
        )


def encode_table(
    path: Path,
    results: Callable[[], Iterable[Result]],
    settings: Mapping[str, Any],
    level: Level = "file",
) -> Iterator[bytes]:
    """The bytes of a table, piece by piece as the results come.

    Args:
        path: Its name; the suffix says how.
        results: Gives them in order.
        settings: What the scores depend on, in plain types.
        level: One row per input, or one row per scored face.
    """
    return _WRITERS[path.suffix.lower()](results(), settings, level)


def _encode_csv(results: Iterable[Result], _: Mapping[str, Any], level: Level) -> Iterator[bytes]:
    lines = format_scores(results) if level == "file" else format_faces(results)
    return (line.encode() for line in lines)


def _encode_lines(results: Iterable[Result], _: Mapping[str, Any], level: Level) -> Iterator[bytes]:
    return (f"{line}\n".encode() for line in _write_objects(results, level))


def _encode_json(
    results: Iterable[Result], settings: Mapping[str, Any], level: Level
) -> Iterator[bytes]:
    yield f'{{"settings": {_to_json(settings, in_order=True)},\n"{level}s": ['.encode()
    for number, line in enumerate(_write_objects(results, level)):
        yield f"{',' if number else ''}\n{line}".encode()
    yield b"\n]}\n"


def _encode_parquet(
    results: Iterable[Result], settings: Mapping[str, Any], level: Level
) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    columns, list_rows = LEVELS[level]
    schema = pa.schema(
        [(name, types[kind]) for name, kind in choose_kinds(columns).items()],
        metadata={_METADATA_KEY: _to_json(settings, in_order=True)},
    )
    sink = _Sink()
    rows = (row for result in results for row in list_rows(result))
    with ParquetWriter(sink, schema) as writer:
        while group := list(islice(rows, _GROUP_ROWS)):
            cells = zip(*group, strict=True)
            writer.write_batch(pa.record_batch([*map(pa.array, cells, schema.types)], schema))
            yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """A file that is only ever appended to, and whose bytes are taken out of it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._length += len(data)
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _write_objects(results: Iterable[Result], level: Level) -> Iterator[str]:
    for result in results:
        if level == "file":
            yield _to_json(
                asdict(result)
                | {"path": display_name(result.path), "path_uri": path_uri(result.path)}
                | {"reason": display_name(result.reason)}
                | {"remarks": [display_name(remark) for remark in result.remarks]}
            )
        else:
            columns, list_rows = LEVELS[level]
            for row in list_rows(result):
                yield _to_json(dict(zip(columns, row, strict=True)))


def _to_json(value: object, in_order: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=in_order)


_Encoder = Callable[[Iterable[Result], Mapping[str, Any], Level], Iterator[bytes]]
_WRITERS: dict[str, _Encoder] = {
    ".csv": _encode_csv,
    ".parquet": _encode_parquet,
    ".json": _encode_json,
    ".jsonl": _encode_lines,
}
