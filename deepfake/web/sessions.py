"""Sessions: who comes with which cookie. Knows no HTTP."""

from __future__ import annotations

import hashlib
import secrets
import time

from deepfake.web.database import Database

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL);"
)

SESSION_S = 30 * 24 * 3600
"""How long a session lasts."""


class Sessions:
    """All sessions of one server; of their keys only hashes are kept.

    Args:
        database: Keeps them.
        password: Of the server, if it has one; sessions of another one have ended.
    """

    def __init__(self, database: Database, password: str = "") -> None:
        self._database, self._password = database, password
        database.create(_SCHEMA)

    def open(self) -> tuple[str, str]:
        """Begin a session: its secret key, which only its client knows, and its owner."""
        key, owner = secrets.token_urlsafe(32), secrets.token_hex(16)
        values = (self._hash(key), owner, time.time())
        with self._database.change():
            self._database.execute("INSERT INTO sessions VALUES (?, ?, ?)", values)
        return key, owner

    def find_owner(self, key: str) -> str | None:
        """Whose session a key opens."""
        rows = self._database.execute(
            "SELECT owner FROM sessions WHERE key=? AND created>?",
            (self._hash(key), time.time() - SESSION_S),
        )
        return str(rows[0][0]) if rows else None

    def end_expired(self) -> list[str]:
        """Forget the sessions whose time is over; whose they were."""
        with self._database.change():
            query = "DELETE FROM sessions WHERE created<=? RETURNING owner"
            rows = self._database.execute(query, (time.time() - SESSION_S,))
        return [str(owner) for (owner,) in rows]

    def _hash(self, key: str) -> str:
        told = f"{self._password}\n{key}" if self._password else key
        return hashlib.sha256(told.encode()).hexdigest()
