"""The private folder of a server on disk: its queue, its sessions, and a folder for each file.

A file enters the queue only when all of it lies on the disk; what was received or computed for
files that never entered it is removed. Knows no model, no HTTP and no page.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from deepfake.storage import sync_folder
from deepfake.web.database import Database
from deepfake.web.queue import Queue
from deepfake.web.sessions import Sessions


class Store:
    """Files and sessions of one server.

    Args:
        root: Its private folder; what a killed server has left half done is queued again.
        password: As of ``Sessions``.
    """

    def __init__(self, root: Path, password: str = "") -> None:
        self.root = root
        for folder in (self.files_root, self.incoming):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._database = Database(root / "queue.sqlite")
        self.sessions = Sessions(self._database, password)
        self.queue = Queue(self._database, self._find_upload)
        self._remove_what_nobody_can_reach()
        self._remove_orphans()

    def close(self) -> None:
        """Close the queue; it can be opened again."""
        self._database.close()

    @property
    def files_root(self) -> Path:
        """Where every file has its folder."""
        return self.root / "files"

    @property
    def incoming(self) -> Path:
        """Where files lie that are being received."""
        return self.root / "incoming"

    def folder_of(self, file_id: str) -> Path:
        """Where what belongs to a file lies."""
        return self.files_root / file_id

    def add_upload(
        self,
        incoming: Path,
        owner: str,
        name: str,
        sha256: str,
        model: str,
        is_kept: bool = True,
        position: int | None = None,
    ) -> str:
        """Queue a file that was received whole.

        Args:
            incoming: Its bytes, on the disk already; they are moved.
            owner: Whom it belongs to.
            name: What the client calls it.
            sha256: Of the bytes.
            model: Key of the model that it is for.
            is_kept: Whether it outlives this process.
            position: Where it is listed; by default behind all that its owner has.

        Returns:
            Its id.
        """
        file_id = self._make_folder()
        path = self._find_upload(file_id)
        size = incoming.stat().st_size
        incoming.replace(path)
        sync_folder(path.parent)
        self.queue.add(file_id, owner, name, None, size, sha256, model, is_kept, position)
        return file_id

    def add_path(self, path: Path, owner: str, name: str, model: str) -> str:
        """Queue a file that stays where it is."""
        file_id = self._make_folder()
        self.queue.add(file_id, owner, name, path, path.stat().st_size, "", model)
        return file_id

    def remove(self, file_id: str) -> None:
        """Forget a file and everything that belongs to it; a file that was not uploaded stays."""
        self.queue.remove(file_id)
        self.remove_orphan(file_id)

    def remove_orphan(self, file_id: str) -> None:
        """Remove the folder of a file that is not in the queue any more."""
        if self.queue.get(file_id) is None:
            shutil.rmtree(self.folder_of(file_id), ignore_errors=True)

    def _make_folder(self) -> str:
        """A folder for a new file; gives the id that was drawn for it."""
        file_id = secrets.token_hex(16)
        self.folder_of(file_id).mkdir(mode=0o700)
        return file_id

    def _find_upload(self, file_id: str) -> Path:
        return self.folder_of(file_id) / "original"

    def _remove_what_nobody_can_reach(self) -> None:
        """Remove the files of sessions that have ended."""
        for owner in self.sessions.end_expired():
            for file in self.queue.list_files(owner):
                self.queue.remove(file.id)

    def _remove_orphans(self) -> None:
        """Remove what was received, or computed, for files that never entered the queue."""
        known = set(self.queue.list_ids())
        for folder in self.files_root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for path in self.incoming.iterdir():
            path.unlink(missing_ok=True)
