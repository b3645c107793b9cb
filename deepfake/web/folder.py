"""The private folder of a server: nobody else reads it, no second server uses it.

Knows nothing of what lies in it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepfake.errors import UsageError
from deepfake.storage import exclusive

PREFIX = "deepfake-serve-"
"""Of the folders of servers that keep nothing."""


@contextmanager
def private_folder(keep: Path | None = None) -> Iterator[Path]:
    """Hold a folder that only this user can enter.

    Args:
        keep: Goes on with what lies there, and leaves it; by default the folder is a new one and
            is removed at the end. What a killed server has left is removed by the next one.

    Raises:
        UsageError: If the folder is in use by another server, or others may enter it.
    """
    if keep is not None:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_open(keep)
        with exclusive(keep):
            yield keep
        return
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # 0700
    try:
        with exclusive(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_open(folder: Path) -> None:
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        raise UsageError(
            f"{folder} can be entered by others (mode {mode:o}), and uploads are private; "
            f"run chmod 700 {folder}, or name another folder"
        )


def _sweep(parent: Path) -> None:
    """Remove the folders of servers of this user that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        # Of another user, or in use: neither can be locked.
        with suppress(OSError, UsageError):
            if folder.is_symlink() or not folder.is_dir():
                continue
            with exclusive(folder):
                shutil.rmtree(folder)
