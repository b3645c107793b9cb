"""Whoever waits for a file is woken from another thread: when it has ended, or is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from deepfake.web.completion import Completions
from deepfake.web.queue import State, StoredFile
from deepfake.web.store import Store
from tests.web.made_store import upload


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def wait_while(store: Store, change: Callable[[str], None]) -> StoredFile:
    """Wait for a file that a lane changes, or that it has changed before."""
    file_id, completions = upload(store), Completions(store.queue)
    completions.announce(file_id)  # nobody listens yet

    def work() -> None:
        change(file_id)
        completions.announce(file_id)

    async def wait() -> StoredFile:
        completions.listen()
        waiting = [asyncio.ensure_future(completions.wait_for(file_id)) for _ in range(2)]
        await asyncio.sleep(0)  # until they wait
        assert not any(task.done() for task in waiting)
        completions.announce(file_id)  # it has not ended, and they go on waiting
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        await asyncio.get_running_loop().run_in_executor(lanes, work)
        first, second = await asyncio.gather(*waiting)
        assert first == second == await completions.wait_for(file_id)  # at once
        return first

    try:
        with ThreadPoolExecutor(1) as lanes:
            return asyncio.run(wait())
    finally:
        completions.announce(file_id)  # the loop is closed, and a lane may be at work still
        store.close()


def test_a_file_that_has_ended_wakes_all_who_wait(store: Store) -> None:
    assert wait_while(store, store.queue.cancel).state is State.CANCELLED


def test_a_file_that_is_removed_is_waited_for_no_longer(store: Store) -> None:
    with pytest.raises(HTTPException, match="the file was removed while it waited"):
        wait_while(store, store.remove)
