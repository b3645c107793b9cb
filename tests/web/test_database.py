"""The file behind the queue: a change is whole or not there, and each has a version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from deepfake.web.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS words (word TEXT UNIQUE);"


def add(database: Database, *words: str) -> int:
    """In one change; gives its version."""
    with database.change() as version:
        for word in words:
            database.execute("INSERT INTO words VALUES (?)", (word,))
    return version


def test_a_change_that_fails_leaves_nothing_and_versions_go_on(tmp_path: Path) -> None:
    database = Database(tmp_path / "file.sqlite")
    database.create(SCHEMA)
    first = add(database, "kept")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        add(database, "lost", "kept")
    assert (first, database.version()) == (0, 0)
    database.close()
    again = Database(tmp_path / "file.sqlite")
    again.create(SCHEMA)
    with again.change() as second:
        assert again.execute("SELECT word FROM words") == [("kept",)]
    assert second == 1
    again.close()
