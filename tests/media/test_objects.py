"""What is found in a store is what would be found in the same folder of this disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UsageError
from deepfake.media.discovery import discover
from deepfake.media.listed import list_sources
from deepfake.media.objects import discover_objects
from deepfake.records import Source
from deepfake.stores.address import Address
from tests.stores.made_stores import copy_tree, empty_memory

FILES = (
    "real/a.jpg", "real/B.JPG", "fake/x/c.mp4", "fake/x y/d é.png", "notes.md", "noext",
    ".hidden/e.jpg", ".hidden/f.jpg", "fake/.g.jpg", "list.txt", "z.jpg/h.png",
)  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        yield store


@pytest.fixture
def folder(tmp_path: Path, memory: Any) -> Path:
    """A folder of this disk; the same lies in ``memory://in``."""
    root = tmp_path / "in"
    for number, name in enumerate(FILES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (root / "z.jpg" / "h.png").write_bytes(b"")
    copy_tree(root, memory, "in")
    return root


def names(sources: Any) -> list[tuple[str, str]]:
    return [(source.id, source.name) for source in sources]


def test_a_folder_gives_the_same_names_ids_order_and_counts(folder: Path) -> None:
    here = discover(folder)
    for url in ("memory://in", "memory://in/"):
        there = discover_objects(url)
        media = [one for one in here.sources if one.problem is None]
        assert names(there.sources) == names(media)
        assert there.skipped == here.skipped
        assert there.is_folder
        assert here.is_folder
    for one, other in zip(media, there.sources, strict=True):
        assert other.stored is not None
        assert other.stored.url == f"memory://in/{one.name}"
        assert other.stored.size == one.path.stat().st_size
        assert other.path.suffix == one.path.suffix
        assert not other.path.exists()


@pytest.mark.parametrize("pattern", ["*/*.jpg", "**/*.png", "fake/**", "[rf]*/?.*"])
def test_a_pattern_means_the_same(pattern: str, folder: Path) -> None:
    here = discover(f"{folder}/{pattern}")
    there = discover_objects(f"memory://in/{pattern}")
    assert [one.name for one in there.sources] == [
        f"memory://in/{one.path.relative_to(folder).as_posix()}" for one in here.sources
    ]
    assert there.skipped == here.skipped
    assert not there.is_folder


def test_one_object_is_one_source_whatever_its_suffix(folder: Path) -> None:
    for name in ("real/a.jpg", "notes.md"):
        (source,) = discover_objects(f"memory://in/{name}").sources
        assert (source.name, source.problem) == (f"memory://in/{name}", None)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memory://in/gone.jpg", "no such object or folder"),
        ("memory://in/*.tiff", "no such object or folder"),
        ("memory://empty/", r"no photo found, and no video; .*passed over 1 \.md"),
        ("sftp://host/a.jpg", "no address that is read here"),
    ],
)
def test_where_nothing_is_found_it_is_said(
    url: str, problem: str, folder: Path, memory: Any
) -> None:
    memory.pipe_file("/empty/x.md", b"")
    with pytest.raises(UsageError, match=problem):
        discover_objects(url)


def test_every_line_of_a_list_is_a_source(folder: Path, memory: Any) -> None:
    lines = ["real/a.jpg", "memory://in/fake/x/c.mp4", "gone.jpg", "real", "real/a.jpg"]
    memory.pipe_file("/in/list.txt", "\n".join(lines).encode())
    sources = discover_objects("memory://in/list.txt").sources
    assert [one.name for one in sources] == lines
    assert [one.problem for one in sources] == [
        None, None, "io_error: no such object", "not_regular_file: a folder", None,
    ]  # fmt: skip
    assert len({one.id for one in sources}) == 5


@pytest.mark.parametrize("line", ["s3://bucket/a.jpg", "https://host/a.jpg", "file:///etc/passwd"])
def test_a_list_in_a_store_leads_nowhere_else(line: str, memory: Any) -> None:
    memory.pipe_file("/in/list.txt", f"a.jpg\n{line}\n".encode())
    with pytest.raises(UsageError, match=r"lies in another store; --other-stores|no address"):
        discover_objects("memory://in/list.txt")


def test_a_list_of_this_disk_names_objects_only_where_that_is_allowed(
    folder: Path, memory: Any
) -> None:
    lines = ["real/a.jpg", "memory://in/real/a.jpg", "memory://in/gone.jpg", "gone.jpg"]
    (folder / "mixed.txt").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"names memory://in/real/a.jpg, .*--other-stores allows"):
        discover(folder / "mixed.txt")
    here, there, gone, missing = discover(folder / "mixed.txt", other_stores=True).sources
    assert here.stored is None
    assert here.path == folder / "real" / "a.jpg"
    assert there.stored is not None
    assert there.stored.other_stores
    assert (gone.problem, missing.problem) == ("io_error: no such object", "io_error: no such file")
    with pytest.raises(UsageError, match="no address that is read here"):
        list_sources(["sftp://host/a.jpg"], folder, other_stores=True)


def test_a_file_and_its_object_are_the_same_source_but_for_the_place(folder: Path) -> None:
    (here,) = list_sources(["real/a.jpg"], folder)
    (there,) = list_sources(["real/a.jpg"], Address.parse("memory://in/list.txt"))
    assert replace(there, stored=None, path=here.path) == here
    assert isinstance(there, Source)
