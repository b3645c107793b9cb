"""Texts in few bytes each, and numbers for them, to find and join by. Knows no table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.large_arrays import GrowingArray, KeptInArrays, find_changes

Codes = NDArray[np.int32]
"""``(N,)`` numbers that stand for texts: equal ones are equal, and a lower one sorts before."""
CHUNK = 4096  # texts, or rows, that are Python objects at a time
_AT_ONCE = 1 << 16  # texts of which numbers are read at a time
_PIECE = 7  # bytes of a text that are compared at a time
_PADDING = bytes(8)  # behind the last text, so that eight bytes can be read anywhere
_FIRST_BYTES = np.array([-1 << 8 * (8 - n) & ~0xFF & (1 << 64) - 1 for n in range(8)], np.uint64)
"""Masks of the first so many of eight bytes, at most seven."""


class Texts(KeptInArrays, Sequence[str]):
    """Texts in UTF-8, one behind the other.

    Args:
        data: ``(B,)`` uint8, all of them, and eight bytes more.
        bounds: ``(N + 1,)`` int64, where each begins, and the last one ends.
        places: Which of them these are, in order; by default all.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        bounds: NDArray[np.int64],
        places: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self._data, self._bounds, self._places = data, bounds, places

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Take texts as they come; of those that are kept so already nothing is copied."""
        if isinstance(texts, Texts):
            return texts
        growing, waiting = GrowingTexts(), iter(texts)
        while some := [*islice(waiting, CHUNK)]:
            growing.append(some)
        return growing.finish()

    def __len__(self) -> int:
        return len(self._bounds) - 1 if self._places is None else len(self._places)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self.take(slice(start, start + CHUNK))

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice | NDArray[Any]) -> Texts: ...
    def __getitem__(self, place: int | slice | NDArray[Any]) -> str | Texts:
        """A text, or some of them, which are not copied."""
        if isinstance(place, slice | np.ndarray):
            if self._places is not None:
                return Texts(self._data, self._bounds, self._places[place])
            if isinstance(place, slice):
                place = np.arange(*place.indices(len(self)))
            elif place.dtype == np.bool_:
                place = np.flatnonzero(place)
            return Texts(self._data, self._bounds, place)
        n_texts = len(self)
        if not -n_texts <= place < n_texts:
            raise IndexError(f"text {place} of {n_texts}")
        own = place % n_texts if self._places is None else self._places[place]
        start, end = self._bounds[own : own + 2].tolist()
        return self._data[start:end].tobytes().decode("utf-8", "surrogatepass")

    def take(self, places: slice | NDArray[np.integer[Any]]) -> list[str]:
        """Some texts as Python objects."""
        if self._places is None and isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            bounds = self._bounds[start : stop + 1]
            whole = self._data[bounds[0] : bounds[-1]].tobytes()
            ends = (bounds - bounds[0]).tolist()
            if whole.isascii():
                text = whole.decode()
                return [text[one:end] for one, end in pairwise(ends)]
            return [whole[one:end].decode("utf-8", "surrogatepass") for one, end in pairwise(ends)]
        own: Any = places if self._places is None else self._places[places]
        starts, ends = self._bounds[own].tolist(), self._bounds[own + 1].tolist()
        data = self._data.data
        return [
            str(data[one:end], "utf-8", "surrogatepass")
            for one, end in zip(starts, ends, strict=True)
        ]

    def are_empty(self) -> NDArray[np.bool_]:
        """Which of them are the empty text, ``(N,)``."""
        empty: NDArray[np.bool_] = self._bounds[1:] == self._bounds[:-1]
        return empty if self._places is None else empty[self._places]

    def read_pieces(self, places: NDArray[np.integer[Any]], skip: int) -> NDArray[np.uint64]:
        """What the texts at some places hold behind their first ``skip`` bytes: seven bytes.

        Returns:
            ``(N,)`` numbers that sort as the pieces do; the last three bits are their length.
        """
        own = places if self._places is None else self._places[places]
        starts = self._bounds[own] + skip
        lengths = np.clip(self._bounds[own + 1] - starts, 0, _PIECE)
        shape = (len(self._data) - 7,)
        words: NDArray[np.uint64] = np.ndarray(shape, ">u8", self._data, strides=(1,))
        found = words[np.minimum(starts, len(words) - 1)].astype(np.uint64)
        pieces: NDArray[np.uint64] = found & _FIRST_BYTES[lengths] | lengths.astype(np.uint64)
        return pieces


class GrowingTexts:
    """Texts that are put together some at a time."""

    def __init__(self) -> None:
        self._data, self._bounds = GrowingArray(np.uint8), GrowingArray(np.int64)
        self._bounds.append([0])
        self._n_bytes = 0

    def append(self, texts: Sequence[str]) -> None:
        """Put some at the end."""
        whole = "".join(texts)
        if whole.isascii():
            parts, lengths = whole.encode(), [*map(len, texts)]
        else:
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            parts, lengths = b"".join(encoded), [*map(len, encoded)]
        self._data.append(np.frombuffer(parts, np.uint8))
        self._bounds.append(np.cumsum(lengths, dtype=np.int64) + self._n_bytes)
        self._n_bytes += len(parts)

    def finish(self) -> Texts:
        """All of them; no more can come."""
        self._data.append(np.frombuffer(_PADDING, np.uint8))
        return Texts(self._data.finish(), self._bounds.finish())


def number_texts(*texts: Iterable[str]) -> list[Codes]:
    """Numbers for texts, to find and join by.

    They are sorted seven bytes at a time, and of these only whoever is not alone with them is
    looked at again: numbers are sorted in a fraction of the time and memory that texts take.

    Args:
        texts: Several columns of them, of any lengths.

    Returns:
        The numbers of each column, from 0 on and without a gap, the same for the same text of all
        of them.

    Example:
        >>> number_texts(["b", "a", "b"], ["c"])
        [array([1, 0, 1], dtype=int32), array([2], dtype=int32)]
    """
    columns = [Texts.of(column) for column in texts]
    ends = np.cumsum([len(column) for column in columns])
    # Of each text how many are known to sort before it; and those that others equal so far.
    before = np.zeros(ends[-1], np.int32)
    rows, skip = np.arange(len(before), dtype=np.int32), 0
    while len(rows):
        pieces = _read_pieces(columns, ends, rows, skip)
        order = np.lexsort((pieces, before[rows])) if skip else np.argsort(pieces)
        rows, pieces = rows[order], pieces[order]
        del order
        known = before[rows]
        is_first = find_changes(known)
        known -= _find_starts(is_first)
        is_first |= find_changes(pieces)
        before[rows] = known + _find_starts(is_first)
        # A piece of less than seven bytes was a text's last one.
        goes_on = (pieces & np.uint64(_PIECE)) == _PIECE
        goes_on &= ~(is_first & np.append(is_first[1:], True))
        rows, skip = rows[goes_on], skip + _PIECE
    occurs = np.zeros(len(before), np.bool_)
    occurs[before] = True
    return np.split((np.cumsum(occurs, dtype=np.int32) - 1)[before], ends[:-1])


def _read_pieces(
    columns: Sequence[Texts], ends: NDArray[np.int64], rows: NDArray[np.int32], skip: int
) -> NDArray[np.uint64]:
    """The pieces of some rows of columns that stand one below the other."""
    pieces = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        below = 0
        for column, end in zip(columns, ends.tolist(), strict=True):
            own = (rows[some] >= below) & (rows[some] < end)
            pieces[some][own] = column.read_pieces(rows[some][own] - below, skip)
            below = end
    return pieces


def _find_starts(is_first: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Of each place the last one up to it that is a first, ``(N,)``."""
    starts = np.arange(len(is_first), dtype=np.int32)
    starts[~is_first] = 0
    return np.maximum.accumulate(starts, out=starts)


class TextIndex:
    """Where texts stand: one is found in a few comparisons, for four bytes a text.

    Args:
        texts: The texts; of equal ones the first is found.
    """

    def __init__(self, texts: Texts) -> None:
        (numbers,) = number_texts(texts)
        self._texts, self._order = texts, np.argsort(numbers, kind="stable").astype(np.int32)

    def find(self, text: str) -> int:
        """The place of a text.

        Raises:
            KeyError: If there is no such text.
        """
        found = bisect_left(self._order, text, key=self._texts.__getitem__)
        if found == len(self._order) or self._texts[self._order[found]] != text:
            raise KeyError(text)
        return int(self._order[found])


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of which many rows share each, in four bytes a row.

    Args:
        numbers: ``(N,)`` int32; equal ones are equal texts, and a lower one sorts before.
        texts: The texts by number, sorted; not all of them need to occur.
    """

    numbers: Codes
    texts: Texts

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """The words that texts are."""
        rows = Texts.of(texts)
        (numbers,) = number_texts(rows)
        return cls(numbers, rows[find_first(numbers, numbers.max(initial=-1) + 1)])

    @classmethod
    def join(cls, *parts: tuple[NDArray[np.integer[Any]], Iterable[str]]) -> Words:
        """Rows that are numbers of texts, one part after the other; equal texts become one."""
        texts = [Texts.of(words) for _, words in parts]
        known = cls.of(texts[0] if len(texts) == 1 else chain.from_iterable(texts))
        new = np.split(known.numbers, np.cumsum([len(words) for words in texts])[:-1])
        rows = [own[old] for own, (old, _) in zip(new, parts, strict=True)]
        return cls(np.concatenate(rows), known.texts)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: NDArray[Any]) -> Words:
        """Those of some rows."""
        return Words(self.numbers[rows], self.texts)

    def are(self, text: str) -> NDArray[np.bool_]:
        """Which rows have a text, ``(N,)``."""
        place = bisect_left(self.texts, text)
        is_known = place < len(self.texts) and self.texts[place] == text
        mask: NDArray[np.bool_] = self.numbers == (place if is_known else -1)
        return mask

    def list_used(self) -> list[str]:
        """The texts that occur, in order of their first rows."""
        numbers, first = np.unique(self.numbers, return_index=True)
        return [*self.texts[numbers[np.argsort(first)]]]

    def is_same(self, other: Words) -> bool:
        """Whether all rows have the same texts."""
        own, others = number_texts(self.texts, other.texts)
        return bool(np.array_equal(own[self.numbers], others[other.numbers]))


def find_first(numbers: NDArray[np.integer[Any]], n_numbers: int) -> NDArray[np.int64]:
    """Of each number the first row that has it, ``(n_numbers,)``; -1 where none has."""
    first = np.full(n_numbers, -1, np.int64)
    first[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)  # the last one that is set stays
    return first
