"""A job does what is left, no more: after a kill, a change of its inputs, damage on the disk."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.jobs.engine import Block, Executor, Job, count_bytes, hash_inputs, run_here
from deepfake.jobs.folder import JobFolder, read_shard
from deepfake.jobs.parts import JobPart
from deepfake.media.discovery import list_sources
from deepfake.records import Source, StoredObject
from tests.jobs.made_executor import work_elsewhere

NAMES = [f"{number}.txt" for number in range(7)]


def fill(folder: Path, names: Sequence[str] = NAMES) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"content of {name}")


@dataclass
class Upper:
    """Work whose result is the content in capitals, and a note of what was worked on."""

    worked: list[str] = field(default_factory=list)

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            for source in block.inputs:
                target = block.folder / source.id
                if source.id in block.kept:
                    target.write_bytes((block.kept[source.id] / source.id).read_bytes())
                else:
                    self.worked.append(source.name)
                    there = source.path.exists()
                    target.write_text(source.path.read_text().upper() if there else "UNREADABLE")
            yield block


def run(
    root: Path,
    inputs: Path,
    names: Sequence[str],
    part: JobPart | None = None,
    execute: Executor = run_here,
) -> list[str]:
    """Begin or go on; what was worked on."""
    root.mkdir(exist_ok=True)
    job = Job(JobFolder(root, "test"), list_sources(list(names), inputs), 2, part)
    job.begin([f"{name}\n" for name in names], {"case": "upper"})
    work = Upper()
    for _ in job.run(job.find_todo(), work, execute):
        pass
    return work.worked


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


class CountedSources(list[Source]):
    """Counts the inputs that are asked for, which a table makes anew each time."""

    n_made = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.n_made += len(found) if isinstance(place, slice) else 1
        return found


def test_to_find_nothing_left_each_input_is_made_once_and_to_count_none(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path / "job", tmp_path / "in", NAMES)
    sources = CountedSources(list_sources(NAMES, tmp_path / "in"))
    job = Job(JobFolder(tmp_path / "job", "test"), sources, 2)
    assert job.count_inputs() == 7
    assert job.count_inputs([3, 0]) == 3
    assert sources.n_made == 0
    assert job.find_todo() == []
    assert sources.n_made == 7


def test_a_finished_job_has_nothing_left(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    assert run(tmp_path / "job", tmp_path / "in", NAMES) == NAMES
    before = tree(tmp_path / "job")
    assert run(tmp_path / "job", tmp_path / "in", NAMES) == []
    assert tree(tmp_path / "job") == before


def rename(folder: Path, names: list[str]) -> list[str]:
    (folder / "3.txt").rename(folder / "9.txt")
    names[3] = "9.txt"
    return ["9.txt"]


def add_in_front(folder: Path, names: list[str]) -> list[str]:
    fill(folder, ["00.txt"])
    names.insert(0, "00.txt")
    return ["00.txt"]


def edit_with_the_same_size(folder: Path, names: list[str]) -> list[str]:
    path = folder / "5.txt"
    times = path.stat()
    path.write_text("CONTENT of 5.txt")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return ["5.txt"]


def remove(folder: Path, names: list[str]) -> list[str]:
    (folder / "0.txt").unlink()
    names.remove("0.txt")
    return []


@pytest.mark.parametrize("change", [rename, add_in_front, edit_with_the_same_size, remove])
def test_a_change_redoes_what_it_concerns_and_no_more(
    change: Callable[[Path, list[str]], list[str]], tmp_path: Path
) -> None:
    fill(tmp_path / "in")
    names = list(NAMES)
    run(tmp_path / "job", tmp_path / "in", names)
    expected = change(tmp_path / "in", names)
    assert run(tmp_path / "job", tmp_path / "in", names) == expected
    run(tmp_path / "clean", tmp_path / "in", names)
    assert tree(tmp_path / "job") == tree(tmp_path / "clean")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_damage_is_mended_by_running_again(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    fill(tmp_path / "in")
    run(tmp_path / "job", tmp_path / "in", NAMES)
    before = tree(tmp_path / "job")
    shard = JobFolder(tmp_path / "job", "test").read_shard(1)
    assert shard is not None
    damage(shard.folder / next(iter(shard.inputs)))
    assert run(tmp_path / "job", tmp_path / "in", NAMES) == NAMES[2:4]
    assert tree(tmp_path / "job") == before


def test_another_engine_gives_the_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path / "here", tmp_path / "in", NAMES)
    assert run(tmp_path / "there", tmp_path / "in", NAMES, execute=work_elsewhere) == []
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    edit_with_the_same_size(tmp_path / "in", list(NAMES))
    run(tmp_path / "here", tmp_path / "in", NAMES)
    run(tmp_path / "there", tmp_path / "in", NAMES, execute=work_elsewhere)
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_whoever_says_what_an_input_holds_decides_what_is_done_again(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    sources = list_sources(NAMES, tmp_path / "in")
    known = {source.id: "1" for source in sources}

    def digest(inputs: Sequence[Source]) -> dict[str, str]:
        return {source.id: known[source.id] for source in inputs}

    def go_on() -> list[str]:
        (tmp_path / "job").mkdir(exist_ok=True)
        job = Job(JobFolder(tmp_path / "job", "test"), sources, 2, digest=digest)
        job.begin(NAMES, {})
        work = Upper()
        for _ in job.run(job.find_todo(), work):
            pass
        return work.worked

    assert go_on() == NAMES
    edit_with_the_same_size(tmp_path / "in", list(NAMES))
    assert go_on() == []
    known[sources[2].id] = "2"
    assert go_on() == [NAMES[2]]


def test_what_cannot_be_read_is_tried_again_once_it_can(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    names = ["0.txt", "gone.txt", "1.txt"]
    assert run(tmp_path / "job", tmp_path / "in", names) == names
    assert run(tmp_path / "job", tmp_path / "in", names) == []
    fill(tmp_path / "in", ["gone.txt"])
    assert run(tmp_path / "job", tmp_path / "in", names) == ["gone.txt"]
    run(tmp_path / "clean", tmp_path / "in", names)
    assert tree(tmp_path / "job") == tree(tmp_path / "clean")


def test_parts_are_the_blocks_of_the_whole(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path / "whole", tmp_path / "in", NAMES)
    for number in (1, 2, 3):
        root = tmp_path / f"part{number}"
        run(root, tmp_path / "in", NAMES, JobPart(number, 3))
        for shard in sorted((root / "shards").iterdir()):
            assert tree(shard) == tree(tmp_path / "whole" / "shards" / shard.name)
            assert read_shard(shard) is not None


_CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.jobs import test_engine
slow = Path.write_text
def write(self, *words, **named):
    time.sleep(0.05)
    return slow(self, *words, **named)
Path.write_text = write
test_engine.run(Path(sys.argv[1]), Path(sys.argv[2]), test_engine.NAMES)
"""


def test_killed_at_any_instant_the_result_is_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path / "clean", tmp_path / "in", NAMES)
    repository = str(Path(__file__).parents[2])
    for shards in (0, 1, 2):
        root = tmp_path / f"killed{shards}"
        words = [sys.executable, "-c", _CHILD, str(root), str(tmp_path / "in"), repository]
        child = subprocess.Popen(words)
        deadline = time.monotonic() + 60
        while len(list((root / "shards").glob("0*"))) < shards or not (root / "job.json").exists():
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        run(root, tmp_path / "in", NAMES)
        assert tree(root) == tree(tmp_path / "clean")


def test_what_could_not_be_had_is_tried_again(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    (tmp_path / "job").mkdir()

    def go_on(unlucky: str) -> list[str]:
        upper = Upper()

        def lose(blocks: Iterable[Block]) -> Iterator[Block]:
            for block in upper(blocks):
                for one in block.inputs:
                    if one.name == unlucky:
                        block.lose(one)
                yield block

        job = Job(JobFolder(tmp_path / "job", "test"), list_sources(NAMES, tmp_path / "in"), 2)
        job.begin([f"{name}\n" for name in NAMES], {"case": "upper"})
        for _ in job.run(job.find_todo(), lose):
            pass
        assert len(list(tmp_path.rglob("*.txt"))) == len(NAMES)
        return upper.worked

    assert go_on("3.txt") == NAMES
    # Its neighbour in the block is used again.
    assert go_on("3.txt") == ["3.txt"]
    assert go_on("") == ["3.txt"]
    assert go_on("") == []
    run(tmp_path / "clean", tmp_path / "in", NAMES)
    assert tree(tmp_path / "job") == tree(tmp_path / "clean")


def test_an_object_of_a_store_is_known_by_its_version(tmp_path: Path) -> None:
    seen = StoredObject("s3://bucket/a.jpg", 7, "0123456789abcdef")
    one = replace(list_sources(["a.jpg"], tmp_path)[0], problem=None, stored=seen)
    versions = [
        seen, replace(seen, size=8), replace(seen, stamp="1" * 16), replace(seen, size=None),
    ]  # fmt: skip
    digests = [hash_inputs([replace(one, stored=version)])[one.id] for version in versions]
    assert len(set(digests)) == 4
    assert "" not in digests
    moved = replace(one, stored=replace(seen, url="s3://copy/a.jpg"))
    assert hash_inputs([moved]) == hash_inputs([one])
    assert hash_inputs([replace(one, problem="io_error: no such object")]) == {one.id: ""}
    assert [count_bytes(replace(one, stored=version)) for version in versions] == [7, 8, 7, ""]
