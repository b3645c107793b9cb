"""The crop job: every input accounted for, and the same bytes whatever happens on the way."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake.dataset import cropping
from deepfake.dataset.crop_folder import KIND, CropReport
from deepfake.dataset.crop_store import StoreKind
from deepfake.dataset.cropping import CropBlocks
from deepfake.dataset.manifest import JOB_FILE, MANIFEST_FILE, SOURCES_FILE, read_job, read_manifest
from deepfake.dataset.rows import SOURCE_COLUMNS
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import iter_extractions
from deepfake.jobs.engine import Job, run_here
from deepfake.jobs.folder import JobFolder
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Extraction, Sampling, Source, Status, Workers
from deepfake.stores import objects
from deepfake.tables import read_csv
from tests.dataset.made_jobs import REPO, SHARD, SPEC, Done, begin, command, run
from tests.fakes import each_change, run_and_die, tree_hashes, write_portraits
from tests.jobs.made_executor import work_elsewhere
from tests.stores.made_stores import copy_tree, empty_memory


def test_every_input_has_one_row_and_counts_add_up(few: Path, tmp_path: Path) -> None:
    before = tree_hashes(few)
    report = run(few, tmp_path / "crops", replace(SPEC, faces="all", search="exact"))
    assert tree_hashes(few) == before
    rows = read_csv(tmp_path / "crops" / SOURCES_FILE, SOURCE_COLUMNS)
    assert [row["path"] for row in rows] == [source.name for source in discover(few).sources]
    assert Counter(row["status"] for row in rows) == report.statuses
    assert report.statuses == {"ok": 7, "no_face": 1, "too_small": 1, "unreadable": 1}
    assert all((row["status"] == "ok") == (int(row["faces"]) > 0) for row in rows)
    assert all(row["status"] == "ok" or row["reason"] for row in rows)
    manifest = read_manifest(tmp_path / "crops")
    assert Counter(row.source for row in manifest.rows) == {
        row["id"]: int(row["faces"]) for row in rows if int(row["faces"])
    }
    assert len(manifest.rows) == report.crops >= 10
    assert str(report) == (
        f"10 inputs = 7 ok + 1 no_face + 1 too_small + 1 unreadable -> {report.crops} crops in "
        f"{tmp_path / 'crops'}; 1 files of other kinds skipped (1 .txt)"
    )


def test_folder_holds_nothing_but_the_job(few_done: Done) -> None:
    names = {name.split("/")[0] for name in few_done.tree}
    assert names == {"job.json", "plan.csv", "manifest.csv", "sources.csv", "shards"}


def test_crops_are_where_the_manifest_says(few: Path, tmp_path: Path) -> None:
    run(few, tmp_path / "crops", replace(SPEC, jpeg_quality=None))
    manifest = read_manifest(tmp_path / "crops")
    assert manifest.spec == replace(SPEC, jpeg_quality=None)
    stored = {p.relative_to(tmp_path / "crops").as_posix() for p in tmp_path.rglob("*.png")}
    assert {row.crop for row in manifest.rows} == stored
    for row in manifest.rows:
        assert decode_crop((tmp_path / "crops" / row.crop).read_bytes()).shape == (64, 64, 3)
        assert row.label in (0, 1)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_one_and_two_workers_write_the_same_bytes(
    few_done: Done, tmp_path: Path, workers: int
) -> None:
    run(few_done.photos, tmp_path / "crops", workers=Workers(workers))
    assert tree_hashes(tmp_path / "crops") == few_done.tree


def test_a_second_run_changes_nothing(
    few_done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(few_done.photos, tmp_path / "crops")
    shards = sorted((tmp_path / "crops" / "shards").rglob("*"))
    times = [path.stat().st_mtime_ns for path in shards]
    seen: list[Source] = []
    real = iter_extractions

    def counted(sources: list[Source], *rest: Any) -> Iterator[tuple[Source, Extraction]]:
        seen.extend(sources)
        return real(sources, *rest)

    monkeypatch.setattr(cropping, "iter_extractions", counted)
    second = run(few_done.photos, tmp_path / "crops")
    assert second == replace(first, was_finished=True)
    assert seen == []
    assert tree_hashes(tmp_path / "crops") == few_done.tree
    assert [path.stat().st_mtime_ns for path in shards] == times


@pytest.mark.slow
def test_another_engine_crops_to_the_same_bytes(few: Path, tmp_path: Path) -> None:
    for name, execute in (("here", run_here), ("there", work_elsewhere)):
        (tmp_path / name).mkdir()
        job = Job(JobFolder(tmp_path / name, KIND), discover(few).sources, SHARD)
        job.begin([], {})
        work = CropBlocks(SPEC, Sampling(), Workers(0))
        assert len(list(job.run(job.find_todo(), work, execute))) == job.n_blocks
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there")


# Killed at any instant


def kill_at(process: subprocess.Popen[bytes], ready: Callable[[], bool], delay_s: float) -> bool:
    """Send SIGKILL a while after something can be seen; whether it was still running."""
    while not ready() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay_s)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def kill_and_resume(
    done: Done, output: Path, workers: int, kills: int, seed: int, store: StoreKind = "folder"
) -> None:
    rng = random.Random(seed)
    n_shards = 10
    killed = 0
    for number in range(kills):
        goal = number * n_shards // kills
        process = subprocess.Popen(
            [*command(done.photos, output, workers), "--store", store],
            cwd=REPO,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        killed += kill_at(
            process,
            lambda goal=goal: len([*output.glob("shards/*")]) >= goal and output.exists(),  # type: ignore[misc]
            rng.uniform(0, 0.1),
        )
    assert killed > 0
    # The last run does not have to have as many workers as the first.
    run(done.photos, output, store=store)
    assert tree_hashes(output) == done.tree


def test_killed_twice_and_resumed_is_the_same(many_done: Done, tmp_path: Path) -> None:
    kill_and_resume(many_done, tmp_path / "crops", workers=0, kills=2, seed=0)


@pytest.mark.slow
def test_killed_ten_times_and_resumed_is_the_same(many_done: Done, tmp_path: Path) -> None:
    kill_and_resume(many_done, tmp_path / "crops", workers=1, kills=10, seed=1)


@pytest.mark.slow
def test_killed_while_it_writes_tars_and_resumed_is_the_same(
    many_done: Done, tmp_path: Path
) -> None:
    run(many_done.photos, tmp_path / "clean", store="tar")
    clean = Done(many_done.photos, tree_hashes(tmp_path / "clean"))
    kill_and_resume(clean, tmp_path / "crops", workers=1, kills=10, seed=2, store="tar")


@each_change
def test_killed_before_any_change_and_resumed_is_the_same(
    few_done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    # Extraction is not what is tried here, and torch does not like forks.
    found = {
        s.id: e for s, e in iter_extractions(discover(few_done.photos).sources, SPEC, Workers(0))
    }
    monkeypatch.setattr(
        cropping, "iter_extractions", lambda sources, *rest: ((s, found[s.id]) for s in sources)
    )
    event = 0
    while run_and_die(partial(run, few_done.photos, tmp_path / f"{event}"), event):
        run(few_done.photos, tmp_path / f"{event}")
        assert tree_hashes(tmp_path / f"{event}") == few_done.tree, f"killed before {event}"
        event += stride
    assert event > 40  # it did die on the way
    assert tree_hashes(tmp_path / f"{event}") == few_done.tree


# Damage


def drop_crop(shard: Path) -> None:
    next(shard.glob("crops/*")).unlink()


def cut_sources(shard: Path) -> None:
    table = shard / SOURCES_FILE
    table.write_text(table.read_text()[:-30])


def drop_manifest_row(shard: Path) -> None:
    table = shard / MANIFEST_FILE
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    "damage",
    [
        drop_crop,
        cut_sources,
        drop_manifest_row,
        lambda shard: (shard / MANIFEST_FILE).unlink(),
        lambda shard: (shard / SOURCES_FILE).write_bytes(b"\0"),
        shutil.rmtree,
    ],
    ids=["crop-gone", "sources-cut", "row-gone", "manifest-gone", "zeros", "shard-gone"],
)
def test_a_damaged_shard_is_made_again(
    few_done: Done, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run(few_done.photos, tmp_path / "crops")
    damage(tmp_path / "crops" / "shards" / "00001")
    run(few_done.photos, tmp_path / "crops")
    assert tree_hashes(tmp_path / "crops") == few_done.tree


# A full disk


def test_stops_before_the_disk_is_full_and_goes_on(
    few_done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def usage(path: Path) -> Any:
        nonlocal calls
        calls += 1
        return shutil._ntuple_diskusage(1, 1, 10**9 if calls < 3 else 5)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(JobError, match=r"no space left in .*: the next shard needs about 0 MB"):
        run(few_done.photos, tmp_path / "crops")
    assert sorted(p.name for p in (tmp_path / "crops" / "shards").iterdir()) == ["00000", "00001"]
    monkeypatch.undo()
    run(few_done.photos, tmp_path / "crops")
    assert tree_hashes(tmp_path / "crops") == few_done.tree


@pytest.mark.parametrize("room_kb", [0, 8, 24, 60])
def test_a_full_disk_is_survived(
    few_done: Done, small_disk: Path, room_kb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the check beforehand, so that the writes themselves fail.
    monkeypatch.setattr(cropping, "_check_space", lambda block, spec: None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((512 - room_kb) * 1024))
    for _ in range(2):  # nor does it help to try again
        with pytest.raises(JobError, match=r"no space left while writing .* free some space and"):
            run(few_done.photos, small_disk / "crops")
    ballast.unlink()
    run(few_done.photos, small_disk / "crops")
    assert tree_hashes(small_disk / "crops") == few_done.tree


# What arrives in the tables


def test_odd_names_arrive(tmp_path: Path) -> None:
    names = [
        "real/with space.png",
        "real/ünï 山.png",
        "fake/new\nline.png",
        'fake/comma, "quote".png',
        "fake/-rf.png",
        "fake/back\\slash.png",
        f"real/{'n' * 250}.png",
        os.fsdecode(b"real/id\xff\r/\xfe.png"),
        "a/real/same.png",
        "b/real/same.png",
    ]
    write_portraits(tmp_path / "photos", len(names), names=names)
    report = run(tmp_path / "photos", tmp_path / "crops")
    assert report.statuses == {"ok": len(names)}
    manifest = read_manifest(tmp_path / "crops")
    ids = {source.name: source.id for source in discover(tmp_path / "photos").sources}
    assert set(ids) == set(names)
    assert {row.source for row in manifest.rows} == set(ids.values())
    assert len({row.crop for row in manifest.rows}) == len(names)
    rows = {row["id"]: row for row in read_csv(tmp_path / "crops" / SOURCES_FILE, SOURCE_COLUMNS)}
    assert rows[ids["fake/new\nline.png"]]["path"] == r"fake/new\nline.png"
    assert rows[ids[names[7]]]["group"] == r"id\xff\r"
    again = tree_hashes(tmp_path / "crops")
    run(tmp_path / "photos", tmp_path / "crops")
    assert tree_hashes(tmp_path / "crops") == again


def test_facts_of_a_table_arrive_in_the_manifest(tmp_path: Path) -> None:
    write_portraits(tmp_path, 3, names=["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text(
        "path,label,group,split,method\n"
        "b.png,fake,pair 1,val,face swap\n"
        "a.png,real,pair 1,train,\n"
        "./a.png,0,pair 1,train,\n"
        "c.png,1,,,\n"
        "gone.png,1,g,,\n"
    )
    report = run(tmp_path / "labels.csv", tmp_path / "crops")
    assert (report.inputs, report.crops, report.duplicates) == (4, 3, 1)
    assert str(report).endswith("; 1 repeated lines left out")
    manifest = read_manifest(tmp_path / "crops")
    assert [(row.label, row.group, row.split, row.method) for row in manifest.rows] == [
        (1, "pair 1", "validation", "face swap"),
        (0, "pair 1", "train", ""),
        (1, manifest.rows[2].source, "", ""),
    ]
    with (tmp_path / "crops" / SOURCES_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["status"], row["label"]) for row in rows] == [
        ("b.png", "ok", "fake"),
        ("a.png", "ok", "real"),
        ("c.png", "ok", "fake"),
        ("gone.png", "unreadable", "fake"),
    ]


def test_job_file_tells_the_recipe_and_no_time_or_host(few_done: Done, tmp_path: Path) -> None:
    output = begin(few_done.photos, tmp_path / "crops")
    job = read_job(output)
    assert CropSpec.from_dict(job["crop_spec"]) == SPEC
    settings = {"crop_spec", "sampling", "landmarks", "versions"}
    division = {"inputs", "block_size", "part", "plan_sha256"}
    assert set(job) == settings | division
    assert (job["inputs"], job["block_size"], job["part"]) == (10, SHARD, None)
    plan = (output / "plan.csv").read_bytes()
    assert job["plan_sha256"] == hashlib.sha256(plan).hexdigest()
    assert (output / JOB_FILE).read_bytes().endswith(b"}\n")


def test_report_of_nothing() -> None:
    report = CropReport(Path("x"), Counter({Status.OK.value: 1234}), 1234)
    assert str(report) == (
        "1,234 inputs = 1,234 ok + 0 no_face + 0 too_small + 0 unreadable -> 1,234 crops in x"
    )


def test_a_folder_in_a_store_becomes_the_crops_of_the_folder(
    few_done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results() -> dict[str, str]:
        tree = tree_hashes(tmp_path / "crops")
        # The seals of shards tell versions of objects in place of hashes of files.
        return {name: found for name, found in tree.items() if not name.endswith("shard.json")}

    with empty_memory() as memory:
        copy_tree(few_done.photos, memory, "few")
        real = memory.cat_file

        def refuse(path: str, **options: Any) -> bytes:
            if path.endswith("montage.jpg"):
                raise PermissionError("not today")
            data: bytes = real(path, **options)
            return data

        monkeypatch.setattr(memory, "cat_file", refuse)
        monkeypatch.setattr(objects, "open_store", lambda scheme, other_stores: memory)
        assert run("memory://few", tmp_path / "crops").statuses["unreadable"] == 2
        rows = read_csv(tmp_path / "crops" / SOURCES_FILE, SOURCE_COLUMNS)
        assert [row["reason"] for row in rows if row["path"] == "real/montage.jpg"] == [
            "io_error: not today"
        ]
        monkeypatch.setattr(memory, "cat_file", real)
        run("memory://few", tmp_path / "crops")
        assert results().items() < few_done.tree.items()
        assert len(few_done.tree) - len(results()) == len(list(tmp_path.rglob("shard.json")))
        assert run("memory://few", tmp_path / "crops").was_finished


def test_the_most_pixels_are_a_setting_of_the_job(few: Path, tmp_path: Path) -> None:
    small = Workers(0, max_pixels=1000)
    assert run(few, tmp_path / "crops", workers=small).statuses["ok"] == 0
    assert run(few, tmp_path / "crops", workers=small).was_finished
    with pytest.raises(UsageError, match="begun with max_pixels=1000, now it is its default"):
        run(few, tmp_path / "crops")
