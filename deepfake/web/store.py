"""The queue on disk: which files there are, whose they are, what became of them.

One SQLite file that survives a kill at any instant. A file enters it only when all of it lies on
the disk. Knows no model, no HTTP and no page.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import RLock
from typing import Any
from urllib.parse import unquote_to_bytes

from deepfake.media.discovery import path_uri
from deepfake.storage import sync_folder

MAX_ATTEMPTS = 3
"""A file that the server has died over as often is not begun again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL);
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    is_kept INTEGER NOT NULL, name TEXT NOT NULL, place TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    answer TEXT, error TEXT NOT NULL, created REAL NOT NULL, began REAL, ended REAL,
    explanation TEXT NOT NULL, explanation_error TEXT NOT NULL, version INTEGER NOT NULL,
    position INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_owner ON files (owner, number);
CREATE TABLE IF NOT EXISTS clock (version INTEGER NOT NULL);
"""
_COLUMNS = (
    "id, owner, name, place, size, sha256, model, state, attempts, answer, error, created, began, "
    "ended, explanation, explanation_error, version, position"
)
_ORIGINAL = "original"


class State(StrEnum):
    """Where a file, or its explanation, is on its way."""

    NONE = "none"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (State.DONE, State.FAILED, State.CANCELLED)
"""States that nothing follows upon by itself."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the queue.

    Args:
        id: 32 hexadecimal digits, drawn at random; also the name of its folder.
        owner: Whom it belongs to; nobody else is told of it.
        name: What the client calls it; shown, never opened.
        path: What is opened: its copy in the folder, or a file under an allowed folder.
        is_upload: Whether it is the former.
        size: In bytes.
        sha256: Of its bytes as they came; empty until a file that was not uploaded is read.
        model: Key of the model that it is for.
        state: Of its score.
        attempts: How often it was begun.
        answer: Its result and what the pages need, in plain types.
        error: Why there is no answer, where the state is failed.
        created: Seconds since 1970 when it came.
        began: When its score was begun.
        ended: When that ended.
        explanation: State of its explanation.
        explanation_error: Why there is none, where that has failed.
        version: Grows with every change of any file.
        position: Files of an owner are listed by it, those of one position as they came.
    """

    id: str
    owner: str
    name: str
    path: Path
    is_upload: bool
    size: int
    sha256: str
    model: str
    state: State
    attempts: int
    answer: dict[str, Any] | None
    error: str
    created: float
    began: float | None
    ended: float | None
    explanation: State
    explanation_error: str
    version: int
    position: int


class Store:
    """Files and sessions of one server.

    Args:
        root: Its private folder; what a killed server has left half done is queued again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (self.files_root, self.incoming):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = RLock()
        # Its transactions are begun by hand; all threads share it, one at a time.
        self._db = sqlite3.connect(
            root / "queue.sqlite", check_same_thread=False, isolation_level=None
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        if not any(row[1] == "position" for row in self._db.execute("PRAGMA table_info(files)")):
            # The queue of an earlier version: its files are listed as they came.
            self._db.execute("ALTER TABLE files ADD COLUMN position INTEGER NOT NULL DEFAULT 0")
        with self._change() as version:
            self._db.execute("INSERT INTO clock SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM clock)")
            # Of requests that waited for their answer, nobody is left to wait.
            self._db.execute("DELETE FROM files WHERE NOT is_kept")
            self._db.execute(
                "UPDATE files SET state='failed', ended=?, version=?, error='crashed: the server "
                "ended ' || attempts || ' times while it worked on this file' "
                "WHERE state='running' AND attempts >= ?",
                (time.time(), version, MAX_ATTEMPTS),
            )
            self._db.execute(
                "UPDATE files SET state='queued', version=? WHERE state='running'", (version,)
            )
            self._db.execute(
                "UPDATE files SET explanation='failed', version=?, explanation_error='the server "
                "ended while it was made; ask again' WHERE explanation='running'",
                (version,),
            )
        self._remove_orphans()

    def close(self) -> None:
        """Close the queue; it can be opened again."""
        with self._lock:
            self._db.close()

    # Sessions

    def open_session(self) -> tuple[str, str]:
        """Begin a session: its secret key, which only its client knows, and its owner."""
        key, owner = secrets.token_urlsafe(32), secrets.token_hex(16)
        with self._change():
            self._db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?)", (_hash(key), owner, time.time())
            )
        return key, owner

    def find_owner(self, key: str) -> str | None:
        """Whose session a key opens."""
        with self._lock:
            row = self._db.execute(
                "SELECT owner FROM sessions WHERE key=?", (_hash(key),)
            ).fetchone()
        return None if row is None else str(row[0])

    # Files

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
        file_id = secrets.token_hex(16)
        folder = self.folder_of(file_id)
        folder.mkdir(mode=0o700)
        path = folder / _ORIGINAL
        size = incoming.stat().st_size
        incoming.replace(path)
        sync_folder(folder)
        self._insert(file_id, owner, is_kept, name, "", size, sha256, model, position)
        return file_id

    def add_path(self, path: Path, owner: str, name: str, model: str) -> str:
        """Queue a file that stays where it is."""
        file_id = secrets.token_hex(16)
        self.folder_of(file_id).mkdir(mode=0o700)
        place, size = path_uri(os.fspath(path)), path.stat().st_size
        self._insert(file_id, owner, True, name, place, size, "", model, None)
        return file_id

    def take_next(self) -> StoredFile | None:
        """Begin the oldest file that waits, scores before explanations; ``None`` if none does."""
        with self._change() as version:
            row = self._db.execute(
                "SELECT id FROM files WHERE state='queued' ORDER BY number LIMIT 1"
            ).fetchone()
            if row is not None:
                self._db.execute(
                    "UPDATE files SET state='running', attempts=attempts+1, began=?, version=? "
                    "WHERE id=?",
                    (time.time(), version, row[0]),
                )
            else:
                row = self._db.execute(
                    "SELECT id FROM files WHERE explanation='queued' ORDER BY number LIMIT 1"
                ).fetchone()
                if row is None:
                    return None
                self._db.execute(
                    "UPDATE files SET explanation='running', version=? WHERE id=?",
                    (version, row[0]),
                )
            return self._get(row[0])

    def finish(self, file_id: str, answer: dict[str, Any], sha256: str) -> None:
        """Keep the answer of a file, unless it was cancelled or removed in the meantime."""
        with self._change() as version:
            self._db.execute(
                "UPDATE files SET state='done', answer=?, sha256=?, ended=?, version=? "
                "WHERE id=? AND state='running'",
                (json.dumps(answer, allow_nan=False), sha256, time.time(), version, file_id),
            )

    def fail(self, file_id: str, error: str) -> None:
        """Keep why there is no answer."""
        with self._change() as version:
            self._db.execute(
                "UPDATE files SET state='failed', error=?, ended=?, version=? "
                "WHERE id=? AND state='running'",
                (error, time.time(), version, file_id),
            )

    def cancel(self, file_id: str) -> None:
        """Say that nobody waits for a file any more; what has ended stays as it is."""
        with self._change() as version:
            self._db.execute(
                "UPDATE files SET state='cancelled', ended=?, version=? "
                "WHERE id=? AND state IN ('queued', 'running')",
                (time.time(), version, file_id),
            )
            self._db.execute(
                "UPDATE files SET explanation='cancelled', version=? "
                "WHERE id=? AND explanation IN ('queued', 'running')",
                (version, file_id),
            )

    def put_back(self, file_id: str) -> None:
        """Queue a file that this server was stopped over; that is no attempt."""
        with self._change() as version:
            self._db.execute(
                "UPDATE files SET state='queued', attempts=attempts-1, version=? "
                "WHERE id=? AND state='running'",
                (version, file_id),
            )
            self._db.execute(
                "UPDATE files SET explanation='queued', version=? "
                "WHERE id=? AND explanation='running'",
                (version, file_id),
            )

    def set_explanation(self, file_id: str, state: State, error: str = "") -> None:
        """Note where the explanation of a file is."""
        before = ("none", "failed", "cancelled") if state is State.QUEUED else ("running",)
        marks = ", ".join("?" * len(before))
        with self._change() as version:
            self._db.execute(
                "UPDATE files SET explanation=?, explanation_error=?, version=? "
                f"WHERE id=? AND state='done' AND explanation IN ({marks})",
                (state.value, error, version, file_id, *before),
            )

    def remove(self, file_id: str) -> None:
        """Forget a file and everything that belongs to it; a file that was not uploaded stays."""
        with self._change():
            self._db.execute("DELETE FROM files WHERE id=?", (file_id,))
        self.remove_orphan(file_id)

    def remove_orphan(self, file_id: str) -> None:
        """Remove the folder of a file that is not in the queue any more."""
        if self.get(file_id) is None:
            shutil.rmtree(self.folder_of(file_id), ignore_errors=True)

    def get(self, file_id: str) -> StoredFile | None:
        """One file, whoever it belongs to."""
        with self._lock:
            return self._get(file_id)

    def list_files(self, owner: str, since: int = -1) -> list[StoredFile]:
        """The files of an owner by their position, or those that changed since a version."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE owner=? AND version>? "
                "ORDER BY position, number",
                (owner, since),
            ).fetchall()
        return [self._to_file(row) for row in rows]

    def list_running(self, owner: str) -> list[StoredFile]:
        """The files of an owner that are worked on."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE owner=? AND state='running' ORDER BY number",
                (owner,),
            ).fetchall()
        return [self._to_file(row) for row in rows]

    def count_files(self, owner: str) -> int:
        """How many files an owner has."""
        with self._lock:
            row = self._db.execute("SELECT COUNT(*) FROM files WHERE owner=?", (owner,)).fetchone()
        return int(row[0])

    def version(self) -> int:
        """Of the latest change."""
        with self._lock:
            return int(self._db.execute("SELECT version FROM clock").fetchone()[0])

    def count_ahead(self, owner: str) -> tuple[int, int]:
        """How many files wait or are worked on up to the last one of an owner; of it, and all."""
        with self._lock:
            row = self._db.execute(
                "SELECT SUM(owner=:owner), COUNT(*) FROM files WHERE state IN ('queued', 'running')"
                " AND number <= (SELECT MAX(number) FROM files WHERE owner=:owner AND state IN "
                "('queued', 'running'))",
                {"owner": owner},
            ).fetchone()
        return int(row[0] or 0), int(row[1])

    def _insert(
        self,
        file_id: str,
        owner: str,
        is_kept: bool,
        name: str,
        place: str,
        size: int,
        sha256: str,
        model: str,
        position: int | None,
    ) -> None:
        with self._change() as version:
            if position is None:
                query = "SELECT COALESCE(MAX(position) + 1, 0) FROM files WHERE owner=?"
                (position,) = self._db.execute(query, (owner,)).fetchone()
            values = (file_id, owner, is_kept, name, place, size, sha256, model, time.time())
            self._db.execute(
                "INSERT INTO files (id, owner, is_kept, name, place, size, sha256, model, created, "
                "version, position, state, attempts, error, explanation, explanation_error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', 0, '', 'none', '')",
                (*values, version, position),
            )

    def _get(self, file_id: str) -> StoredFile | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM files WHERE id=?", (file_id,)).fetchone()
        return None if row is None else self._to_file(row)

    def _to_file(self, row: Sequence[Any]) -> StoredFile:
        values = dict(zip(_COLUMNS.split(", "), row, strict=True))
        place, answer = values.pop("place"), values["answer"]
        uploaded = self.folder_of(values["id"]) / _ORIGINAL
        values["path"] = Path(os.fsdecode(unquote_to_bytes(place))) if place else uploaded
        values["is_upload"] = not place
        values["answer"] = None if answer is None else json.loads(answer)
        values["state"], values["explanation"] = (
            State(values["state"]),
            State(values["explanation"]),
        )
        return StoredFile(**values)

    @contextmanager
    def _change(self) -> Iterator[int]:
        """One transaction, on the disk when it ends; gives the version of what it changes."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE clock SET version = version + 1")
            row = self._db.execute("SELECT version FROM clock").fetchone()
            yield row[0] if row else 0

    def _remove_orphans(self) -> None:
        """Remove what was received, or computed, for files that never entered the queue."""
        known = {row[0] for row in self._db.execute("SELECT id FROM files")}
        for folder in self.files_root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for path in self.incoming.iterdir():
            path.unlink(missing_ok=True)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
