"""Turn a labelled folder tree or table into ``Source``s that carry label, group, split, method.

Labels are mapped by the words below and never guessed; a source whose label is in doubt is an
error that names it. The module reads no photo.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepfake.errors import UsageError
from deepfake.media.discovery import discover, display_name, list_sources
from deepfake.media.tables import Row, read_csv
from deepfake.records import LABEL_NAMES, Source

LABEL_WORDS = {
    "real": 0,
    "0": 0,
    "genuine": 0,
    "original": 0,
    "pristine": 0,
    "fake": 1,
    "1": 1,
    "manipulated": 1,
    "synthetic": 1,
    "deepfake": 1,
}
"""Words of a CSV's ``label`` column, in any case."""

SPLIT_WORDS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Words of a CSV's ``split`` column, in any case."""

# As a folder name, `dev` is too often something else.
_SPLIT_FOLDERS = {word: split for word, split in SPLIT_WORDS.items() if word != "dev"}
_LABEL_FOLDERS = {word: label for label, word in enumerate(LABEL_NAMES)}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Sources with whatever their layout says about them.

    Args:
        sources: In the order of the folder tree, list or table.
        skipped: Files of a folder that were passed over, by suffix.
        duplicates: Rows of a table that repeat the path of an earlier row.
    """

    sources: tuple[Source, ...]
    skipped: dict[str, int]
    duplicates: int = 0


def label_sources(
    input: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    exclude: Path | None = None,
    require_labels: bool = False,
    keep_duplicates: bool = False,
) -> Labelled:
    """Find the photos of an input and what it says about them.

    A **table** (``.csv``) has the columns ``path`` and ``label`` and may have ``group``, ``split``
    and ``method``; others are ignored. Paths are absolute or relative to the table's folder.

    A **folder** is labelled by its subfolders, as the DACON data and most Kaggle sets are: a file
    below ``real/`` is real and a file below ``fake/`` is fake, at any depth::

        data/train/real/id1/a.jpg       split train, real, group id1
        data/train/fake/id1/b.jpg       split train, fake, group id1
        data/test/fake/c.jpg            split test, fake, no group

    Only folders below the input count, whatever the input itself is called. A folder ``train``,
    ``val``, ``valid``, ``validation`` or ``test`` above the label is the split. The group is the
    rest of the folder path; a file directly in ``real/`` or ``fake/`` has none.

    **Lists, patterns and single files** carry no labels.

    Args:
        input: Table, folder, list file, pattern or single file, see ``discover``.
        follow_links: Follow symbolic links that stay inside the folder.
        exclude: A folder that is not searched: the output of the job.
        require_labels: Every source must have a label, as training needs.
        keep_duplicates: Keep rows that repeat a path, as one answer per row needs.

    Raises:
        UsageError: If nothing is found, a label or split is unknown, contradictory or (where
            required) missing, or the table is not well formed.
    """
    path = Path(input)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _label_table(path, require_labels, keep_duplicates)
    found = discover(input, follow_links=follow_links, exclude=exclude)
    sources = found.sources
    if path.is_dir():
        sources = _label_tree(path, sources)
    if require_labels:
        _require_labels(path, sources)
    return Labelled(sources, found.skipped)


def list_inputs(
    input: str | os.PathLike[str], *, follow_links: bool = False
) -> tuple[tuple[Source, ...], dict[str, int]]:
    """The inputs of a prediction: every file of a folder, every line of a list or table.

    Folder names and labels mean nothing here, and a repeated line gets its own answer.

    Returns:
        The sources, and the files of a folder that were passed over, by suffix.

    Raises:
        UsageError: If nothing is found or a table is not well formed.
    """
    if Path(input).suffix.lower() == ".csv" and not Path(input).is_dir():
        table = label_sources(input, keep_duplicates=True)
        return table.sources, table.skipped
    found = discover(input, follow_links=follow_links)
    return found.sources, found.skipped


def _label_table(path: Path, require_labels: bool, keep_duplicates: bool) -> Labelled:
    rows = read_csv(path, ("path", "label") if require_labels else ("path",))
    if not rows:
        raise UsageError(f"{path}: no rows below the header; expected one per photo")
    for row in rows:
        if not row["path"].strip():
            raise UsageError(f"{path}:{row.line}: empty path")

    seen: dict[str, tuple[Row, Source]] = {}
    sources = []
    duplicates = 0
    listed = list_sources([row["path"] for row in rows], path.parent)
    for row, source in zip(rows, listed, strict=True):
        source = replace(
            source,
            label=_parse_label(path, row, require_labels),
            split=_parse_split(path, row),
            group=row.get("group").strip() or None,
            method=row.get("method").strip() or None,
        )
        # `a.jpg`, `./a.jpg` and the absolute path are one file.
        place = os.path.normpath(source.path.absolute())
        if place in seen:
            _check_agreement(path, seen[place], (row, source))
            duplicates += 1
            if not keep_duplicates:
                continue
        else:
            seen[place] = (row, source)
        sources.append(source)
    return Labelled(tuple(sources), {}, duplicates)


def _parse_label(path: Path, row: Row, required: bool) -> int | None:
    word = row.get("label").strip()
    if not word and not required:
        return None
    label = LABEL_WORDS.get(word.lower())
    if label is None:
        raise UsageError(
            f"{path}:{row.line}: label {word!r}; expected {_words_for(0)} or {_words_for(1)}"
        )
    return label


def _words_for(label: int) -> str:
    words = (word for word, value in LABEL_WORDS.items() if value == label)
    return f"{LABEL_NAMES[label]} ({', '.join(words)})"


def _parse_split(path: Path, row: Row) -> str | None:
    word = row.get("split").strip()
    if not word:
        return None
    split = SPLIT_WORDS.get(word.lower())
    if split is None:
        raise UsageError(f"{path}:{row.line}: split {word!r}; expected {', '.join(SPLIT_WORDS)}")
    return split


def _check_agreement(path: Path, first: tuple[Row, Source], second: tuple[Row, Source]) -> None:
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


def _label_tree(root: Path, sources: Sequence[Source]) -> tuple[Source, ...]:
    labelled = [_label_by_folders(source) for source in sources]
    # A source that cannot be read has no say in what kind of tree this is.
    readable = [source for source in labelled if source.problem is None]
    bare = [source for source in readable if source.label is None]
    if bare and len(bare) < len(readable):
        raise UsageError(
            f"{str(root)!r}: {len(bare)} of {len(readable)} files are in no real/ or fake/ folder"
            f" while the others are: {_examples(bare)}; move them, or list the files in a CSV with"
            " the columns path,label"
        )
    return tuple(labelled)


def _label_by_folders(source: Source) -> Source:
    folders = source.name.split("/")[:-1]
    words = [folder.lower() for folder in folders]
    labels = {_LABEL_FOLDERS[word] for word in words if word in _LABEL_FOLDERS}
    if not labels:
        return source
    if len(labels) > 1:
        raise UsageError(
            f"{display_name(source.name)!r} is below a real/ and a fake/ folder; move it, or list"
            " the files in a CSV with the columns path,label"
        )
    label_at = next(i for i, word in enumerate(words) if word in _LABEL_FOLDERS)
    splits = {_SPLIT_FOLDERS[word] for word in words[:label_at] if word in _SPLIT_FOLDERS}
    if len(splits) > 1:
        raise UsageError(
            f"{display_name(source.name)!r} is below folders of different splits"
            f" ({', '.join(sorted(splits))}); rename one, or list the files in a CSV"
        )
    rest = [
        folder
        for i, (folder, word) in enumerate(zip(folders, words, strict=True))
        if word not in _LABEL_FOLDERS and not (i < label_at and word in _SPLIT_FOLDERS)
    ]
    group = None if words[-1] in _LABEL_FOLDERS else "/".join(rest)
    return replace(
        source, label=labels.pop(), group=group or None, split=splits.pop() if splits else None
    )


def _require_labels(path: Path, sources: Sequence[Source]) -> None:
    bare = [source for source in sources if source.label is None and source.problem is None]
    if not bare:
        return
    hint = ""
    own_name = path.resolve().name
    if own_name.lower() in _LABEL_FOLDERS:
        hint = f"; the input's own name {own_name!r} does not count, give the folder above it"
    raise UsageError(
        f"{os.fspath(path)!r}: {len(bare)} of {len(sources)} files have no label, such as"
        f" {_examples(bare)}; expected a folder with real/ and fake/ in it, at any depth, or a CSV"
        f" with the columns path,label{hint}"
    )


def _examples(sources: Sequence[Source]) -> str:
    shown = ", ".join(repr(display_name(source.name)) for source in sources[:3])
    return shown + (", ..." if len(sources) > 3 else "")
