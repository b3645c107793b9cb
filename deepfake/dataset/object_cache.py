"""Copies of objects in a folder of this disk, of which there are never more than so many bytes.

Processes share a folder: names in it change under its lock alone, and a copy that is being made
belongs to whoever has locked its file. A process that is killed has locked nothing any more. Knows
no store and no crop.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deepfake.errors import MediaError
from deepfake.storage import LOCK_NAMES, TEMPORARY_PREFIX, alone

logger = logging.getLogger(__name__)
_LAST_USED = 16  # copies that are never removed where objects are read in order: many may read


class ObjectCache:
    """Copies of objects, by names of which each stands for one content for ever.

    Args:
        folder: Of caches alone; it is made.
        limit: Bytes that all copies in it may have together.
        in_order: Whether objects are read one after another: those that were read first go first.
            Else they are read at random, again and again, and a copy that was used since this
            cache was opened stays: each is wanted as much as the one that finds no room.
    """

    def __init__(self, folder: Path, limit: int, in_order: bool) -> None:
        self._folder, self._limit, self._in_order = folder, limit, in_order
        self._began_ns = time.time_ns()
        self._refused: set[str] = set()  # found no room; to ask again would list all copies again
        folder.mkdir(parents=True, exist_ok=True)

    def use(self, names: Iterable[str]) -> None:
        """Take the copies that there are of these objects for used."""
        now = time.time_ns()
        for name in names:
            with suppress(FileNotFoundError):
                os.utime(self._folder / name, ns=(now, now))

    def read(self, name: str, offset: int, n_bytes: int) -> bytes | None:
        """Some bytes of a copy, or as many as it has; ``None`` where there is no copy."""
        try:
            # Not kept open: a copy that was removed would fill the disk for as long.
            with (self._folder / name).open("rb", buffering=0) as file:
                os.utime(file.fileno())
                return os.pread(file.fileno(), n_bytes, offset)
        except FileNotFoundError:
            return None

    def forget(self, name: str) -> None:
        """Remove the copy of an object, if there is one."""
        with alone(self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def fetch(self, name: str, n_bytes: int, copy: Callable[[BinaryIO], None]) -> bool:
        """Have a copy of an object; whether there is one now.

        There is none where it finds no room, and none yet where somebody else is making it.

        Args:
            name: Of the object.
            n_bytes: Its size.
            copy: Writes it into a file of this size, and checks it.

        Raises:
            Exception: As of ``copy``; there is no copy then.
        """
        if name in self._refused:
            return False
        with alone(self._folder):
            if (self._folder / name).exists():
                return True
            file = self._begin(name, n_bytes)
        if file is None:
            return False
        with file:
            path = Path(file.name)
            try:
                copy(file)  # not synced: what a power loss makes of it is found when it is read
                with alone(self._folder):
                    path.replace(self._folder / name)
            except BaseException as error:
                with alone(self._folder):
                    path.unlink(missing_ok=True)
                if not _is_full_disk(error):
                    raise
                self._limit = 0
                logger.warning(
                    "%s: no space is left on its disk; what finds none is read crop by crop",
                    self._folder,
                )
                return False
        return True

    def _begin(self, name: str, n_bytes: int) -> BinaryIO | None:
        """A locked file for a copy; it takes its room at once, for the others to see."""
        path = self._folder / f"{TEMPORARY_PREFIX}{name}"
        file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        if not _lock(file):
            file.close()
            return None
        if not self._make_room(path, n_bytes):
            path.unlink()
            file.close()
            self._refused.add(name)
            return None
        file.truncate(0)
        file.truncate(n_bytes)
        return file

    def _make_room(self, mine: Path, n_bytes: int) -> bool:
        """Remove copies that may go, as many as it takes; none where that is not enough."""
        copies, left = [], self._limit - n_bytes
        for path in sorted(self._folder.iterdir()):
            if path.name in (*LOCK_NAMES, mine.name):
                continue
            is_copy = not path.name.startswith(TEMPORARY_PREFIX)
            if not is_copy and _remove_abandoned(path):
                continue
            found = path.stat()
            left -= found.st_size
            if is_copy:
                copies.append(_Copy(found.st_mtime_ns, found.st_size, path))
        removed: list[_Copy] = []
        for one in self._choose_unused(sorted(copies)):
            if left >= 0:
                break
            removed.append(one)
            left += one.n_bytes
        if left < 0:
            return False
        for one in removed:
            one.path.unlink()  # whoever reads it has it open
        return True

    def _choose_unused(self, copies: Sequence[_Copy]) -> Sequence[_Copy]:
        if self._in_order:
            return copies[:-_LAST_USED]
        return [one for one in copies if one.used_ns < self._began_ns]


class _Copy(NamedTuple):
    used_ns: int
    n_bytes: int
    path: Path


def _lock(file: BinaryIO) -> bool:
    """Lock an open file; whether nobody else had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_abandoned(path: Path) -> bool:
    """Remove what a killed process has begun; whether it was one."""
    with path.open("rb") as file:
        is_abandoned = _lock(file)
        if is_abandoned:
            path.unlink()
    return is_abandoned


def _is_full_disk(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, MediaError) else error
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
