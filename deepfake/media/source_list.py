"""The files of an input in few bytes: a million of them have to fit beside what works on them.

Knows no disk: who has found the files hands over their names.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from deepfake.records import Source


class SourceList(Sequence[Source]):
    """Unlabelled sources; each is made when it is asked for, and only names and ids are kept.

    Args:
        names: Bytes of ``Source.name``, in order; a repeated one gets its own id.
        folder: Where paths start.
        problems: Why some of them cannot be read, by place.
        prefix: What every name begins with that is no part of its path below ``folder``.
    """

    def __init__(
        self, names: Iterable[bytes], folder: Path, problems: Mapping[int, str], prefix: str = ""
    ) -> None:
        text, self._ends = bytearray(), array("Q", [0])
        for name in names:
            text += os.fsencode(prefix) + name
            self._ends.append(len(text))
        self._text, self._folder, self._n_prefix = bytes(text), folder, len(prefix)
        self._problems = dict(problems)
        self._ids = np.fromiter(map(_hash, self._iter_names()), np.uint64, len(self))
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceList) and list(self) == list(other)

    def _make(self, place: int) -> Source:
        name = os.fsdecode(self._name(place))
        path = self._folder / name[self._n_prefix :]
        return Source(f"{self._ids[place]:016x}", path, name, problem=self._problems.get(place))

    def _name(self, place: int) -> bytes:
        return self._text[self._ends[place] : self._ends[place + 1]]

    def _iter_names(self) -> Iterator[bytes]:
        return map(self._name, range(len(self)))

    def _tell_apart(self) -> None:
        """Give every repeated name an id of its own."""
        times = Counter[bytes]()
        while len(repeats := _find_repeats(self._ids)):
            for place in repeats.tolist():
                name = self._name(place)
                times[name] += 1
                # No name holds a NUL: a numbered one never has the bytes of another name.
                self._ids[place] = _hash(b"%b\0%d" % (name, times[name] + 1))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big")


def _find_repeats(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places, in order, of the ids that stand somewhere before."""
    order = np.argsort(ids, kind="stable")
    return np.sort(order[1:][ids[order[1:]] == ids[order[:-1]]])
