"""Copies of objects: never half of one, never more bytes than were allowed, whoever shares them."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from deepfake.dataset import object_cache
from deepfake.dataset.object_cache import ObjectCache
from deepfake.errors import MediaError
from deepfake.storage import alone
from tests.fakes import run_and_die

SIZE = 1000


def write(text: str) -> Callable[[BinaryIO], None]:
    def copy(file: BinaryIO) -> None:
        file.write(text.encode() * (SIZE // len(text)))

    return copy


def refuse(file: BinaryIO) -> None:
    raise AssertionError("nothing was to be copied")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (".lock", ".bytes"))


def sizes_in(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in names_in(folder))


def make(folder: Path, n_copies: int, in_order: bool = False) -> ObjectCache:
    return ObjectCache(folder, n_copies * SIZE, in_order)


def used_before(folder: Path, *names: str) -> None:
    """Have copies be of earlier jobs, the first one of the earliest."""
    for number, name in enumerate(names, start=1):
        os.utime(folder / name, ns=(number, number))


def test_what_was_copied_once_is_read_from_the_copy(tmp_path: Path) -> None:
    cache = make(tmp_path / "new" / "cache", 2)
    assert cache.read("a", 0, 4) is None
    assert cache.fetch("a", SIZE, write("0123456789"))
    assert cache.fetch("a", SIZE, refuse)
    assert cache.read("a", 12, 5) == b"23456"
    assert cache.read("a", SIZE - 2, 5) == b"89"  # it ends there
    assert pickle.loads(pickle.dumps(cache)).read("a", 0, 1) == b"0"
    cache.forget("a")
    cache.forget("a")
    assert cache.read("a", 0, 4) is None


def test_at_random_what_this_job_has_used_stays_and_of_earlier_jobs_the_oldest_goes(
    tmp_path: Path,
) -> None:
    before = make(tmp_path, 3)
    for name in ("kept", "old", "older"):
        before.fetch(name, SIZE, write(name[0]))
    used_before(tmp_path, "older", "old", "kept")
    cache = make(tmp_path, 3)
    cache.use(["kept", "missing"])
    assert cache.fetch("new", SIZE, write("n"))
    assert names_in(tmp_path) == ["kept", "new", "old"]
    assert cache.fetch("newer", SIZE, write("n"))
    assert names_in(tmp_path) == ["kept", "new", "newer"]
    assert not cache.fetch("newest", SIZE, refuse)
    assert names_in(tmp_path) == ["kept", "new", "newer"]


def test_in_order_the_one_that_was_read_longest_ago_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_cache, "_LAST_USED", 1)
    cache = make(tmp_path, 2, in_order=True)
    cache.fetch("a", SIZE, write("a"))
    cache.fetch("b", SIZE, write("b"))
    used_before(tmp_path, "a", "b")
    cache.read("a", 0, 1)
    for name in "cd":
        assert cache.fetch(name, SIZE, write(name))
        assert len(names_in(tmp_path)) == 2
    assert "b" not in names_in(tmp_path)


def test_the_last_ones_stay_where_processes_would_take_them_from_each_other(
    tmp_path: Path,
) -> None:
    cache = make(tmp_path, 2, in_order=True)
    assert cache.fetch("a", SIZE, write("a"))
    assert cache.fetch("b", SIZE, write("b"))
    assert not cache.fetch("c", SIZE, refuse)


def test_a_moment_without_room_is_over_when_there_is_some(tmp_path: Path) -> None:
    cache = make(tmp_path, 2, in_order=True)

    def copy(file: BinaryIO) -> None:  # while another job takes all the room
        assert not cache.fetch("a", SIZE, refuse)
        write("large")(file)

    assert make(tmp_path, 2).fetch("large", 2 * SIZE, copy)
    make(tmp_path, 2).forget("large")
    assert cache.fetch("b", SIZE, write("b"))
    assert not cache.fetch("a", SIZE, refuse)  # that one is not asked for again


def test_none_goes_where_that_would_not_be_enough(tmp_path: Path) -> None:
    make(tmp_path, 2).fetch("old", SIZE, write("o"))
    used_before(tmp_path, "old")
    assert not make(tmp_path, 2).fetch("large", 3 * SIZE, refuse)
    assert names_in(tmp_path) == ["old"]


def test_while_one_makes_a_copy_others_go_on_without_and_leave_its_room(tmp_path: Path) -> None:
    cache, other = make(tmp_path, 2), make(tmp_path, 2)

    def copy(file: BinaryIO) -> None:
        assert not other.fetch("a", SIZE, refuse)
        assert other.read("a", 0, 1) is None
        assert other.fetch("b", SIZE, write("b"))
        assert not other.fetch("c", SIZE, refuse)
        write("a")(file)

    assert cache.fetch("a", SIZE, copy)
    assert names_in(tmp_path) == ["a", "b"]


def test_killed_at_any_instant_nothing_of_half_a_copy_is_read_or_stays(tmp_path: Path) -> None:
    for event in count():
        folder = tmp_path / f"cache-{event}"

        def copy(file: BinaryIO) -> None:
            file.write(b"a" * (SIZE // 2))
            (tmp_path / "aside").write_text("a change in the middle")
            file.write(b"a" * (SIZE // 2))

        if not run_and_die(lambda: make(folder, 1).fetch("a", SIZE, copy), event):  # noqa: B023
            break
        tally = folder / ".bytes"
        if tally.exists() and tally.read_bytes():
            assert int(tally.read_bytes()) >= sizes_in(folder)
        cache = make(folder, 1)
        assert int(tally.read_bytes()) == sizes_in(folder)
        assert cache.read("a", 0, SIZE) in (None, b"a" * SIZE)
        if (folder / "a").exists():
            used_before(folder, "a")
        assert cache.fetch("b", SIZE, write("b"))
        assert names_in(folder) == ["b"]
        assert int(tally.read_bytes()) == SIZE
    assert event > 10
    assert names_in(folder) == ["a"]


@pytest.mark.parametrize("in_order", [False, True])
def test_the_folder_is_not_listed_for_each_copy(
    in_order: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_listed, real = 0, os.scandir

    def scandir(path: Path) -> Any:
        nonlocal n_listed
        n_listed += 1
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(object_cache, "_LAST_USED", 1)
    cache = make(tmp_path, 32, in_order)
    kept = [cache.fetch(f"{n:03d}", SIZE, write("a")) for n in range(64)]
    assert kept == [in_order or n < 32 for n in range(64)]
    # When it was opened; then in vain, or once for every three that go.
    assert n_listed == (1 + 11 if in_order else 2)
    assert 30 <= len(names_in(tmp_path)) <= 32


def test_a_room_that_was_left_by_somebody_who_was_killed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tmp_path, 1)
    (tmp_path / ".bytes").write_text(f"{SIZE}\n")  # it died before its file had grown
    assert cache.fetch("a", SIZE, write("a"))
    (tmp_path / ".tmp-b").write_bytes(bytes(SIZE))  # and this one behind
    cache.forget("a")
    (tmp_path / ".bytes").unlink()
    assert cache.fetch("c", SIZE, write("c"))
    assert names_in(tmp_path) == ["c"]
    monkeypatch.setattr(object_cache, "_RECOUNT_S", 0.0)
    assert not cache.fetch("d", SIZE, refuse)
    (tmp_path / "c").unlink()  # by hand
    assert cache.fetch("e", SIZE, write("e"))


def test_many_share_a_folder_and_there_is_never_too_much_in_it(tmp_path: Path) -> None:
    def fill(number: int) -> None:
        cache = make(tmp_path, 5, in_order=number > 0)

        def copy(file: BinaryIO) -> None:
            write("a")(file)
            with alone(tmp_path):
                assert sizes_in(tmp_path) <= int((tmp_path / ".bytes").read_bytes()) <= 5 * SIZE

        for n in range(12):
            name = f"{n * (number + 1) % 20}"
            cache.fetch(name, SIZE, copy)
            if n % 5 == 0:
                cache.forget(name)

    with ThreadPoolExecutor(3) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_cache, "_LAST_USED", 1)
        list(pool.map(fill, range(3)))
    assert sizes_in(tmp_path) == int((tmp_path / ".bytes").read_bytes())


def test_what_fails_leaves_nothing_and_a_full_disk_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(tmp_path, 3)

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise MediaError("s3://b/a", "io_error", "503")

    with pytest.raises(MediaError, match="503"):
        cache.fetch("a", SIZE, fail)
    assert names_in(tmp_path) == []

    def fill(file: BinaryIO) -> None:
        error = MediaError("s3://b/a", "io_error", "no space left")
        raise error from OSError(errno.ENOSPC, "No space left on device")

    assert not cache.fetch("a", SIZE, fill)
    assert names_in(tmp_path) == []
    assert "no space is left on its disk" in caplog.text
    for name in "ab":
        assert not cache.fetch(name, SIZE, refuse)
    assert names_in(tmp_path) == []
