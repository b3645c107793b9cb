"""Rows of a table in columns: ten million of them have to fit beside what works on them.

A row as a Python object takes some kilobytes; here its numbers take eight bytes each, a text its
length, and a text that many rows share four bytes. The columns of many rows lie in files, and take
no memory but what is in use. Rows are made when they are asked for. Knows no meaning of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepfake.dataset.large_arrays import GrowingArray, KeptInArrays
from deepfake.dataset.texts import CHUNK, GrowingTexts, Texts, Words

Row = TypeVar("Row")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """How the values of a column are kept.

    Args:
        dtype: Of the array; ``None`` keeps texts.
        encode: What is kept of a value; by default the value.
        decode: The value again, of what is kept.
        item_shape: Of a value that is several numbers.
        is_shared: Keep each different text once, and its number in the rows.
    """

    dtype: DTypeLike | None
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    item_shape: tuple[int, ...] = ()
    is_shared: bool = False


TEXT = ColumnKind(None)
"""Texts of which most rows have their own."""
WORD = ColumnKind(np.int32, is_shared=True)
"""Texts of which there are few."""
COUNT = ColumnKind(np.int64)
NUMBER = ColumnKind(np.float64)


class Column(KeptInArrays):
    """The values of one column.

    Args:
        kind: How they are kept.
        values: What is kept, an item a row along the first axis.
        words: The texts that ``values`` are numbers of, where they are shared.
    """

    def __init__(
        self, kind: ColumnKind, values: NDArray[Any] | Texts, words: Sequence[str] = ()
    ) -> None:
        self.kind, self.values, self.words = kind, values, words

    def __getitem__(self, place: int) -> Any:
        values = self.values
        value: Any = values[place] if isinstance(values, Texts) else values[place].tolist()
        if self.kind.is_shared:
            return self.words[value]
        return value if self.kind.decode is None else self.kind.decode(value)

    def take(self, places: NDArray[np.integer[Any]] | slice) -> Iterable[Any]:
        """The values of some rows."""
        values = self.values
        kept = values.take(places) if isinstance(values, Texts) else values[places].tolist()
        if self.kind.is_shared:
            return map(self.words.__getitem__, kept)
        return kept if self.kind.decode is None else map(self.kind.decode, kept)


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
        places: NDArray[np.integer[Any]] | None = None,
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
        while chunk := [*islice(waiting, CHUNK)]:
            for name, packer in packers.items():
                packer.add([getattr(row, name) for row in chunk])
        return cls(make, {name: packers.pop(name).finish() for name in kinds})

    def __len__(self) -> int:
        if self._places is not None:
            return len(self._places)
        return len(next(iter(self._columns.values())).values)

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), CHUNK):
            some = slice(start, start + CHUNK)
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

    def choose(self, places: NDArray[np.integer[Any]]) -> PackedRows[Row]:
        """Some rows, in this order, without copying them."""
        own = places if self._places is None else self._places[places]
        return PackedRows(self._make, self._columns, own)

    def kept(self, name: str) -> NDArray[Any]:
        """What is kept of a column of no texts, see its kind; an item a row."""
        values = self._columns[name].values
        if isinstance(values, Texts):
            raise TypeError(f"column {name} is of texts")
        return values if self._places is None else values[self._places]

    def values(self, name: str) -> Iterator[Any]:
        """The values of a column, row by row; those of a shared text are one object."""
        column = self._columns[name]
        for start in range(0, len(self), CHUNK):
            some = slice(start, start + CHUNK)
            yield from column.take(some if self._places is None else self._places[some])

    def texts(self, name: str) -> Texts:
        """The texts of a column that are not shared."""
        texts = self._columns[name].values
        if not isinstance(texts, Texts):
            raise TypeError(f"column {name} is not of texts")
        return texts if self._places is None else texts[self._places]

    def words(self, name: str) -> Words:
        """The texts of a column, as numbers."""
        if not self._columns[name].kind.is_shared:
            return Words.of(self.texts(name))
        return Words.join((self.kept(name), self._columns[name].words))


class MadeRows(Sequence[Row], Generic[Item, Row]):
    """What is made of each item of a sequence, when it is asked for.

    Args:
        items: The sequence; a slice of it is one, too.
        make: Makes a row of an item.
    """

    def __init__(self, items: Sequence[Item], make: Callable[[Item], Row]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Row]:
        return map(self._make, self._items)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        """A row, or a part of them."""
        if isinstance(place, slice):
            return [*map(self._make, self._items[place])]
        return self._make(self._items[place])


class _Packer:
    """Puts a column together, some rows at a time."""

    def __init__(self, kind: ColumnKind) -> None:
        self._kind = kind
        self._kept: GrowingArray | GrowingTexts = (
            GrowingTexts() if kind.dtype is None else GrowingArray(kind.dtype, kind.item_shape)
        )
        self._numbers: dict[str, int] = {}

    def add(self, values: list[Any]) -> None:
        if self._kind.is_shared:
            numbers = self._numbers
            values = [numbers.setdefault(value, len(numbers)) for value in values]
        elif self._kind.encode is not None:
            values = [*map(self._kind.encode, values)]
        self._kept.append(values)

    def finish(self) -> Column:
        return Column(self._kind, self._kept.finish(), tuple(self._numbers))
