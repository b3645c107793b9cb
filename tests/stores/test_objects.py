"""An object as a file of this disk: the bytes that were planned, or a reason, and no trace."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import MediaError, UsageError
from deepfake.media.listed import list_sources
from deepfake.records import Source
from deepfake.stores import objects
from deepfake.stores.address import Address
from deepfake.stores.objects import fetched, list_folder, look, may_come_back, read_object
from tests.stores.made_stores import empty_memory

URL = "memory://photos/a.jpg"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        store.pipe_file("/photos/a.jpg", CONTENT)
        yield store


@pytest.fixture
def source(memory: Any) -> Source:
    return list_sources([URL], Address.parse(URL))[0]


class Flaky:
    """A store that fails as it is told when it is read: an error, or so many bytes at most."""

    def __init__(self, store: Any, faults: list[Exception | int]) -> None:
        self._store, self.faults, self.n_reads = store, faults, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.n_reads += 1
        fault = self.faults.pop(0) if self.faults else end
        if isinstance(fault, Exception):
            raise fault
        data: bytes = self._store.cat_file(path, start=start, end=end)
        return data[:fault]


@pytest.fixture
def flaky(memory: Any, source: Source, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    store = Flaky(memory, [])
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    monkeypatch.setattr(objects, "open_store", lambda scheme, other_stores: store)
    return store


def read(source: Source) -> bytes:
    with fetched(source) as file:
        assert file.stored is None
        assert (file.id, file.name) == (source.id, source.name)
        return file.path.read_bytes()


def test_an_object_is_a_file_while_it_is_read_and_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with fetched(source) as file:
        assert file.path.read_bytes() == file.path.read_bytes() == CONTENT
        assert file.path.stat().st_mode & 0o077 == 0
        assert not any(tmp_path.iterdir()) or not Path("/proc/self/fd").exists()
    assert not any(tmp_path.iterdir())
    assert not file.path.exists()


def test_without_proc_the_file_has_a_name_for_as_long(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.parts[1] != "proc" and real(path))
    with fetched(source) as file:
        assert file.path.is_relative_to(tmp_path)
        assert file.path.read_bytes() == CONTENT
    assert not any(tmp_path.iterdir())


def test_a_file_of_this_disk_and_a_problem_pass_as_they_are(source: Source, tmp_path: Path) -> None:
    for plain in (
        list_sources(["x.jpg"], tmp_path)[0],
        replace(source, problem="io_error: no such object"),
    ):
        with fetched(plain) as file:
            assert file is plain


def test_what_fails_in_passing_is_read_again_from_where_it_failed(
    source: Source, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RANGE_BYTES", 4000)
    flaky.faults = [4000, TimeoutError("slow"), OSError(errno.EBUSY, "Slow Down"), 17]
    assert read(source) == CONTENT
    # Three ranges, and three that failed.
    assert flaky.n_reads == 6


def test_what_fails_each_time_is_a_reason_that_may_pass(source: Source, flaky: Flaky) -> None:
    flaky.faults = [OSError(errno.EIO, "Internal Error")] * objects.TRIES
    with pytest.raises(MediaError, match=r"io_error: .*Internal Error; 5 tries failed") as caught:
        read(source)
    assert flaky.n_reads == objects.TRIES
    assert may_come_back(source, caught.value.reason)
    assert not may_come_back(source, "decode_error: no image")
    assert not may_come_back(replace(source, stored=None), caught.value.reason)
    assert may_come_back(replace(source, stored=None), "timeout: gave no answer within 2 s")
    assert may_come_back(replace(source, stored=None), "crashed: its worker process ended (-9)")


class NoCredentialsError(Exception):
    """As a store's package calls it."""


@pytest.mark.parametrize(
    "error", [PermissionError("Forbidden"), NoCredentialsError("Unable to locate credentials")]
)
def test_what_is_an_answer_is_asked_once(error: Exception, source: Source, flaky: Flaky) -> None:
    flaky.faults = [error]
    with pytest.raises(MediaError, match=f"io_error: {error}"):
        read(source)
    assert flaky.n_reads == 1


@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1], CONTENT[::-1]])
def test_another_content_than_was_planned_is_told(
    content: bytes, source: Source, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    memory.pipe_file("/photos/a.jpg", content)
    with pytest.raises(MediaError, match="changed: it is not what it was when the job was planned"):
        read(source)


def test_what_is_gone_has_changed(source: Source, memory: Any) -> None:
    memory.rm("/photos/a.jpg")
    with pytest.raises(MediaError, match="changed: "):
        read(source)


def test_a_change_between_two_ranges_is_told(
    source: Source, flaky: Flaky, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RANGE_BYTES", 4000)
    real = Flaky.cat_file

    def swap(store: Flaky, path: str, start: int, end: int) -> bytes:
        data = real(store, path, start, end)
        memory.pipe_file("/photos/a.jpg", CONTENT[::-1])
        return data

    monkeypatch.setattr(Flaky, "cat_file", swap)
    with pytest.raises(MediaError, match="changed: "):
        read(source)


def test_an_object_beyond_the_limit_is_not_fetched(
    source: Source, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(MediaError, match="too_large: 10240 bytes; at most 10239 are fetched"):
        read(source)
    assert flaky.n_reads == 0


def test_a_full_disk_is_told_at_once(source: Source, flaky: Flaky) -> None:
    flaky.faults = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
    with pytest.raises(MediaError, match=r"no space left for a copy in .*; TMPDIR names another"):
        read(source)
    assert flaky.n_reads == 1


def test_a_copy_that_does_not_fit_is_a_reason(
    memory: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    memory.pipe_file("/photos/large.jpg", bytes(2**20))
    url = "memory://photos/large.jpg"
    with pytest.raises(MediaError, match="io_error: no space left for a copy in "):
        read(list_sources([url], Address.parse(url))[0])
    assert read(list_sources([URL], Address.parse(URL))[0]) == CONTENT


def test_a_look_tells_object_folder_and_nothing(memory: Any) -> None:
    found = look(Address.parse(URL))
    assert found is not None
    assert (found.is_folder, found.size, len(found.stamp)) == (False, len(CONTENT), 16)
    folder = look(Address.parse("memory://photos"))
    assert folder is not None
    assert folder.is_folder
    assert look(Address.parse("memory://nothing")) is None


def test_a_listing_and_a_look_agree(memory: Any) -> None:
    memory.pipe_file("/photos/x/b c.jpg", b"")
    memory.pipe_file("/photos2/c.jpg", b"")
    listed = dict(list_folder(Address.parse("memory://photos/")))
    assert sorted(listed) == ["a.jpg", "x/b c.jpg"]
    assert listed["a.jpg"] == look(Address.parse(URL))
    assert len(dict(list_folder(Address.parse("memory://")))) == 3


def test_a_small_object_is_read_whole(memory: Any) -> None:
    assert read_object(Address.parse(URL)) == CONTENT
    with pytest.raises(UsageError, match="memory://photos: no such object"):
        read_object(Address.parse("memory://photos"))


def test_a_store_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def refuse(scheme: str, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    with pytest.raises(UsageError, match=r"s3:// needs a package .*: pip install s3fs"):
        objects.open_store.__wrapped__("s3", False)
