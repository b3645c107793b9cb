"""Files that appear whole or not at all, and folders with one owner."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake import storage
from deepfake.errors import JobError, UsageError
from deepfake.storage import (
    LOCK_NAMES,
    Confinement,
    exclusive,
    holds,
    no_space_is_an_error,
    sync_file,
    sync_folder,
    write_atomic,
    write_stream,
)

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("zwölf\nrows\r\n", "zwölf\nrows\r\n".encode(), id="text"),
        pytest.param(b"\0\xff", b"\0\xff", id="bytes"),
        pytest.param("", b"", id="empty"),
    ],
)
def test_writes_exactly_these_bytes(tmp_path: Path, data: bytes | str, expected: bytes) -> None:
    path = tmp_path / "file"
    write_atomic(path, data)
    write_atomic(path, data)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    path = tmp_path / "file"
    write_stream(path, [b"ol", b"", b"d"])
    with pytest.raises(ValueError, match="no more"):
        write_stream(path, chunks())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("chunks", "same"),
    [
        *(([b"ab", b"c"], True), ([b"abc", b""], True), ([b"ab"], False), ([b"abcd"], False)),
        *(([b"abd"], False), ([], False)),
    ],
)
def test_whether_a_file_holds_this(tmp_path: Path, chunks: list[bytes], same: bool) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert holds(tmp_path / "file", iter(chunks)) == same


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


@pytest.mark.parametrize("mask", [0o022, 0o077], ids=oct)
def test_others_may_read_it_as_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", "x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


@pytest.mark.parametrize("step", ["fsync", "fdopen"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(JobError, match=r"no space left while writing .*file; what was finished"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt("now")

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt, match="now"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file") as caught:
        write_atomic(tmp_path / "gone" / "file", "x")
    assert caught.value.filename == str(tmp_path / "gone" / "file")  # and no temporary one


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_no_space_becomes_advice(number: int) -> None:
    with (
        pytest.raises(JobError, match="free some space and run the same command again") as info,
        no_space_is_an_error(Path("x")),
    ):
        raise OSError(number, "full")
    assert isinstance(info.value.__cause__, OSError)


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError, match="mine"), no_space_is_an_error(Path("x")):
        raise PermissionError(errno.EACCES, "mine")


def test_syncing_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    sync_file(path)
    sync_folder(tmp_path)
    assert path.read_text() == "x"


def test_a_folder_has_one_owner_and_is_free_again(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == set(LOCK_NAMES)
        with (
            pytest.raises(UsageError, match=f"is in use by process {os.getpid()} on .*; wait for"),
            exclusive(tmp_path),
        ):
            pass
        assert {path.name for path in tmp_path.iterdir()} == set(LOCK_NAMES)
    assert list(tmp_path.iterdir()) == []
    with exclusive(tmp_path):
        pass


def test_an_owner_that_left_no_name(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        (tmp_path / LOCK_NAMES[1]).unlink()
        with pytest.raises(UsageError, match="is in use by another run"), exclusive(tmp_path):
            pass


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="oops"), exclusive(tmp_path):
        raise KeyError("oops")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_void(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deepfake.storage import exclusive\n"
        "with exclusive(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPO)
    assert died.returncode == -9
    assert {path.name for path in tmp_path.iterdir()} == set(LOCK_NAMES)
    with exclusive(tmp_path):
        owner = (tmp_path / LOCK_NAMES[1]).read_text()
        assert f"process {os.getpid()} on " in owner
    assert list(tmp_path.iterdir()) == []


def test_temporary_names_are_hidden() -> None:
    assert storage.TEMPORARY_PREFIX.startswith(".")
    assert not any(name.startswith(storage.TEMPORARY_PREFIX) for name in LOCK_NAMES)


@pytest.fixture
def confined(tmp_path: Path) -> Confinement:
    """A folder with a file, and links of every kind."""
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "file").write_text("mine")
    (tmp_path / "outside").write_text("theirs")
    (root / "near").symlink_to("inner/file")
    (root / "out").symlink_to("../outside")
    (root / "gone").symlink_to("../nothing")
    (root / "device").symlink_to("/dev/zero")
    (root / "loop").symlink_to("loop")
    (root / "folder").symlink_to("..")
    os.mkfifo(root / "pipe")
    return Confinement(root)


@pytest.mark.parametrize("name", ["inner/file", "near", "inner/../inner/file", "inner/absent", "a"])
def test_a_name_of_a_file_inside_is_a_path(confined: Confinement, name: str) -> None:
    assert confined.path_of(name) == confined.root / name


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "out", "gone", "folder/outside", "inner/../../x", "device"],
)
def test_a_name_that_leads_out_is_refused(confined: Confinement, name: str) -> None:
    with pytest.raises(UsageError, match=f"names '{name}', which leads out of the folder"):
        confined.path_of(name)


@pytest.mark.parametrize("name", ["pipe", "inner", "loop", "x" * 300, "a\0b"])
def test_what_is_no_file_is_refused(confined: Confinement, name: str) -> None:
    with pytest.raises(UsageError, match=r"which is no (regular )?file"):
        confined.path_of(name)


def test_a_folder_is_looked_through_at_any_depth_or_where_it_is_asked(
    tmp_path: Path,
) -> None:
    deep = tmp_path / "root" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (deep / "near").symlink_to("file")
    inside = Confinement(tmp_path / "root")
    inside.check_all()
    os.mkfifo(deep / "pipe")
    with pytest.raises(UsageError, match=r"names 'a/b/pipe', which is no regular file"):
        inside.check_all()
    inside.check_all("a")
    (tmp_path / "root" / "a" / "out").symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"names 'a/out', which leads out of the folder"):
        inside.check_all("a")
    Confinement(tmp_path / "absent").check_all()
