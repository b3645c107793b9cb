"""Damage to a crop folder is found by whoever reads it, and mended by cropping again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.dataset.crop_folder import find_damaged_shards
from deepfake.dataset.doctor import examine
from deepfake.dataset.manifest import MANIFEST_FILE, SOURCES_FILE, read_manifest
from deepfake.dataset.merging import merge_crops
from deepfake.errors import JobError, UsageError
from deepfake.jobs.parts import JobPart
from deepfake.learning.data import CropDataModule, SplitSettings
from tests.dataset.made_jobs import run, run_part
from tests.fakes import tree_hashes, write_portraits
from tests.made_crops import write_crop_folder

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, their crops, and the crops as one part."""
    folder = tmp_path_factory.mktemp("done")
    photos = write_portraits(folder / "photos", 16)
    run(photos, folder / "crops")
    run_part(photos, folder / "part", JobPart(1, 1), 4)
    return folder


@pytest.fixture
def crops(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done / "crops", tmp_path / "crops"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garble(path: Path) -> None:
    """Turn one bit, in the middle: a JPEG is still a picture, a table still a table."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = pytest.mark.parametrize("damage", [empty, cut, garble])


def first_crop(root: Path) -> Path:
    return sorted(root.glob("shards/00001/crops/*"))[0]


def set_up(root: Path) -> CropDataModule:
    data = CropDataModule(str(root), split=SplitSettings(by="group", find_look_alikes=False))
    data.setup("fit")
    return data


@DAMAGES
def test_a_damaged_crop(damage: Damage, done: Path, crops: Path, tmp_path: Path) -> None:
    damage(first_crop(crops))
    name = first_crop(crops).relative_to(crops).as_posix()
    assert find_damaged_shards(crops) == ["00001"]
    report = examine(crops, quiet=True)
    assert report.damaged
    assert "1 shards are not as they were written" in str(report)
    data = set_up(crops)
    rows = [(dataset, row) for dataset in data.datasets.values() for row in dataset.rows]
    ((dataset, row),) = [(dataset, row) for dataset, row in rows if row.crop == name]
    with pytest.raises(JobError, match=r"(cannot be read|its checksum is another).*again to mend"):
        dataset.read(row)
    run(done / "photos", crops)
    assert tree_hashes(crops) == tree_hashes(done / "crops")


@DAMAGES
@pytest.mark.parametrize("name", [MANIFEST_FILE, SOURCES_FILE])
def test_a_damaged_table(damage: Damage, name: str, done: Path, crops: Path) -> None:
    damage(crops / name)
    for read in (read_manifest, set_up, lambda root: examine(root, quiet=True)):
        with pytest.raises(UsageError, match=rf"{name} is not as it was written .* to mend it"):
            read(crops)
    assert not run(done / "photos", crops).was_finished
    assert tree_hashes(crops) == tree_hashes(done / "crops")


@DAMAGES
@pytest.mark.parametrize("name", [MANIFEST_FILE, SOURCES_FILE, "shard.json"])
def test_a_damaged_table_of_a_shard(damage: Damage, name: str, done: Path, crops: Path) -> None:
    damage(crops / "shards" / "00002" / name)
    assert find_damaged_shards(crops) == ["00002"]
    assert examine(crops, quiet=True).damaged
    run(done / "photos", crops)
    assert tree_hashes(crops) == tree_hashes(done / "crops")


def test_a_shard_without_its_checksums_is_not_trained_on(crops: Path) -> None:
    (crops / "shards" / "00002" / "shard.json").unlink()
    with pytest.raises(UsageError, match=r"00002 is damaged; run the crop command again"):
        set_up(crops)


@DAMAGES
@pytest.mark.parametrize("place", ["shards/00001/crops", "shards/00002/sources.csv", MANIFEST_FILE])
def test_a_damaged_part_is_not_merged(
    damage: Damage, place: str, done: Path, tmp_path: Path
) -> None:
    part = Path(shutil.copytree(done / "part", tmp_path / "part"))
    damage(first_crop(part) if place.endswith("crops") else part / place)
    with pytest.raises(UsageError, match=r"part 1/1 in .* is damaged \(.*\); mend it"):
        merge_crops(tmp_path / "merged", [part])
    run_part(done / "photos", part, JobPart(1, 1), 4)
    merge_crops(tmp_path / "merged", [part])
    assert tree_hashes(tmp_path / "merged") == tree_hashes(done / "crops")


def test_a_job_that_was_stopped_while_it_went_on_is_not_trained_on(crops: Path) -> None:
    text = (crops / "job.json").read_text()
    (crops / "job.json").write_text(text.replace('"results"', '"other"'))
    with pytest.raises(UsageError, match="holds an unfinished crop job; run the same crop command"):
        read_manifest(crops)


# Nobody gets in


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_the_folder(path: Path) -> None:
    outside = path.parents[4] / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


@pytest.mark.parametrize("trick", [link_out, link_to_a_device, make_fifo, link_the_folder])
def test_a_crop_that_is_somewhere_else_is_refused(trick: Damage, crops: Path) -> None:
    path = first_crop(crops)
    data = set_up(crops)
    trick(path)
    message = "which (leads out of the folder|is no regular file)"
    with pytest.raises(UsageError, match=message):
        read_manifest(crops)
    name = path.relative_to(crops).as_posix()
    rows = [(dataset, row) for dataset in data.datasets.values() for row in dataset.rows]
    ((dataset, row),) = [(dataset, row) for dataset, row in rows if row.crop == name]
    with pytest.raises(UsageError, match=message):
        dataset.read(row)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "shards/../../x", "/dev/zero", "shards"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    root = write_crop_folder(
        tmp_path / "crops", {"train": (1, 1)}, size=16, edit=lambda row: replace(row, crop=name)
    )
    with pytest.raises(UsageError, match=f"names '{name}', which"):
        read_manifest(root)


@pytest.mark.parametrize("place", ["shards", "shards/00001", "old"])
def test_a_folder_that_is_a_link_is_left_alone(
    place: str, done: Path, crops: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    if (crops / place).exists():
        (crops / place).rename(outside)
    else:
        outside.mkdir()
    (crops / place).symlink_to(outside)
    before = tree_hashes(outside)
    with pytest.raises(UsageError, match="which leads out of the folder"):
        run(done / "photos", crops)
    assert tree_hashes(outside) == before


@pytest.mark.parametrize("place", ["shards", "shards/00001", "plan.csv"])
def test_a_part_that_leads_out_is_not_merged(place: str, done: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(done / "part", tmp_path / "part"))
    (part / place).rename(tmp_path / "outside")
    (part / place).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="which leads out of the folder"):
        merge_crops(tmp_path / "merged", [part])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("place", ["job.json", "shards/00001/shard.json", "manifest.csv"])
def test_a_pipe_does_not_hang_anybody(place: str, done: Path, crops: Path) -> None:
    (crops / place).unlink()
    os.mkfifo(crops / place)
    with pytest.raises(UsageError, match=r"no regular file|is damaged|not as it was written"):
        set_up(crops)
    with pytest.raises(UsageError, match=r"regular file"):
        run(done / "photos", crops)
