"""Rows of a table in columns: ten million of them have to fit beside what works on them.

A row as a Python object takes some kilobytes; here its numbers take eight bytes each, a text its
length, and a text that many rows share four bytes. Rows are made when they are asked for. Knows no
file and no meaning of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Row = TypeVar("Row")
Codes = NDArray[np.int64]
"""``(N,)`` numbers that stand for texts: equal ones are equal, and a lower one sorts before."""
_CHUNK = 4096  # rows that are Python objects at a time
TEXTS = np.dtypes.StringDType()
"""Of arrays of texts."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """How the values of a column are kept.

    Args:
        dtype: Of the array.
        encode: What is kept of a value.
        decode: The value again, of what is kept.
        is_shared: Keep each different text once, and its number in the rows.
    """

    dtype: Any
    encode: Callable[[Any], Any] = _same
    decode: Callable[[Any], Any] = _same
    is_shared: bool = False


TEXT = ColumnKind(TEXTS)
"""Texts of which most rows have their own."""
WORD = ColumnKind(np.dtype(np.int32), is_shared=True)
"""Texts of which there are few."""
COUNT = ColumnKind(np.dtype(np.int64))
NUMBER = ColumnKind(np.dtype(np.float64))


class Column:
    """The values of one column.

    Args:
        kind: How they are kept.
        values: What is kept, an item a row along the first axis.
        words: The texts that ``values`` are numbers of, where they are shared.
    """

    def __init__(self, kind: ColumnKind, values: NDArray[Any], words: Sequence[str] = ()) -> None:
        self.kind, self.values, self.words = kind, values, words

    def __getitem__(self, place: int) -> Any:
        value = self.values[place].tolist() if self.kind.dtype != TEXTS else self.values[place]
        return self.words[value] if self.kind.is_shared else self.kind.decode(value)

    def take(self, places: NDArray[np.int64] | slice) -> Iterator[Any]:
        """The values of some rows."""
        kept = self.values[places].tolist()
        return map(self.words.__getitem__ if self.kind.is_shared else self.kind.decode, kept)


class PackedRows(Sequence[Row], Generic[Row]):
    """Rows of one class, kept in columns.

    Args:
        make: The class; takes the columns in order.
        columns: By name.
        places: Which rows of the columns these are, in order; by default all.
    """

    def __init__(
        self,
        make: Callable[..., Row],
        columns: Mapping[str, Column],
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self._make, self._columns, self._places = make, columns, places

    @classmethod
    def pack(
        cls, make: Callable[..., Row], kinds: Mapping[str, ColumnKind], rows: Iterable[Row]
    ) -> Self:
        """Take rows as they come; of one that is packed already nothing is copied."""
        if isinstance(rows, cls):
            return rows
        packers = {name: _Packer(kind) for name, kind in kinds.items()}
        waiting = iter(rows)
        while chunk := [*islice(waiting, _CHUNK)]:
            for name, packer in packers.items():
                packer.add([getattr(row, name) for row in chunk])
        return cls(make, {name: packers.pop(name).finish() for name in kinds})

    def __len__(self) -> int:
        if self._places is not None:
            return len(self._places)
        return len(next(iter(self._columns.values())).values)

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _CHUNK):
            some = slice(start, start + _CHUNK)
            places = some if self._places is None else self._places[some]
            cells = (column.take(places) for column in self._columns.values())
            yield from map(self._make, *cells)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> PackedRows[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | PackedRows[Row]:
        """A row, or a part of them."""
        if isinstance(place, slice):
            return self.choose(np.arange(*place.indices(len(self)), dtype=np.int64))
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        own = place % len(self) if self._places is None else int(self._places[place])
        return self._make(*(column[own] for column in self._columns.values()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedRows | tuple) or len(other) != len(self):
            return False
        return all(one == theirs for one, theirs in zip(self, other, strict=True))

    def choose(self, places: NDArray[np.int64]) -> PackedRows[Row]:
        """Some rows, in this order, without copying them."""
        own = places if self._places is None else self._places[places]
        return PackedRows(self._make, self._columns, own)

    def kept(self, name: str) -> NDArray[Any]:
        """What is kept of a column, see its kind; an item a row along the first axis."""
        values = self._columns[name].values
        return values if self._places is None else values[self._places]

    def values(self, name: str) -> Iterator[Any]:
        """The values of a column, row by row; those of a shared text are one object."""
        column = self._columns[name]
        for start in range(0, len(self), _CHUNK):
            some = slice(start, start + _CHUNK)
            yield from column.take(some if self._places is None else self._places[some])

    def words(self, name: str) -> Words:
        """The texts of a shared column, as numbers."""
        return Words.of((self.kept(name), self._columns[name].words))

    def texts(self, name: str) -> NDArray[Any]:
        """The texts of a column, ``(N,)`` of numpy's variable width."""
        column, kept = self._columns[name], self.kept(name)
        if not column.kind.is_shared:
            return kept
        # Without rows there is no word, and nothing to take.
        words = np.array([*column.words, ""], TEXTS)
        texts: NDArray[Any] = words[kept]
        return texts


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of which many rows share each, in four bytes a row.

    Args:
        numbers: ``(N,)`` int32; equal ones are equal texts, and a lower one sorts before.
        texts: The texts by number, sorted; not all of them need to occur.
    """

    numbers: NDArray[np.int32]
    texts: NDArray[Any]

    @classmethod
    def of(cls, *parts: tuple[NDArray[np.integer[Any]], Sequence[str] | NDArray[Any]]) -> Words:
        """Rows that are numbers of texts, one part after the other; equal texts become one."""
        numbers, texts = number_texts(*(np.asarray(words, TEXTS) for _, words in parts))
        rows = [new.astype(np.int32)[old] for (old, _), new in zip(parts, numbers, strict=True)]
        return cls(np.concatenate(rows), texts)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: NDArray[Any]) -> Words:
        """Those of some rows."""
        return Words(self.numbers[rows], self.texts)

    def are(self, text: str) -> NDArray[np.bool_]:
        """Which rows have a text, ``(N,)``."""
        found = np.flatnonzero(self.texts == text)
        mask: NDArray[np.bool_] = self.numbers == (found[0] if len(found) else -1)
        return mask

    def list_used(self) -> list[str]:
        """The texts that occur, in order of their first rows."""
        numbers, first = np.unique(self.numbers, return_index=True)
        texts: list[str] = self.texts[numbers[np.argsort(first)]].tolist()
        return texts

    def is_same(self, other: Words) -> bool:
        """Whether all rows have the same texts."""
        (own, others), _ = number_texts(self.texts, other.texts)
        return bool(np.array_equal(own[self.numbers], others[other.numbers]))


def number_texts(*columns: NDArray[Any]) -> tuple[list[Codes], NDArray[Any]]:
    """Numbers for texts, to find and join by: ``np.searchsorted`` of two arrays of texts fails.

    Args:
        columns: ``(N,)`` texts each, of any length.

    Returns:
        The numbers of each column, the same for the same text of all of them, and the texts by
        number, sorted.

    Example:
        >>> (numbers,), texts = number_texts(np.array(["b", "a", "b"], TEXTS))
        >>> numbers.tolist(), texts.tolist()
        ([1, 0, 1], ['a', 'b'])
    """
    texts = columns[0] if len(columns) == 1 else np.concatenate(columns)
    # Stable, and so not np.unique: where numpy's quicksort of such texts falls back on a heap sort,
    # it reads beyond their end and kills the process (2.4).
    order = np.argsort(texts, kind="stable")
    is_first = np.ones(len(texts), np.bool_)
    for start in range(1, len(texts), _CHUNK):  # some at a time: these are copies of texts
        some = texts[order[start - 1 : start + _CHUNK]]
        is_first[start : start + _CHUNK] = some[1:] != some[:-1]
    known = texts[order[is_first]]
    del texts  # which may be a copy, before more is taken
    running = np.cumsum(is_first, dtype=np.int64)
    running -= 1
    numbers = np.empty_like(running)
    numbers[order] = running
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return np.split(numbers, ends), known


class _Packer:
    """Puts a column together, some rows at a time."""

    def __init__(self, kind: ColumnKind) -> None:
        self._kind = kind
        self._parts: list[NDArray[Any]] = []
        self._numbers: dict[str, int] = {}

    def add(self, values: Sequence[Any]) -> None:
        if self._kind.is_shared:
            numbers = self._numbers
            kept = [numbers.setdefault(value, len(numbers)) for value in values]
        else:
            kept = [*map(self._kind.encode, values)]
        self._parts.append(np.array(kept, self._kind.dtype))

    def finish(self) -> Column:
        empty = np.empty(0, self._kind.dtype)
        values = np.concatenate(self._parts) if self._parts else empty
        self._parts.clear()
        return Column(self._kind, _narrow(values), tuple(self._numbers))


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Integers in as few bytes as they need; anything else as it is."""
    if values.dtype.kind != "i" or not len(values):
        return values
    low, high = values.min(), values.max()
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype, copy=False)
    return values
