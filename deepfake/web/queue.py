"""The queue: which files there are, whose they are, what became of them.

Knows no model, no HTTP and no page, and nothing of where files lie but what it is told.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from deepfake.media.discovery import path_uri
from deepfake.web.database import Database

MAX_ATTEMPTS = 3
"""A file that the server has died over as often is not begun again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    is_kept INTEGER NOT NULL, name TEXT NOT NULL, place TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    answer TEXT, error TEXT NOT NULL, created REAL NOT NULL, began REAL, ended REAL,
    explanation TEXT NOT NULL, explanation_error TEXT NOT NULL, version INTEGER NOT NULL,
    position INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_owner ON files (owner, number);
"""
_COLUMNS = (
    "id, owner, name, place, size, sha256, model, state, attempts, answer, error, created, began, "
    "ended, explanation, explanation_error, version, position"
)


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


class Queue:
    """The files of all clients of one server.

    Args:
        database: Keeps them; what a killed server has left half done is queued again.
        find_upload: Where an upload lies, by its id.
    """

    def __init__(self, database: Database, find_upload: Callable[[str], Path]) -> None:
        self._database, self._find_upload = database, find_upload
        database.create(_SCHEMA)
        if not any(row[1] == "position" for row in database.execute("PRAGMA table_info(files)")):
            # The queue of an earlier version: its files are listed as they came.
            database.execute("ALTER TABLE files ADD COLUMN position INTEGER NOT NULL DEFAULT 0")
        _recover(database)

    def add(
        self,
        file_id: str,
        owner: str,
        name: str,
        path: Path | None,
        size: int,
        sha256: str,
        model: str,
        is_kept: bool = True,
        position: int | None = None,
    ) -> None:
        """Queue a file that lies whole on the disk.

        Args:
            file_id: Drawn for it.
            owner: Whom it belongs to.
            name: What the client calls it.
            path: Where it lies; ``None`` for an upload.
            size: In bytes.
            sha256: Of the bytes, where known; else empty.
            model: Key of the model that it is for.
            is_kept: Whether it outlives this process.
            position: Where it is listed; by default behind all that its owner has.
        """
        place = "" if path is None else path_uri(os.fspath(path))
        with self._database.change() as version:
            if position is None:
                query = "SELECT COALESCE(MAX(position) + 1, 0) FROM files WHERE owner=?"
                ((position,),) = self._database.execute(query, (owner,))
            values = (file_id, owner, is_kept, name, place, size, sha256, model, time.time())
            self._database.execute(
                "INSERT INTO files (id, owner, is_kept, name, place, size, sha256, model, created, "
                "version, position, state, attempts, error, explanation, explanation_error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', 0, '', 'none', '')",
                (*values, version, position),
            )

    def take_next(self) -> StoredFile | None:
        """Begin the oldest file that waits, scores before explanations; ``None`` if none does."""
        with self._database.change() as version:
            oldest = "SELECT id FROM files WHERE {}='queued' ORDER BY number LIMIT 1"
            rows = self._database.execute(oldest.format("state"))
            if rows:
                self._database.execute(
                    "UPDATE files SET state='running', attempts=attempts+1, began=?, version=? "
                    "WHERE id=?",
                    (time.time(), version, rows[0][0]),
                )
            else:
                rows = self._database.execute(oldest.format("explanation"))
                if not rows:
                    return None
                self._database.execute(
                    "UPDATE files SET explanation='running', version=? WHERE id=?",
                    (version, rows[0][0]),
                )
            return self.get(rows[0][0])

    def finish(
        self, file_id: str, answer: dict[str, Any], sha256: str, size: int | None = None
    ) -> None:
        """Keep the answer of a file, unless it was cancelled or removed in the meantime.

        Args:
            file_id: Which file.
            answer: In plain types.
            sha256: Of the bytes that were scored.
            size: How many they were, where that is not known since it was queued.
        """
        with self._database.change() as version:
            self._database.execute(
                "UPDATE files SET state='done', answer=?, sha256=?, "
                "size=COALESCE(?, size), ended=?, version=? "
                "WHERE id=? AND state='running'",
                (json.dumps(answer, allow_nan=False), sha256, size, time.time(), version, file_id),
            )

    def fail(self, file_id: str, error: str) -> None:
        """Keep why there is no answer."""
        with self._database.change() as version:
            self._database.execute(
                "UPDATE files SET state='failed', error=?, ended=?, version=? "
                "WHERE id=? AND state='running'",
                (error, time.time(), version, file_id),
            )

    def cancel(self, file_id: str) -> None:
        """Say that nobody waits for a file any more; what has ended stays as it is."""
        with self._database.change() as version:
            self._database.execute(
                "UPDATE files SET state='cancelled', ended=?, version=? "
                "WHERE id=? AND state IN ('queued', 'running')",
                (time.time(), version, file_id),
            )
            self._database.execute(
                "UPDATE files SET explanation='cancelled', version=? "
                "WHERE id=? AND explanation IN ('queued', 'running')",
                (version, file_id),
            )

    def put_back(self, file_id: str) -> None:
        """Queue a file that this server was stopped over; that is no attempt."""
        with self._database.change() as version:
            self._database.execute(
                "UPDATE files SET state='queued', attempts=attempts-1, version=? "
                "WHERE id=? AND state='running'",
                (version, file_id),
            )
            self._database.execute(
                "UPDATE files SET explanation='queued', version=? "
                "WHERE id=? AND explanation='running'",
                (version, file_id),
            )

    def set_explanation(self, file_id: str, state: State, error: str = "") -> None:
        """Note where the explanation of a file is."""
        before = ("none", "failed", "cancelled") if state is State.QUEUED else ("running",)
        marks = ", ".join("?" * len(before))
        with self._database.change() as version:
            self._database.execute(
                "UPDATE files SET explanation=?, explanation_error=?, version=? "
                f"WHERE id=? AND state='done' AND explanation IN ({marks})",
                (state.value, error, version, file_id, *before),
            )

    def remove(self, file_id: str) -> None:
        """Forget a file."""
        with self._database.change():
            self._database.execute("DELETE FROM files WHERE id=?", (file_id,))

    def get(self, file_id: str) -> StoredFile | None:
        """One file, whoever it belongs to."""
        files = self._select("WHERE id=?", (file_id,))
        return files[0] if files else None

    def list_ids(self) -> list[str]:
        """Of all files."""
        return [file_id for (file_id,) in self._database.execute("SELECT id FROM files")]

    def list_files(self, owner: str, since: int = -1) -> list[StoredFile]:
        """The files of an owner by their position, or those that changed since a version."""
        which = "WHERE owner=? AND version>? ORDER BY position, number"
        return self._select(which, (owner, since))

    def list_running(self, owner: str) -> list[StoredFile]:
        """The files of an owner that are worked on."""
        return self._select("WHERE owner=? AND state='running' ORDER BY number", (owner,))

    def count_files(self, owner: str) -> int:
        """How many files an owner has."""
        ((count,),) = self._database.execute("SELECT COUNT(*) FROM files WHERE owner=?", (owner,))
        return int(count)

    def count_ahead(self, owner: str) -> tuple[int, int]:
        """How many files wait or are worked on up to the last one of an owner; of it, and all."""
        ((mine, ahead),) = self._database.execute(
            "SELECT SUM(owner=:owner), COUNT(*) FROM files WHERE state IN ('queued', 'running')"
            " AND number <= (SELECT MAX(number) FROM files WHERE owner=:owner AND state IN "
            "('queued', 'running'))",
            {"owner": owner},
        )
        return int(mine or 0), int(ahead)

    def version(self) -> int:
        """Of the latest change."""
        return self._database.version()

    def _select(self, which: str, values: Sequence[Any]) -> list[StoredFile]:
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM files {which}", values)
        return [self._to_file(row) for row in rows]

    def _to_file(self, row: Sequence[Any]) -> StoredFile:
        values = dict(zip(_COLUMNS.split(", "), row, strict=True))
        place, answer = values.pop("place"), values["answer"]
        values["path"] = (
            Path(os.fsdecode(unquote_to_bytes(place))) if place else self._find_upload(values["id"])
        )
        values["is_upload"] = not place
        values["answer"] = None if answer is None else json.loads(answer)
        values["state"] = State(values["state"])
        values["explanation"] = State(values["explanation"])
        return StoredFile(**values)


def _recover(database: Database) -> None:
    """Queue again what a killed server has left half done, but for what it has died over."""
    with database.change() as version:
        # Of requests that waited for their answer, nobody is left to wait.
        database.execute("DELETE FROM files WHERE NOT is_kept")
        database.execute(
            "UPDATE files SET state='failed', ended=?, version=?, error='crashed: the server "
            "ended ' || attempts || ' times while it worked on this file' "
            "WHERE state='running' AND attempts >= ?",
            (time.time(), version, MAX_ATTEMPTS),
        )
        database.execute(
            "UPDATE files SET state='queued', version=? WHERE state='running'", (version,)
        )
        database.execute(
            "UPDATE files SET explanation='failed', version=?, explanation_error='the server "
            "ended while it was made; ask again' WHERE explanation='running'",
            (version,),
        )
