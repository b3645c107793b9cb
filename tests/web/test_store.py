"""Files and sessions on disk: they survive a kill at any instant, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepfake.web.queue import State
from deepfake.web.store import Store
from tests.web.made_store import upload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


def test_a_restart_goes_on_and_forgets_what_nobody_waits_for(root: Path) -> None:
    store = Store(root)
    key, owner = store.sessions.open()
    running, waiting = upload(store, owner), upload(store, owner)
    gone = upload(store, owner, is_kept=False)
    store.queue.take_next()
    (store.incoming / "half").write_bytes(b"half")
    store.close()
    again = Store(root)
    assert again.sessions.find_owner(key) == owner
    assert again.sessions.find_owner("another") is None
    states = {file.id: file.state for file in again.queue.list_files(owner)}
    assert states == {running: State.QUEUED, waiting: State.QUEUED}
    assert not again.folder_of(gone).exists()
    assert not list(again.incoming.iterdir())
    again.close()


def test_files_of_a_session_that_has_ended_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(root)
    _, first = store.sessions.open()
    old, api = upload(store, first), upload(store, "api")
    monkeypatch.setattr("deepfake.web.sessions.SESSION_S", -1.0)
    store.close()
    again = Store(root)
    assert again.queue.list_ids() == [api]
    assert not again.folder_of(old).exists()
    assert again.folder_of(api).exists()
    again.close()


def test_a_path_with_any_bytes_is_kept(root: Path, tmp_path: Path) -> None:
    path = Path(str(tmp_path / "odd \udcff\n.jpg"))
    path.write_bytes(b"12345")
    store = Store(root)
    file_id = store.add_path(path, "me", "odd", "model")
    file = store.queue.get(file_id)
    assert file is not None
    assert (file.path, file.size, file.is_upload) == (path, 5, False)
    store.remove(file_id)
    assert path.exists()  # it was not uploaded, and is nobody's to remove
    store.close()


def test_killed_at_any_instant_a_file_is_there_or_not_and_none_is_mixed_up(root: Path) -> None:
    # In a process without threads: servers of other tests run in this one, and it must fork.
    words = [sys.executable, "-m", "tests.web.kill_store", str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 6  # it was killed at as many places
