"""A run's folder in a store: what of it is copied, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import JobError, UsageError
from deepfake.stores import objects
from deepfake.training.stored_run import fetch_run, list_kept
from tests.stores.made_stores import empty_memory

URL = "memory://runs/001"


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        yield store


def put(memory: Any, **files: str) -> None:
    for name, text in files.items():
        memory.pipe_file(f"/runs/001/{name.replace('__', '/')}.ckpt", text.encode())


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.ckpt")
    }


def test_checkpoints_are_copied_once_and_those_that_are_gone_go(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, checkpoints__last="two", checkpoints__best="one", model="all")
    memory.pipe_file("/runs/001/metrics.csv", b"not wanted")
    memory.store["/runs/001/checkpoints/../../x.ckpt"] = memory.store["/runs/001/model.ckpt"]
    folder = fetch_run(URL, tmp_path)
    assert files_in(folder) == {
        "checkpoints/last.ckpt": "two", "checkpoints/best.ckpt": "one", "model.ckpt": "all",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert not (folder / "metrics.csv").exists()

    put(memory, checkpoints__last="four", checkpoints__better="three")
    memory.rm_file("/runs/001/checkpoints/best.ckpt")
    reads: list[str] = []
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        reads.append(path.rsplit("/", 1)[-1])
        return real(self, path, *rest, **options)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    assert fetch_run(f"{URL}/", tmp_path) == folder
    assert files_in(folder) == {
        "checkpoints/last.ckpt": "four", "checkpoints/better.ckpt": "three", "model.ckpt": "all",
    }  # fmt: skip
    assert sorted(reads) == ["better.ckpt", "last.ckpt"]


def test_a_run_without_a_checkpoint_is_refused(memory: Any, tmp_path: Path) -> None:
    put(memory, checkpoints__best="one")
    with pytest.raises(UsageError, match=r"there is no memory://runs/001/checkpoints/last.ckpt"):
        fetch_run(URL, tmp_path)


def test_a_store_that_does_not_answer_is_no_missing_run(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, checkpoints__last="one")

    def fail(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        raise OSError("503 Service Unavailable")

    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    monkeypatch.setattr(type(memory), "cat_file", fail)
    with pytest.raises(JobError, match=r"last.ckpt cannot be read \(503 .*; run the same command"):
        fetch_run(URL, tmp_path)


def test_the_last_one_is_listed_last_and_nothing_unfinished(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "zz.ckpt", ".tmp-x.ckpt", "notes.txt"):
        (folder / name).write_text("")
    assert list_kept(tmp_path) == ["checkpoints/zz.ckpt", "checkpoints/last.ckpt"]
