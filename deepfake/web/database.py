"""The SQLite file of a server: it survives a kill at any instant, and counts its changes.

Knows no table but the count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

_SCHEMA = "CREATE TABLE IF NOT EXISTS clock (version INTEGER NOT NULL);"
_BEFORE_ALL = -1  # the first change has version 0


class Database:
    """One connection that all threads share, one at a time.

    Args:
        path: The file; it is made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._lock = RLock()
        # Its transactions are begun by hand.
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self.create(_SCHEMA)
        missing = "INSERT INTO clock SELECT ? WHERE NOT EXISTS (SELECT 1 FROM clock)"
        self.execute(missing, (_BEFORE_ALL,))

    def close(self) -> None:
        """Close the file; it can be opened again."""
        with self._lock:
            self._connection.close()

    def create(self, schema: str) -> None:
        """Create tables that are not there yet."""
        with self._lock:
            self._connection.executescript(schema)

    def execute(
        self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Ask or, within ``change``, change something; gives the rows of the answer."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def change(self) -> Iterator[int]:
        """One transaction, on the disk when it ends; gives the version of what it changes."""
        with self._lock, self._connection:
            self.execute("BEGIN IMMEDIATE")
            self.execute("UPDATE clock SET version = version + 1")
            yield self.version()

    def version(self) -> int:
        """Of the latest change."""
        ((version,),) = self.execute("SELECT version FROM clock")
        return int(version)
