r"""A row per crop and a row per input: what it holds, how it is written, read and kept.

Plain CSV with UTF-8 and ``\n``, no times and no host names, so that two runs can be compared byte
for byte. Knows no folder, no image and no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.columns import COUNT, NUMBER, TEXT, WORD, ColumnKind, PackedRows
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name, path_uri
from deepfake.records import LABEL_NAMES, FaceCrop, Source, Status, TurnedWindow, Window
from deepfake.tables import CsvRow, format_lines

Row = TypeVar("Row", "CropRow", "SourceRow")


def _keep_label(label: int | None) -> int:
    return -1 if label is None else label


def _give_label(kept: int) -> int | None:
    return None if kept < 0 else kept


LABEL = ColumnKind(np.int8, _keep_label, _give_label)
"""Of a column of labels; -1 is kept for one that is not known."""
_LABEL_ADVICE = "crop from real/ and fake/ folders or from a CSV with path,label"


@dataclass(frozen=True, slots=True)
class CropRow:
    """One row of ``manifest.csv``; field order is column order.

    Args:
        crop: File of the crop, relative to the crop folder.
        source: Id of its input; the input's path is in ``sources.csv``.
        frame: Index of the frame in its input.
        time_s: Time of the frame in seconds.
        face: 0 = largest face of its frame.
        label: 1 = fake, 0 = real, ``None`` = unlabelled.
        method: Manipulation, where known.
        group: What must stay in one split.
        split: ``train``, ``validation``, ``test``, or empty where the data brings none.
        box_xyxy: Face box in pixels of the (possibly turned) frame.
        confidence: The detector's.
        landmarks: Five points, ``x y x y ...``, in pixels.
        rotation: 0 or 180 degrees.
        original: Id of the input that a fake was made from, empty where it is not known.
        window: What the crop shows of the frame: ``x0 y0 x1 y1`` in whole pixels, of an aligned
            crop with decimals and a fifth number, the angle; ``None`` in tables from before this
            was noted.
    """

    crop: str
    source: str
    frame: int
    time_s: float
    face: int
    label: int | None
    method: str
    group: str
    split: str
    box_xyxy: tuple[float, float, float, float]
    confidence: float
    landmarks: tuple[float, ...]
    rotation: int
    original: str = ""
    window: Window | TurnedWindow | None = None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of ``sources.csv``; field order is column order."""

    path: str
    status: str
    reason: str
    faces: int
    label: int | None
    method: str
    group: str
    split: str
    id: str
    path_uri: str
    original: str = ""


CropRows = PackedRows[CropRow]
SourceRows = PackedRows[SourceRow]
MANIFEST_COLUMNS = tuple(
    chain.from_iterable(
        ("x0", "y0", "x1", "y1") if field.name == "box_xyxy" else (field.name,)
        for field in fields(CropRow)
    )
)
SOURCE_COLUMNS = tuple(field.name for field in fields(SourceRow))
_NUMBERS = ("time_s", "x0", "y0", "x1", "y1", "confidence")
_LISTS = ("landmarks", "window")
_TEXTS = ("crop", "path", "reason", "method", "group", "split")


def make_crop_row(source: Source, crop: FaceCrop, file: str) -> CropRow:
    """Describe one crop that is stored as ``file`` (relative to the crop folder)."""
    x0, y0, x1, y1 = (float(value) for value in crop.face.box_xyxy)
    return CropRow(
        crop=file,
        source=source.id,
        frame=crop.frame_index,
        time_s=crop.time_s,
        face=crop.face_index,
        box_xyxy=(x0, y0, x1, y1),
        confidence=crop.face.confidence,
        landmarks=tuple(float(value) for value in crop.face.landmarks.ravel()),
        rotation=crop.rotation,
        window=crop.window,
        **_tell(source),
    )


def describe_crop(row: CropRow) -> dict[str, Any]:
    """A row of ``manifest.csv`` as plain types: its columns, with the digits that they have there.

    ``label`` is 1 for fake, 0 for real, ``None`` where it is not known; ``landmarks`` and
    ``window`` are lists.
    """
    cells: dict[str, Any] = dict(zip(MANIFEST_COLUMNS, _crop_cells(row), strict=True))
    numbers = {name: float(cells[name]) for name in _NUMBERS}
    lists = {name: [float(word) for word in cells[name].split()] for name in _LISTS}
    return {**cells, **numbers, **lists, "label": row.label}


def make_source_row(source: Source, status: Status, reason: str, faces: int) -> SourceRow:
    """Describe what became of one input."""
    return SourceRow(
        path=display_name(source.name),
        status=status.value,
        reason=display_name(reason),
        faces=faces,
        id=source.id,
        path_uri=path_uri(source.name),
        **_tell(source),
    )


def renew_row(row: Row, source: Source) -> Row:
    """The same row, with what is now known of its input."""
    return replace(row, **_tell(source))


def is_current(row: Row, source: Source) -> bool:
    """Whether a row says what is now known of its input."""
    return all(getattr(row, name) == value for name, value in _tell(source).items())


def _tell(source: Source) -> dict[str, Any]:
    """What both tables say of an input, whatever was found in it."""
    return {
        "label": source.label,
        "method": display_name(source.method or ""),
        # A source of no known group is a group of its own.
        "group": display_name(source.group or source.id),
        "split": source.split or "",
        "original": source.original or "",
    }


def format_manifest(rows: Iterable[CropRow]) -> Iterator[str]:
    """Lines of ``manifest.csv``."""
    return format_lines(MANIFEST_COLUMNS, (_crop_cells(row) for row in rows), _TEXTS)


def format_sources(rows: Iterable[SourceRow]) -> Iterator[str]:
    """Lines of ``sources.csv``."""
    return format_lines(SOURCE_COLUMNS, map(_source_cells, rows), _TEXTS)


def pack_crops(rows: Iterable[CropRow]) -> CropRows:
    """Crops in columns; those that are so already as they are."""
    return CropRows.pack(CropRow, _CROP_KINDS, rows)


def pack_sources(rows: Iterable[SourceRow]) -> SourceRows:
    """The same for inputs."""
    return SourceRows.pack(SourceRow, _SOURCE_KINDS, rows)


def require_labels(rows: Sequence[CropRow]) -> NDArray[np.int64]:
    """The labels of crops that must have one, ``(N,)``: no label is never taken for real.

    Raises:
        UsageError: If a crop has none; it names the first one.
    """
    packed = pack_crops(rows)
    labels = packed.kept("label").astype(np.int64)
    unlabelled = np.flatnonzero(labels < 0)
    if len(unlabelled):
        raise UsageError(
            f"{len(unlabelled):,} of {len(rows):,} crops have no label, such as"
            f" {packed[int(unlabelled[0])].crop}; {_LABEL_ADVICE}"
        )
    return labels


def require_label(row: CropRow | SourceRow) -> int:
    """The label of one crop or input that must have one.

    Raises:
        UsageError: If it has none.
    """
    if row.label is None:
        name = row.crop if isinstance(row, CropRow) else row.path
        raise UsageError(f"{name} has no label; {_LABEL_ADVICE}")
    return row.label


def parse_source_row(row: CsvRow) -> SourceRow:
    """What a line of ``sources.csv`` says.

    Raises:
        ValueError: If a cell holds what its column cannot.
    """
    values: dict[str, Any] = {name: row[name] for name in SOURCE_COLUMNS}
    values["status"] = Status(row["status"]).value
    values["faces"] = _parse_count(row, "faces")
    values["label"] = _parse_label(row["label"])
    return SourceRow(**values)


def parse_crop_row(row: CsvRow) -> CropRow:
    """What a line of ``manifest.csv`` says; raises as ``parse_source_row``."""
    cells = row.values
    values: dict[str, Any] = {name: cells.get(name, "") for name in _CROP_KINDS}
    for name in ("frame", "face", "rotation"):
        values[name] = _parse_count(row, name)
    for name in ("time_s", "confidence"):
        values[name] = _parse_number(name, row[name])
    if not 0 <= values["confidence"] <= 1:
        raise ValueError(f"confidence {row['confidence']!r}; expected 0 to 1")
    values["label"] = _parse_label(row["label"])
    values["box_xyxy"] = tuple(_parse_number(name, row[name]) for name in ("x0", "y0", "x1", "y1"))
    values["landmarks"] = _parse_numbers("landmarks", row["landmarks"].split())
    values["window"] = _parse_window(row.get("window"))
    return CropRow(**values)


def _parse_number(column: str, word: str) -> float:
    return _parse_numbers(column, (word,))[0]


def _parse_numbers(column: str, words: Sequence[str]) -> tuple[float, ...]:
    numbers = tuple(map(float, words))
    for number, word in zip(numbers, words, strict=True):
        if not isfinite(number):
            raise ValueError(f"{column} {word!r}; expected a finite number")
    return numbers


def _parse_count(row: CsvRow, column: str) -> int:
    number = int(row[column])
    if not 0 <= number < 2**63:
        raise ValueError(f"{column} {row[column]!r:.80}; expected a count")
    return number


def _crop_cells(row: CropRow) -> list[object]:
    place: list[object] = [row.crop, row.source, row.frame, f"{row.time_s:.6f}", row.face]
    known = [_label_word(row.label), row.method, row.group, row.split]
    box = [f"{value:.2f}" for value in row.box_xyxy]
    landmarks = " ".join(f"{value:.2f}" for value in row.landmarks)
    if isinstance(row.window, TurnedWindow):
        window = "{:.2f} {:.2f} {:.2f} {:.2f} {:.4f}".format(*row.window)
    else:
        window = " ".join(str(value) for value in row.window or ())
    detected = [f"{row.confidence:.6f}", landmarks, row.rotation, row.original, window]
    return [*place, *known, *box, *detected]


def _source_cells(row: SourceRow) -> Iterable[object]:
    cells = {name: getattr(row, name) for name in SOURCE_COLUMNS}
    return (cells | {"label": _label_word(row.label)}).values()


def _label_word(label: int | None) -> str:
    return "" if label is None else LABEL_NAMES[label]


def _parse_label(word: str) -> int | None:
    if word not in ("", *LABEL_NAMES):
        raise ValueError(f"label {word!r}; expected real or fake")
    return LABEL_NAMES.index(word) if word else None


def _write_numbers(numbers: Iterable[float] | None) -> str:
    return " ".join(map(str, numbers or ()))


def _parse_points(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


def _parse_window(text: str) -> Window | TurnedWindow | None:
    if not text:
        return None
    words = text.split()
    window: Window | TurnedWindow
    if len(words) == len(TurnedWindow._fields):
        window = TurnedWindow(*_parse_numbers("window", words))
    else:
        x0, y0, x1, y1 = (int(word) for word in words)
        window = (x0, y0, x1, y1)
    if window[2] <= window[0] or window[3] <= window[1]:
        raise ValueError(f"window {text!r} has no area")
    return window


_BOX = ColumnKind(np.float64, decode=tuple, item_shape=(4,))
# Of any length, and of a few digits, which as text take less than numbers do.
_POINTS = replace(TEXT, encode=_write_numbers, decode=_parse_points)
_WINDOW = replace(TEXT, encode=_write_numbers, decode=_parse_window)
_OF_BOTH = {"label": LABEL, "method": WORD, "split": WORD}
_CROP_KINDS = (
    {field.name: TEXT for field in fields(CropRow)}
    | _OF_BOTH
    | {
        **dict.fromkeys(("frame", "face", "rotation"), COUNT),
        **dict.fromkeys(("time_s", "confidence"), NUMBER),
        **{"box_xyxy": _BOX, "landmarks": _POINTS, "window": _WINDOW},
    }
)
_SOURCE_KINDS = (
    {field.name: TEXT for field in fields(SourceRow)}
    | _OF_BOTH
    | {
        **dict.fromkeys(("status", "reason"), WORD),  # mostly ok, and no reason
        "faces": COUNT,
    }
)
