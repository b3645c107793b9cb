"""Kills a process in the midst of the work of the queue, everywhere, and looks at what is left."""

from __future__ import annotations

import sys
from pathlib import Path

from deepfake.web.queue import State
from deepfake.web.store import Store
from tests.fakes import run_and_die
from tests.web.made_store import upload

OWNERS = ("one", "two")


def work(root: Path) -> None:
    """Two people upload, one file is answered."""
    store = Store(root)
    for owner in OWNERS:
        upload(store, owner, owner.encode())
    taken = store.queue.take_next()
    assert taken is not None
    store.queue.finish(taken.id, {"owner": taken.owner}, "")
    store.close()


def look(root: Path) -> None:
    """Every file is whole and its owner's, and there is nothing else."""
    store = Store(root)
    files = [file for owner in OWNERS for file in store.queue.list_files(owner)]
    for file in files:
        assert file.path.read_bytes() == file.owner.encode()
        assert file.answer in (None, {"owner": file.owner})
        assert file.state in (State.QUEUED, State.DONE, State.FAILED)
    assert {path.name for path in store.files_root.iterdir()} == {file.id for file in files}
    store.close()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    work(folder)
    event = 0
    while run_and_die(lambda: work(folder), event):
        look(folder)
        event += 1
    look(folder)
    print(event)  # noqa: T201
