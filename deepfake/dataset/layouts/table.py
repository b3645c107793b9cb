"""Tables: a CSV that names every input with its label, and whatever else is known of it.

Labels are mapped by words and never guessed; a row in doubt is an error that names its line. Opens
no input.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.columns import PackedRows
from deepfake.dataset.layouts.facts import LABEL_WORDS, SPLIT_WORDS, normalise
from deepfake.dataset.layouts.labelled_sources import KINDS, LabelledSources, ToldRow
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.media.listed import Base, list_sources
from deepfake.records import LABEL_NAMES, Source
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import read_object
from deepfake.tables import CsvRow, decode_text, iter_csv, parse_csv

T = TypeVar("T")
PATH_NAMES = ("filename", "file_name", "filepath", "file_path", "file", "image_path", "video_path")
"""What else tables of the field call the column ``path``; the first one that is there counts."""
_OTHER_NAMES = {"path": PATH_NAMES} | dict.fromkeys(
    ("label", "group", "split", "method", "original"), ()
)


def read_table(
    path: Path | Address,
    require_labels: bool,
    keep_duplicates: bool,
    other_stores: bool = False,
) -> tuple[LabelledSources, int, int]:
    """Read a table of inputs.

    It has the columns ``path`` (or one of ``PATH_NAMES``) and ``label`` and may have ``group``,
    ``split``, ``method`` and ``original``, in any case; others are ignored. Paths are absolute or
    relative to the table's folder. ``original`` names what a fake was made from: a path of the
    table, or the name of a real file without folders and suffix; a fake without ``group`` takes
    that of its original. On a real row it says nothing.

    Args:
        path: The CSV, also one in a store: its paths name objects of that store.
        require_labels: Every row must have a label.
        keep_duplicates: Keep rows that repeat a path, as one answer per row needs.
        other_stores: As of ``list_sources``.

    Returns:
        The sources, how many rows repeat a path, and how many fakes name an original that is not
        in the table.

    Raises:
        UsageError: If the table is not well formed, or a row is in doubt or contradicts another.
    """
    required = ("path", "label") if require_labels else ("path",)
    base: Base
    rows: Callable[[], Iterator[CsvRow]]
    if isinstance(path, Path):
        base, rows = path.parent, partial(iter_csv, path, required, other_names=_OTHER_NAMES)
    else:
        base, text = path, decode_text(read_object(path, other_stores), path)
        rows = partial(parse_csv, text, path, required, other_names=_OTHER_NAMES)
    # Read twice rather than held: a table may have ten million rows.
    before = _stamp(path)
    told = PackedRows.pack(ToldRow, KINDS, (_read_row(path, row, require_labels) for row in rows()))
    if not len(told):
        raise UsageError(f"{path}: no rows below the header; expected one per photo")
    sources = list_sources((row["path"] for row in rows()), base, other_stores)
    if _stamp(path) != before:
        raise UsageError(f"{path} has changed while it was read; run the same command again")
    # `a.jpg`, `./a.jpg` and the absolute path are one file.
    places = np.fromiter((_hash(_place_of(source)) for source in sources), np.uint64, len(told))
    kept = np.arange(len(told))
    repeats = _find_repeats(path, rows, sources, told, places)
    if not keep_duplicates:
        kept = np.setdiff1d(kept, repeats)
    told, unlinked = _link_originals(path, base, sources, told.choose(kept), kept, places[kept])
    return LabelledSources(sources, told, kept), len(repeats), unlinked


def _stamp(path: Path | Address) -> tuple[int, int] | None:
    """What changes with a file of this disk; an object is read once."""
    if not isinstance(path, Path) or not path.exists():  # who reads it says so
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read_row(path: Path | Address, row: CsvRow, require_labels: bool) -> ToldRow:
    if not row["path"].strip():
        raise UsageError(f"{path}:{row.line}: empty path")
    return ToldRow(
        line=row.line,
        label=_parse(path, row, "label", LABEL_WORDS, _LABELS, require_labels),
        split=_parse(path, row, "split", SPLIT_WORDS, _SPLITS) or "",
        method=row.get("method").strip(),
        group=normalise(row.get("group").strip()),
        original=row.get("original").strip(),
    )


def _find_repeats(
    path: Path | Address,
    rows: Callable[[], Iterator[CsvRow]],
    sources: Sequence[Source],
    told: PackedRows[ToldRow],
    places: NDArray[np.uint64],
) -> list[int]:
    """Rows whose file an earlier one has named; they must say the same of it."""
    _, number, count = np.unique(places, return_inverse=True, return_counts=True)
    seen: dict[str, int] = {}
    repeats = []
    for row in np.flatnonzero(count[number] > 1).tolist():
        first = seen.setdefault(_place_of(sources[row]), row)
        if first != row:
            _check_agreement(path, rows, sources[row].name, told[first], told[row])
            repeats.append(row)
    return repeats


def _link_originals(
    path: Path | Address,
    base: Base,
    sources: Sequence[Source],
    told: PackedRows[ToldRow],
    kept: NDArray[np.int64],
    places: NDArray[np.uint64],
) -> tuple[PackedRows[ToldRow], int]:
    """The same rows with the ids of their originals, and how many are not among them."""
    is_fake = told.kept("label") == 1
    if not (is_fake & ~told.texts("original").are_empty()).any():
        return PackedRows.pack(ToldRow, KINDS, (replace(row, original="") for row in told)), 0
    reals = _Reals(sources, kept, places, np.flatnonzero(told.kept("label") == 0))
    unlinked = 0

    def link() -> Iterator[ToldRow]:
        nonlocal unlinked
        for row in told:
            word = row.original
            if not word:
                yield row
                continue
            original, group = "", row.group
            if row.label == 1:
                found = reals.find(_place_of_word(base, word)) or reals.find(word)
                if len(found) > 1:
                    raise UsageError(
                        f"{path}:{row.line}: original {display_name(word)!r} could be any of"
                        f" {len(found)} real files of that name; give its path"
                    )
                if not found:
                    unlinked += 1
                    # Fakes of one original show the same, be it there or not.
                    group = group or f"original/{normalise(word)}"
                for real, source in found.items():
                    original = source.id
                    # A fake of no group of its own must not stand apart from what it was made
                    # from.
                    group = group or told[real].group or original
            yield replace(row, original=original, group=group)

    return PackedRows.pack(ToldRow, KINDS, link()), unlinked


class _Reals:
    """The real files of a table, to be found by their place, or by their name without suffix."""

    def __init__(
        self,
        sources: Sequence[Source],
        kept: NDArray[np.int64],
        places: NDArray[np.uint64],
        rows: NDArray[np.int64],
    ) -> None:
        self._sources, self._kept = sources, kept
        stems = (_hash(_stem_of(sources[number])) for number in kept[rows].tolist())
        hashes = np.concatenate([places[rows], np.fromiter(stems, np.uint64, len(rows))])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], np.concatenate([rows, rows])[order]

    def find(self, text: str) -> dict[int, Source]:
        """The sources of that place or name, by their rows."""
        key = np.uint64(_hash(text))
        start, end = (np.searchsorted(self._hashes, key, side) for side in ("left", "right"))
        rows = set(self._rows[start:end].tolist())
        found = {row: self._sources[int(self._kept[row])] for row in sorted(rows)}
        # Another text may have the same hash.
        return {
            row: source
            for row, source in found.items()
            if text in (_place_of(source), _stem_of(source))
        }


def _hash(text: str) -> int:
    digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _stem_of(source: Source) -> str:
    return PurePosixPath(source.name).stem


def _place_of(source: Source) -> str:
    """What the same file or object has in common, however it is called."""
    if source.stored is not None:
        return source.stored.url
    return os.path.abspath(source.path)  # noqa: PTH100 - resolve() follows links


def _place_of_word(base: Base, word: str) -> str:
    if isinstance(base, Path) and not is_url(word):
        return os.path.abspath(base / word)  # noqa: PTH100 - as above
    try:
        return (Address.parse(word) if isinstance(base, Path) else base.join(word)).url
    except UsageError:  # it is the place of nothing, and may be a name all the same
        return word


def _words_for(label: int) -> str:
    words = (word for word, value in LABEL_WORDS.items() if value == label)
    return f"{LABEL_NAMES[label]} ({', '.join(words)})"


_LABELS, _SPLITS = f"{_words_for(0)} or {_words_for(1)}", ", ".join(SPLIT_WORDS)
"""What is expected, for messages."""


def _parse(
    path: Path | Address,
    row: CsvRow,
    column: str,
    words: Mapping[str, T],
    known: str,
    required: bool = False,
) -> T | None:
    word = row.get(column).strip()
    if (word or required) and word.lower() not in words:
        raise UsageError(f"{path}:{row.line}: {column} {word!r}; expected {known}")
    return words.get(word.lower())


def _check_agreement(
    path: Path | Address,
    rows: Callable[[], Iterator[CsvRow]],
    name: str,
    first: ToldRow,
    second: ToldRow,
) -> None:
    for column in ("label", "split", "group", "method", "original"):
        if getattr(first, column) != getattr(second, column):
            words = {
                row.line: row.get(column) or "nothing"
                for row in rows()
                if row.line in (first.line, second.line)
            }
            lines = " and ".join(f"line {line} says {word!r}" for line, word in words.items())
            raise UsageError(
                f"{path}:{second.line}: {display_name(name)!r} is listed twice with another"
                f" {column}: {lines}; remove one"
            )
