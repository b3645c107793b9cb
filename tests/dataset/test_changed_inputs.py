"""A crop job whose inputs have changed does again what that concerns, and no more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.dataset import cropping
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.merging import merge_crops
from deepfake.faces.pipeline import iter_extractions
from deepfake.jobs.parts import JobPart
from deepfake.records import Extraction, Source
from tests.dataset.made_jobs import SHARD, run, run_part
from tests.fakes import portrait, tree_hashes, write_photo, write_portraits

N_PHOTOS = 10
FIRST, FIFTH = "real/id0/000.png", "real/id1/004.png"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and what they were cropped to."""
    folder = tmp_path_factory.mktemp("started")
    run(write_portraits(folder / "photos", N_PHOTOS), folder / "crops")
    return folder


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the inputs that are cropped."""
    names: list[str] = []

    def note(sources: Iterator[Source], *rest: Any) -> Iterator[tuple[Source, Extraction]]:
        def look() -> Iterator[Source]:
            for source in sources:
                names.append(source.name)
                yield source

        return iter_extractions(look(), *rest)

    monkeypatch.setattr(cropping, "iter_extractions", note)
    return names


def rename(photos: Path) -> list[str]:
    (photos / FIRST).rename(photos / "real" / "id0" / "zzz.png")
    return ["real/id0/zzz.png"]


def add_in_front(photos: Path) -> list[str]:
    write_photo(photos / "fake" / "id0" / "000.png", portrait(3, 1))
    return ["fake/id0/000.png"]


def remove(photos: Path) -> list[str]:
    (photos / FIRST).unlink()
    return []


def edit_with_the_same_size(photos: Path) -> list[str]:
    path = photos / FIFTH
    times, size = path.stat(), path.stat().st_size
    write_photo(path, portrait(7, 2, 96))
    data = path.read_bytes()
    assert len(data) < size
    path.write_bytes(data + bytes(size - len(data)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return [FIFTH]


def move_a_class(photos: Path) -> list[str]:
    moved = [path.relative_to(photos / "real") for path in sorted(photos.glob("real/*/*.png"))]
    (photos / "real").rename(photos / "fake" / "more")
    return [f"fake/more/{path.as_posix()}" for path in moved]


@pytest.mark.parametrize(
    "change", [rename, add_in_front, remove, edit_with_the_same_size, move_a_class]
)
def test_only_what_a_change_concerns_is_cropped_again(
    change: Callable[[Path], list[str]], started: Path, tmp_path: Path, cut: list[str]
) -> None:
    photos, crops = (
        Path(shutil.copytree(started / name, tmp_path / name)) for name in ("photos", "crops")
    )
    expected = change(photos)
    report = run(photos, crops)
    assert (cut, report.was_finished) == (expected, False)
    run(photos, tmp_path / "clean")
    assert tree_hashes(crops) == tree_hashes(tmp_path / "clean")


def test_kept_crops_are_linked_from_the_old_shard(
    started: Path, tmp_path: Path, cut: list[str]
) -> None:
    photos, crops = (
        Path(shutil.copytree(started / name, tmp_path / name)) for name in ("photos", "crops")
    )
    before = {path.name: path.stat().st_ino for path in crops.rglob("*.jpg")}
    (photos / FIRST).unlink()
    run(photos, crops)
    after = {path.name: path.stat().st_ino for path in crops.rglob("*.jpg")}
    assert after.items() < before.items()


def test_more_inputs_than_before_in_blocks_of_another_size(
    started: Path, tmp_path: Path, cut: list[str]
) -> None:
    crops = Path(shutil.copytree(started / "crops", tmp_path / "crops"))
    run(started / "photos", crops, shard_size=SHARD - 1)
    assert cut == []
    run(started / "photos", tmp_path / "clean", shard_size=SHARD - 1)
    assert tree_hashes(crops) == tree_hashes(tmp_path / "clean")


def test_a_new_label_rewrites_rows_and_crops_nothing(tmp_path: Path, cut: list[str]) -> None:
    names = [f"{number}.png" for number in range(6)]
    write_portraits(tmp_path, 6, names=names)
    table = tmp_path / "t.csv"
    lines = [f"{name},real,g{number},train,\n" for number, name in enumerate(names)]
    head = "path,label,group,split,method\n"
    table.write_text(head + "".join(lines))
    run(table, tmp_path / "crops")
    assert cut == names
    cut.clear()
    lines[4] = "4.png,fake,other,test,swap\n"
    table.write_text(head + "".join(lines))
    assert not run(table, tmp_path / "crops").was_finished
    assert cut == []
    (row,) = [row for row in read_manifest(tmp_path / "crops").rows if row.group == "other"]
    assert (row.label, row.split, row.method) == (1, "test", "swap")
    run(table, tmp_path / "clean")
    assert tree_hashes(tmp_path / "crops") == tree_hashes(tmp_path / "clean")


def test_few_inputs_have_a_block_each_and_are_shared_by_two_parts(tmp_path: Path) -> None:
    photos = write_portraits(tmp_path / "photos", 7)
    parts = [tmp_path / "1", tmp_path / "2"]
    inputs = [
        run_part(photos, part, JobPart(number, 2)).inputs for number, part in enumerate(parts, 1)
    ]
    assert inputs == [3, 4]
    run_part(photos, tmp_path / "whole", None)
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == tree_hashes(tmp_path / "whole")
