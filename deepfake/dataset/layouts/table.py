"""Tables: a CSV that names every input with its label, and whatever else is known of it.

Labels are mapped by words and never guessed; a row in doubt is an error that names its line. Opens
no input.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from deepfake.dataset.layouts.facts import LABEL_WORDS, SPLIT_WORDS, normalise
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.media.listed import Base, list_sources
from deepfake.records import LABEL_NAMES, Source
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import read_object
from deepfake.tables import CsvRow, decode_text, parse_csv, read_text

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
) -> tuple[tuple[Source, ...], int, int]:
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
    if isinstance(path, Path):
        base, text = path.parent, read_text(path)
    else:
        base, text = path, decode_text(read_object(path, other_stores), path)
    rows = parse_csv(text, path, required, other_names=_OTHER_NAMES)
    if not rows:
        raise UsageError(f"{path}: no rows below the header; expected one per photo")
    for row in rows:
        if not row["path"].strip():
            raise UsageError(f"{path}:{row.line}: empty path")

    labels = f"{_words_for(0)} or {_words_for(1)}"
    seen: dict[str, tuple[CsvRow, Source]] = {}
    kept: list[tuple[CsvRow, Source]] = []
    duplicates = 0
    listed = list_sources([row["path"] for row in rows], base, other_stores)
    for row, source in zip(rows, listed, strict=True):
        source = replace(
            source,
            label=_parse(path, row, "label", LABEL_WORDS, labels, require_labels),
            split=_parse(path, row, "split", SPLIT_WORDS, ", ".join(SPLIT_WORDS)),
            group=normalise(row.get("group").strip()) or None,
            method=row.get("method").strip() or None,
        )
        # `a.jpg`, `./a.jpg` and the absolute path are one file.
        place = _place_of(source)
        if place in seen:
            _check_agreement(path, seen[place], (row, source))
            duplicates += 1
            if not keep_duplicates:
                continue
        else:
            seen[place] = (row, source)
        kept.append((row, source))
    sources, unlinked = _link_originals(path, kept)
    return sources, duplicates, unlinked


def _link_originals(
    path: Path | Address, rows: Sequence[tuple[CsvRow, Source]]
) -> tuple[tuple[Source, ...], int]:
    reals: dict[str, set[str]] = defaultdict(set)
    groups = {source.id: source.group or source.id for _, source in rows}
    for _, source in rows:
        if source.label == 0:
            reals[_place_of(source)].add(source.id)
            reals[PurePosixPath(source.name).stem].add(source.id)
    sources = []
    unlinked = 0
    for row, source in rows:
        word = row.get("original").strip()
        if word and source.label == 1:
            found = reals.get(_place_of_word(path, word)) or reals.get(word)
            if found and len(found) > 1:
                raise UsageError(
                    f"{path}:{row.line}: original {display_name(word)!r} could be any of"
                    f" {len(found)} real files of that name; give its path"
                )
            unlinked += not found
            if found:
                original = min(found)
                # A fake of no group of its own must not stand apart from what it was made from.
                group = source.group or groups[original]
                source = replace(source, original=original, group=group)
        sources.append(source)
    return tuple(sources), unlinked


def _place_of(source: Source) -> str:
    """What the same file or object has in common, however it is called."""
    if source.stored is not None:
        return source.stored.url
    return os.path.normpath(source.path.absolute())


def _place_of_word(path: Path | Address, word: str) -> str:
    if isinstance(path, Path) and not is_url(word):
        return os.path.normpath((path.parent / word).absolute())
    try:
        return (Address.parse(word) if isinstance(path, Path) else path.join(word)).url
    except UsageError:  # it is the place of nothing, and may be a name all the same
        return word


def _words_for(label: int) -> str:
    words = (word for word, value in LABEL_WORDS.items() if value == label)
    return f"{LABEL_NAMES[label]} ({', '.join(words)})"


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
    path: Path | Address, first: tuple[CsvRow, Source], second: tuple[CsvRow, Source]
) -> None:
    for column in ("label", "split", "group", "method"):
        values = [getattr(source, column) for _, source in (first, second)]
        if values[0] != values[1]:
            lines = " and ".join(
                f"line {row.line} says {row.get(column) or 'nothing'!r}"
                for row, _ in (first, second)
            )
            raise UsageError(
                f"{path}:{second[0].line}: {display_name(second[1].name)!r} is listed twice with"
                f" another {column}: {lines}; remove one"
            )
