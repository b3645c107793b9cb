"""Arrays that may be larger than memory: put together piece by piece, the large ones in files.

Of a file that is mapped the system keeps in memory what is in use, and drops the rest where another
program needs the room. The files have no name, so that nothing is left of them however the process
ends. Knows no table.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepfake.errors import JobError

_LARGE = 1 << 18  # bytes; smaller arrays are not worth a file
_AT_ONCE = 4096  # items that are Python objects at a time


class GrowingArray:
    """An array that grows at its end, in memory while it is small, then in a file.

    Args:
        dtype: Of its items.
        item_shape: Of what one place along the first axis holds.
    """

    def __init__(self, dtype: DTypeLike, item_shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._item_shape = np.dtype(dtype), item_shape
        self._parts: list[NDArray[Any]] = []
        self._n_bytes = 0
        self._file: IO[bytes] | None = None

    def append(self, part: Any) -> None:
        """Put some items at the end; it is copied.

        Raises:
            JobError: If the temporary folder has no room for them, or cannot be written.
        """
        items = np.array(part, self._dtype).reshape(-1, *self._item_shape)
        self._parts.append(items)
        self._n_bytes += items.nbytes
        if self._n_bytes >= _LARGE:
            with _explain_no_room():
                self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - outlives this
                self._file.writelines(one.tobytes() for one in self._parts)
            self._parts.clear()

    def finish(self) -> NDArray[Any]:
        """The array, ``(N, *item_shape)``; one in a file is read-only. It can grow no more."""
        if self._file is None:
            empty = np.empty((0, *self._item_shape), self._dtype)
            return np.concatenate([empty, *self._parts])
        with _explain_no_room(), self._file as file:
            file.flush()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(pages, self._dtype).reshape(-1, *self._item_shape)


def lay(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, in a file if it is large."""
    if array.nbytes < _LARGE:
        return array
    growing = GrowingArray(array.dtype, array.shape[1:])
    growing.append(array)
    return growing.finish()


def iter_items(array: NDArray[Any]) -> Iterator[Any]:
    """The items of an array as Python objects, some at a time."""
    for start in range(0, len(array), _AT_ONCE):
        yield from array[start : start + _AT_ONCE].tolist()


def find_changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is not that before it, ``(N,)``; the first one is none's."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


class KeptInArrays:
    """What keeps its content in arrays; a copy in another process has its large ones in files."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, part in state.items():
            setattr(self, name, lay(part) if isinstance(part, np.ndarray) else part)


@contextmanager
def _explain_no_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            f"a table of many rows needs a file in the temporary folder, and has none ({error}); "
            "free some space there, or name a folder of another disk in TMPDIR"
        ) from error
