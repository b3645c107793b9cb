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
_TALLY_FILE = ".bytes"
_SPARE = 16  # a share of the limit: as much more is freed at once, for the next copies to come
_RECOUNT_S = 60.0  # once listed in vain, the copies are not listed again for so long


class ObjectCache:
    """Copies of objects, by names of which each stands for one content for ever.

    A file of the folder tells how many bytes they have together. It may tell too many, of a process
    that was killed, and never too few: it is raised before a copy takes its room and lowered when
    one has gone. The copies themselves are listed when a cache is opened, and where room is short.

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
        self._refused: set[str] = set()  # found no room; each crop of them would ask again
        self._n_removable, self._recount_s = 0, 0.0  # when the copies were last listed in vain
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            self._list()

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
            self._remove(self._folder / name)

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
                    self._remove(path)
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
        n_held, n_left_over = self._count(), os.fstat(file.fileno()).st_size  # by a killed process
        file.truncate(0)
        self._write_tally(n_held - n_left_over)
        if not self._make_room(n_bytes):
            path.unlink()
            file.close()
            self._refused.add(name)
            return None
        self._write_tally(self._count() + n_bytes)
        file.truncate(n_bytes)
        return file

    def _make_room(self, n_bytes: int) -> bool:
        """Remove copies that may go, as many as it takes; none where that is not enough."""
        left = self._limit - n_bytes - self._count()
        if left >= 0:
            return True
        if left + self._n_removable < 0 and time.monotonic() < self._recount_s:
            return False
        copies = self._choose_unused(self._list())
        left = self._limit - n_bytes - self._count()
        n_removable = sum(one.n_bytes for one in copies)
        if left + n_removable < 0:
            self._n_removable, self._recount_s = n_removable, time.monotonic() + _RECOUNT_S
            return False
        for one in copies:
            if left >= 0 and left + one.n_bytes > self._limit // _SPARE:
                break
            self._remove(one.path)  # whoever reads it has it open
            left += one.n_bytes
        return True

    def _remove(self, path: Path) -> None:
        n_held = self._count()
        with suppress(FileNotFoundError):
            n_bytes = path.stat().st_size
            path.unlink()
            self._write_tally(n_held - n_bytes)

    def _list(self) -> list[_Copy]:
        """All copies, those that were used longest ago first; what was abandoned goes."""
        copies, n_bytes = [], 0
        with os.scandir(self._folder) as entries:
            for entry in list(entries):
                is_copy = not entry.name.startswith(TEMPORARY_PREFIX)
                if entry.name in (*LOCK_NAMES, _TALLY_FILE):
                    continue
                if not is_copy and _remove_abandoned(Path(entry.path)):
                    continue
                found = entry.stat()
                n_bytes += found.st_size
                if is_copy:
                    copies.append(_Copy(found.st_mtime_ns, found.st_size, Path(entry.path)))
        self._write_tally(n_bytes)
        return sorted(copies)

    def _count(self) -> int:
        """Bytes that all copies have together, or more."""
        try:
            return int((self._folder / _TALLY_FILE).read_bytes())
        except (FileNotFoundError, ValueError):  # somebody removed it, or died when it was new
            self._list()
            return int((self._folder / _TALLY_FILE).read_bytes())

    def _write_tally(self, n_bytes: int) -> None:
        path = self._folder / _TALLY_FILE
        # In its place: also a full disk has room for that.
        with path.open("r+b" if path.exists() else "xb", buffering=0) as file:
            file.write(f"{n_bytes:020d}\n".encode())

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
