"""A file as an object: whole, what was sent, and not sent twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import JobError, UsageError
from deepfake.stores import objects
from deepfake.stores.address import Address
from deepfake.stores.uploads import check_target, upload_file, upload_folder
from tests.stores.made_stores import empty_memory

FOLDER = Address.parse("memory://out/crops")
CONTENT = bytes(range(256)) * 40


class Flaky:
    """A store that fails as it is told when it is written to.

    Attributes:
        faults: By name of a file, what happens to its next writes: an error, or other bytes.
        log: Names of the files in the order in which they were sent, and of those that were read.
        tells_md5: Whether it tells what S3 tells of its objects.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.faults: dict[str, list[BaseException | bytes]] = {}
        self.log: list[str] = []
        self.tells_md5 = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_file(self, path: str, url: str) -> None:
        name = Path(path).name
        faults = self.faults.get(name, [])
        fault = faults.pop(0) if faults else Path(path).read_bytes()
        if isinstance(fault, BaseException):
            raise fault
        self._store.pipe_file(url, fault)
        self.log.append(f"put {name}")

    def cat_file(self, url: str, **part: int) -> bytes:
        self.log.append(f"read {Path(url).name}")
        data: bytes = self._store.cat_file(url, **part)
        return data

    def info(self, url: str) -> dict[str, Any]:
        info: dict[str, Any] = dict(self._store.info(url))
        if self.tells_md5 and info["type"] == "file":
            info["ETag"] = f'"{hashlib.md5(self._store.cat_file(url)).hexdigest()}"'
        return info


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    with empty_memory() as memory:
        flaky = Flaky(memory)
        monkeypatch.setattr(objects, "PAUSE_S", 0.0)
        monkeypatch.setattr(objects, "open_store", lambda scheme, other_stores: flaky)
        yield flaky


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shards/a.jpg", "shards/b.jpg", "manifest.csv", "job.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() + CONTENT)
    return tmp_path


NAMES = ["shards/a.jpg", "shards/b.jpg", "manifest.csv", "job.json"]


def there(store: Flaky) -> dict[str, bytes]:
    return {
        path.removeprefix("/out/crops/"): store._store.cat_file(path)
        for path in store.find("/out/crops")
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize("tells_md5", [False, True])
def test_a_file_is_sent_once_and_again_when_it_has_changed(
    tells_md5: bool, store: Flaky, folder: Path
) -> None:
    store.tells_md5 = tells_md5
    path, address = folder / "job.json", FOLDER.below("job.json")
    assert upload_file(path, address)
    assert not upload_file(path, address)
    path.write_bytes(path.read_bytes()[::-1])  # of the same size
    assert upload_file(path, address)
    assert there(store) == {"job.json": path.read_bytes()}
    assert store.log.count("put job.json") == 2
    # What the store tells of itself is not read: only the old object was, which was another one.
    assert store.log.count("read job.json") == (1 if tells_md5 else 4)


def test_a_write_that_fails_or_comes_out_wrong_is_done_again(store: Flaky, folder: Path) -> None:
    path = folder / "job.json"
    store.faults = {"job.json": [TimeoutError("slow"), path.read_bytes()[:-1], b"x" * 10248]}
    assert path.stat().st_size == 10248
    assert upload_file(path, FOLDER.below("job.json"))
    assert not store.faults["job.json"]
    assert there(store) == {"job.json": path.read_bytes()}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (b"x", "what lies there is not what was sent; 5 tries failed"),
        (TimeoutError("Slow Down"), "Slow Down; 5 tries failed"),
        (PermissionError("Access Denied"), r"memory://out/crops/a was not written \(Access Denied"),
        (FileNotFoundError("no bucket"), "there is no memory://"),
    ],
)
def test_what_stays_wrong_is_told_with_what_to_do(
    fault: BaseException | bytes, problem: str, store: Flaky, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    store.faults = {"a": [fault] * objects.TRIES}
    with pytest.raises(JobError, match=rf"{problem}.*run the same command again to go on"):
        upload_file(tmp_path / "a", FOLDER.below("a"))


def test_what_a_store_does_not_give_out_is_sent_again(
    store: Flaky, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, address = folder / "job.json", FOLDER.below("job.json")
    store.pipe_file("/out/crops/job.json", path.read_bytes())
    real = Flaky.cat_file

    def refuse(flaky: Flaky, url: str, **part: int) -> bytes:
        if "put job.json" not in flaky.log:
            raise OSError("Expected checksum zG1MMA== did not match")
        return real(flaky, url, **part)

    monkeypatch.setattr(Flaky, "cat_file", refuse)
    assert upload_file(path, address)
    assert not upload_file(path, address)


def test_a_folder_is_sent_with_its_last_file_last_and_not_twice(store: Flaky, folder: Path) -> None:
    told: list[int] = []
    assert upload_folder(folder, FOLDER, NAMES, advance=told.append) == 4
    assert there(store) == files_of(folder)
    assert [line for line in store.log if "put" in line][-1] == "put job.json"
    assert sum(told) == 4
    assert upload_folder(folder, FOLDER, NAMES) == 0


def test_a_stopped_upload_goes_on_and_shows_no_whole_before(store: Flaky, folder: Path) -> None:
    store.faults = {"b.jpg": [KeyboardInterrupt()]}
    with pytest.raises(KeyboardInterrupt):
        upload_folder(folder, FOLDER, NAMES)
    assert "job.json" not in there(store)
    before = len(there(store))
    assert upload_folder(folder, FOLDER, NAMES) == 4 - before
    assert there(store) == files_of(folder)


def test_what_belongs_to_an_earlier_state_goes_when_the_new_one_is_there(
    store: Flaky, folder: Path
) -> None:
    old = ["shards/old.jpg", "shards/gone.jpg", "job.json"]
    store.pipe_file("/out/crops/shards/old.jpg", b"old")
    store.pipe_file("/out/crops/shards/other.jpg", b"somebody else's")
    store.faults = {"job.json": [PermissionError("Access Denied")]}
    with pytest.raises(JobError, match="Access Denied"):
        upload_folder(folder, FOLDER, NAMES, old)
    assert "shards/old.jpg" in there(store)
    upload_folder(folder, FOLDER, NAMES, old)
    assert there(store) == files_of(folder) | {"shards/other.jpg": b"somebody else's"}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://host/a.csv", "such stores are only read here; written to are s3://, gs://, az://"),
        ("hf://datasets/me/faces/a.csv", "such stores are only read here"),
        ("s3://bucket", "s3://bucket is a whole store; name a file or folder in it"),
        ("s3://bucket/a/..", "may not begin with a dot"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_written_is_refused(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_target(Address.parse(url))
