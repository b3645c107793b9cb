"""The queue: whose a file is, what becomes of it, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.web.queue import MAX_ATTEMPTS, State
from deepfake.web.store import Store
from tests.web.made_store import upload

ANSWER = {"p_fake": 0.25}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


def test_a_file_goes_through_its_states(root: Path) -> None:
    store = Store(root)
    first, second = upload(store), upload(store)
    taken = store.queue.take_next()
    assert taken is not None
    assert (taken.id, taken.state, taken.attempts) == (first, State.RUNNING, 1)
    assert taken.path.read_bytes() == b"data"
    store.queue.finish(first, ANSWER, "f" * 64)
    store.queue.cancel(first)  # too late: it has its answer
    done = store.queue.get(first)
    assert done is not None
    assert (done.state, done.answer) == (State.DONE, ANSWER)
    assert store.queue.take_next().id == second  # type: ignore[union-attr]
    store.queue.cancel(second)
    store.queue.finish(second, ANSWER, "")  # too late: nobody waits for it
    assert store.queue.get(second).state is State.CANCELLED  # type: ignore[union-attr]
    assert store.queue.get(second).answer is None  # type: ignore[union-attr]
    assert store.queue.take_next() is None
    store.close()


def test_owners_see_their_own_files_and_what_has_changed(root: Path) -> None:
    store = Store(root)
    mine, other = upload(store, "me"), upload(store, "other")
    assert [file.id for file in store.queue.list_files("me")] == [mine]
    before = store.queue.version()
    assert store.queue.list_files("me", before) == []
    store.queue.cancel(mine)
    assert [file.id for file in store.queue.list_files("me", before)] == [mine]
    assert store.queue.count_files("other") == 1
    upload(store, "me")
    assert store.queue.count_ahead("me") == (1, 2)
    store.remove(other)
    assert store.queue.count_ahead("me") == (1, 1)
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
    assert [file.id for file in store.queue.list_files("me")] == order
    assert [file.position for file in store.queue.list_files("me")] == [4, 7, 7, 9, 10, 11]
    assert store.queue.get(other).position == 0  # type: ignore[union-attr]
    assert store.queue.take_next().id == first  # type: ignore[union-attr]
    assert store.queue.take_next().id == last  # type: ignore[union-attr]
    store.close()


def test_a_kept_queue_without_positions_is_listed_as_it_came(root: Path) -> None:
    store = Store(root)
    ids = [upload(store, position=position) for position in (5, 3)]
    store._database.execute("ALTER TABLE files DROP COLUMN position")
    store.close()
    again = Store(root)
    ids.append(upload(again))
    assert [file.id for file in again.queue.list_files("me")] == ids
    again.close()


def test_a_file_that_kills_the_server_is_given_up(root: Path) -> None:
    for _ in range(MAX_ATTEMPTS):
        store = Store(root)
        if store.queue.count_files("me") == 0:
            upload(store)
        assert store.queue.take_next() is not None
        store.close()
    store = Store(root)
    assert store.queue.take_next() is None
    (file,) = store.queue.list_files("me")
    assert file.state is State.FAILED
    assert file.error.startswith(f"crashed: the server ended {MAX_ATTEMPTS} times")
    store.close()


def test_a_file_that_a_server_was_stopped_over_is_no_attempt(root: Path) -> None:
    store = Store(root)
    file_id = upload(store)
    for _ in range(2 * MAX_ATTEMPTS):
        store.queue.take_next()
        store.queue.put_back(file_id)
    store.close()
    again = Store(root)
    assert again.queue.take_next().attempts == 1  # type: ignore[union-attr]
    again.close()


def test_explanations_come_after_scores_and_only_of_what_is_done(root: Path) -> None:
    store = Store(root)
    file_id = upload(store)
    store.queue.set_explanation(file_id, State.QUEUED)
    assert store.queue.get(file_id).explanation is State.NONE  # type: ignore[union-attr]
    store.queue.take_next()
    store.queue.finish(file_id, ANSWER, "")
    store.queue.set_explanation(file_id, State.QUEUED)
    other = upload(store)
    assert store.queue.take_next().id == other  # type: ignore[union-attr]
    asked = store.queue.take_next()
    assert asked is not None
    assert (asked.id, asked.state, asked.explanation) == (file_id, State.DONE, State.RUNNING)
    store.close()
    again = Store(root)
    assert again.queue.get(file_id).explanation is State.FAILED  # type: ignore[union-attr]
    again.close()
