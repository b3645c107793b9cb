"""The queue: what is in it survives a kill at any instant, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepfake.web.store import MAX_ATTEMPTS, State, Store

ANSWER = {"p_fake": 0.25}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


def upload(store: Store, owner: str = "me", data: bytes = b"data", **facts: Any) -> str:
    incoming = store.incoming / "new"
    incoming.write_bytes(data)
    return store.add_upload(incoming, owner, "a.jpg", "f" * 64, "model", **facts)


def test_a_file_goes_through_its_states(root: Path) -> None:
    store = Store(root)
    first, second = upload(store), upload(store)
    taken = store.take_next()
    assert taken is not None
    assert (taken.id, taken.state, taken.attempts) == (first, State.RUNNING, 1)
    assert taken.path.read_bytes() == b"data"
    store.finish(first, ANSWER, "f" * 64)
    store.cancel(first)  # too late: it has its answer
    done = store.get(first)
    assert done is not None
    assert (done.state, done.answer) == (State.DONE, ANSWER)
    assert store.take_next().id == second  # type: ignore[union-attr]
    store.cancel(second)
    store.finish(second, ANSWER, "")  # too late: nobody waits for it
    assert store.get(second).state is State.CANCELLED  # type: ignore[union-attr]
    assert store.get(second).answer is None  # type: ignore[union-attr]
    assert store.take_next() is None
    store.close()


def test_owners_see_their_own_files_and_what_has_changed(root: Path) -> None:
    store = Store(root)
    mine, other = upload(store, "me"), upload(store, "other")
    assert [file.id for file in store.list_files("me")] == [mine]
    before = store.version()
    assert store.list_files("me", before) == []
    store.cancel(mine)
    assert [file.id for file in store.list_files("me", before)] == [mine]
    assert store.count_files("other") == 1
    upload(store, "me")
    assert store.count_ahead("me") == (1, 2)
    store.remove(other)
    assert store.count_ahead("me") == (1, 1)
    assert not store.folder_of(other).exists()
    store.close()


def test_files_are_listed_by_position_and_begun_as_they_came(root: Path, tmp_path: Path) -> None:
    store = Store(root)
    first, last, middle = (upload(store, position=position) for position in (4, 9, 7))
    tie, default = upload(store, position=7), upload(store)
    path = tmp_path / "file"
    path.touch()
    behind = store.add_path(path, "me", "file", "model")
    other = upload(store, "other")
    order = [first, middle, tie, last, default, behind]
    assert [file.id for file in store.list_files("me")] == order
    assert [file.position for file in store.list_files("me")] == [4, 7, 7, 9, 10, 11]
    assert store.get(other).position == 0  # type: ignore[union-attr]
    assert store.take_next().id == first  # type: ignore[union-attr]
    assert store.take_next().id == last  # type: ignore[union-attr]
    store.close()


def test_a_kept_queue_without_positions_is_listed_as_it_came(root: Path) -> None:
    store = Store(root)
    ids = [upload(store, position=position) for position in (5, 3)]
    store._db.execute("ALTER TABLE files DROP COLUMN position")
    store.close()
    again = Store(root)
    ids.append(upload(again))
    assert [file.id for file in again.list_files("me")] == ids
    again.close()


def test_a_restart_goes_on_and_forgets_what_nobody_waits_for(root: Path) -> None:
    store = Store(root)
    key, owner = store.open_session()
    running, waiting = upload(store, owner), upload(store, owner)
    gone = upload(store, owner, is_kept=False)
    store.take_next()
    (store.incoming / "half").write_bytes(b"half")
    store.close()
    again = Store(root)
    assert again.find_owner(key) == owner
    assert again.find_owner("another") is None
    states = {file.id: file.state for file in again.list_files(owner)}
    assert states == {running: State.QUEUED, waiting: State.QUEUED}
    assert not again.folder_of(gone).exists()
    assert not list(again.incoming.iterdir())
    again.close()


def test_a_file_that_kills_the_server_is_given_up(root: Path) -> None:
    for _ in range(MAX_ATTEMPTS):
        store = Store(root)
        if store.count_files("me") == 0:
            upload(store)
        assert store.take_next() is not None
        store.close()
    store = Store(root)
    assert store.take_next() is None
    (file,) = store.list_files("me")
    assert file.state is State.FAILED
    assert file.error.startswith(f"crashed: the server ended {MAX_ATTEMPTS} times")
    store.close()


def test_a_file_that_a_server_was_stopped_over_is_no_attempt(root: Path) -> None:
    store = Store(root)
    file_id = upload(store)
    for _ in range(2 * MAX_ATTEMPTS):
        store.take_next()
        store.put_back(file_id)
    store.close()
    again = Store(root)
    assert again.take_next().attempts == 1  # type: ignore[union-attr]
    again.close()


def test_explanations_come_after_scores_and_only_of_what_is_done(root: Path) -> None:
    store = Store(root)
    file_id = upload(store)
    store.set_explanation(file_id, State.QUEUED)
    assert store.get(file_id).explanation is State.NONE  # type: ignore[union-attr]
    store.take_next()
    store.finish(file_id, ANSWER, "")
    store.set_explanation(file_id, State.QUEUED)
    other = upload(store)
    assert store.take_next().id == other  # type: ignore[union-attr]
    asked = store.take_next()
    assert asked is not None
    assert (asked.id, asked.state, asked.explanation) == (file_id, State.DONE, State.RUNNING)
    store.close()
    again = Store(root)
    assert again.get(file_id).explanation is State.FAILED  # type: ignore[union-attr]
    again.close()


def test_a_path_with_any_bytes_is_kept(root: Path, tmp_path: Path) -> None:
    path = Path(str(tmp_path / "odd \udcff\n.jpg"))
    path.write_bytes(b"12345")
    store = Store(root)
    file_id = store.add_path(path, "me", "odd", "model")
    file = store.get(file_id)
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
