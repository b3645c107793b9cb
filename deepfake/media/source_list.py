"""The files of an input in few bytes: a million of them have to fit beside what works on them.

Knows no disk: who has found the files hands over their names.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from deepfake.records import Source, StoredObject
from deepfake.stores.address import Address, hide_secrets, is_url


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What stores say of those of a list that lie in them.

    Args:
        base: What their names are relative to: a listed folder, or the list itself; ``None`` for a
            list of this disk, where only addresses are objects.
        is_listing: Whether the names came from a listing, so that each is a key as it stands.
        sizes: In bytes, by place; -1 where unknown, and for files of this disk.
        stamps: As of ``StoredObject``, as numbers, by place.
        other_stores: As of ``Workers``.
    """

    base: Address | None
    is_listing: bool
    sizes: array[int]
    stamps: array[int]
    other_stores: bool

    def find(self, name: str) -> Address | None:
        """Where the object of a name lies; ``None`` for a file of this disk."""
        if self.base is None:
            return Address.parse(name) if is_url(name) else None
        return self.base.below(name) if self.is_listing else self.base.join(name)

    def describe(self, place: int, address: Address) -> StoredObject:
        """What is known of an object."""
        size = self.sizes[place]
        stamp = f"{self.stamps[place]:016x}"
        return StoredObject(address.url, None if size < 0 else size, stamp, self.other_stores)


class SourceList(Sequence[Source]):
    """Unlabelled sources; each is made when it is asked for, and only names and ids are kept.

    Args:
        names: Bytes of ``Source.name``, in order, with the secrets of signed addresses, which
            ``Source.name`` lacks; a repeated one gets its own id.
        folder: Where paths start.
        problems: Why some of them cannot be read, by place.
        prefix: What every name begins with that is no part of its path below ``folder``.
        objects: What stores say, where some of them lie in one.
    """

    def __init__(
        self,
        names: Iterable[bytes],
        folder: Path,
        problems: Mapping[int, str],
        prefix: str = "",
        objects: ObjectFacts | None = None,
    ) -> None:
        text, self._ends = bytearray(), array("Q", [0])
        for name in names:
            text += os.fsencode(prefix) + name
            self._ends.append(len(text))
        self._text, self._folder, self._n_prefix = bytes(text), folder, len(prefix)
        self._problems, self._objects = dict(problems), objects
        shown = map(self._show, range(len(self)))
        self._ids = np.fromiter(map(_hash, shown), np.uint64, len(self))
        self._tell_apart()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Source: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, place: int | slice) -> Source | tuple[Source, ...]:
        places = range(len(self))[place]
        return self._make(places) if isinstance(places, int) else tuple(map(self._make, places))

    def __iter__(self) -> Iterator[Source]:
        return map(self._make, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceList) and list(self) == list(other)

    def _make(self, place: int) -> Source:
        identity, problem = f"{self._ids.item(place):016x}", self._problems.get(place)
        name = os.fsdecode(self._name(place))
        own = name[self._n_prefix :]
        if self._objects is None:
            return Source(identity, self._folder / own, name, problem=problem)
        shown, address = os.fsdecode(self._show(place)), self._objects.find(own)
        if address is None:
            return Source(identity, self._folder / own, shown, problem=problem)
        stored = self._objects.describe(place, address)
        return Source(identity, address.path, shown, problem=problem, stored=stored)

    def _name(self, place: int) -> bytes:
        return self._text[self._ends[place] : self._ends[place + 1]]

    def _show(self, place: int) -> bytes:
        """The name without what an address was signed with: signed anew, it is the same source."""
        name = self._name(place)
        if self._objects is None or b"?" not in name:
            return name
        text = os.fsdecode(name)
        address = self._objects.find(text[self._n_prefix :])
        return os.fsencode(hide_secrets(text)) if address and address.is_web else name

    def _tell_apart(self) -> None:
        """Give every repeated name an id of its own."""
        times = Counter[bytes]()
        while len(repeats := _find_repeats(self._ids)):
            for place in repeats.tolist():
                name = self._show(place)
                times[name] += 1
                # No name holds a NUL: a numbered one never has the bytes of another name.
                self._ids[place] = _hash(b"%b\0%d" % (name, times[name] + 1))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big")


def _find_repeats(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places, in order, of the ids that stand somewhere before."""
    order = np.argsort(ids, kind="stable")
    return np.sort(order[1:][ids[order[1:]] == ids[order[:-1]]])
