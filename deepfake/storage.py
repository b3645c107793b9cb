"""Files that appear whole or not at all, and folders that belong to one run at a time.

Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from deepfake.errors import JobError, UsageError

TEMPORARY_PREFIX = ".tmp-"
"""Names that start so are unfinished; whoever holds the folder's lock may remove them."""
LOCK_NAMES = (".lock", ".lock-owner")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either absent (or the old one) or complete, even after a crash.

    Raises:
        JobError: If the disk is full.
        OSError: If it cannot be written for another reason.
    """
    write_stream(path, [data.encode("utf-8") if isinstance(data, str) else data])


def write_stream(path: Path, chunks: Iterable[bytes]) -> None:
    """The same for content that need not be in memory as a whole.

    Raises:
        JobError: If the disk is full.
        OSError: If it cannot be written for another reason.
    """
    # A name of its own: a 255-byte target name must not grow by a suffix.
    with no_space_is_an_error(path):
        try:
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        except OSError as error:  # it names a file that nobody asked for
            raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with no_space_is_an_error(path), os.fdopen(handle, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def holds(path: Path, chunks: Iterable[bytes]) -> bool:
    """Whether a file holds exactly this content."""
    with path.open("rb") as file:
        return all(file.read(len(chunk)) == chunk for chunk in chunks) and not file.read(1)


class Confinement:
    """The regular files of one folder, by names that may come from a stranger.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = root.resolve()
        self._folders: dict[str, bool] = {}

    def path_of(self, name: str) -> Path:
        """Where a file lies, or would lie if it is missing; links are resolved.

        Raises:
            UsageError: If the name leads out of the folder, or to a device, a pipe or a folder.
        """
        # As text: a manifest names ten million.
        path = os.path.join(self.root, name)  # noqa: PTH118
        folder, own = os.path.split(path)
        mode = stat.S_IFREG if own.strip(".") else stat.S_IFDIR
        try:
            if folder not in self._folders:
                self._folders[folder] = self._is_inside(folder)
            inside = self._folders[folder]
            with suppress(FileNotFoundError, NotADirectoryError):
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    inside = inside and self._is_inside(path)
                    mode = os.stat(path).st_mode  # noqa: PTH116
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"{self.root} names {name!r}, which is no file: {error}") from error
        if not inside:
            raise UsageError(f"{self.root} names {name!r}, which leads out of the folder")
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise UsageError(f"{self.root} names {name!r}, which is no regular file")
        return Path(path)

    def check_all(self, *names: str) -> None:
        """Refuse a folder that holds a device, a pipe, or a link that leads out of it.

        Args:
            names: Folders in it whose own content is looked at; by default all, at any depth.

        Raises:
            UsageError: It names the first of them.
        """
        for folder, folders, files in os.walk(self.root):
            place = Path(folder).relative_to(self.root)
            for name in sorted(files):
                self.path_of((place / name).as_posix())
            for name in sorted(folders):
                if (Path(folder) / name).is_symlink():
                    self.path_of((place / name).as_posix())
            if names:
                folders[:] = [name for name in folders if (place / name).as_posix() in names]

    def _is_inside(self, path: str) -> bool:
        return Path(path).resolve().is_relative_to(self._home)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power loss, where the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Force a written file to the disk."""
    # Windows syncs only what may be written; elsewhere a file may be another's, or read-only.
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def no_space_is_an_error(target: Path) -> Iterator[None]:
    """Turn a full disk or quota into a ``JobError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JobError(
                f"no space left while writing {target}; what was finished is safe: "
                "free some space and run the same command again to go on"
            ) from error
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for a moment; whoever else wants it waits."""
    with FileLock(folder / LOCK_NAMES[0], poll_interval=0.01):
        yield


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this run alone; a dead owner's lock is void by itself.

    Raises:
        UsageError: If another run holds the folder; it names that run's process and host.
    """
    lock_path, owner_path = (folder / name for name in LOCK_NAMES)
    if lock_path.is_symlink() or owner_path.is_symlink():
        raise UsageError(f"{folder} holds a link as its lock, and what it leads to would be lost")
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = "another run"
        with suppress(OSError):
            owner = owner_path.read_text(encoding="utf-8").strip() or owner
        raise UsageError(f"{folder} is in use by {owner}; wait for it or stop it") from None
    try:
        owner_path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        owner_path.unlink(missing_ok=True)
        lock_path.unlink(missing_ok=True)
        lock.release()
