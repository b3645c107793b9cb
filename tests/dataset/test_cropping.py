"""The crop job: every input accounted for, and the same bytes whatever happens on the way."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepfake.dataset import cropping
from deepfake.dataset.crop_folder import CropReport
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.layouts import InputOptions
from deepfake.dataset.manifest import (
    JOB_FILE,
    MANIFEST_FILE,
    SOURCE_COLUMNS,
    SOURCES_FILE,
    read_job,
    read_manifest,
)
from deepfake.dataset.parts import Division
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import iter_extractions
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Extraction, Source, Status, Workers
from deepfake.storage import LOCK_NAMES
from deepfake.tables import read_csv
from tests.fakes import montage, portrait, run_and_die, tree_hashes, write_photo, write_portraits

REPO = Path(__file__).resolve().parents[2]
SPEC = CropSpec(size=64)
SHARD = 4


def run(source: Path | str, output: Path, spec: CropSpec = SPEC, **options: Any) -> CropReport:
    settings: dict[str, Any] = {"workers": Workers(0), "quiet": True} | options
    division = Division(None, settings.pop("shard_size", SHARD))
    return crop_media(str(source), output, spec, division=division, **settings)


def command(source: Path, output: Path, workers: int) -> list[str]:
    return [
        *(sys.executable, "crop.py", str(source), str(output), "--size", "64", "--quiet"),
        *("--shard-size", str(SHARD), "--workers", str(workers)),
    ]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos, some of them bad."""
    root = write_portraits(tmp_path_factory.mktemp("few"), 6)
    write_photo(root / "real" / "montage.jpg", montage())
    write_photo(root / "fake" / "plain.png", portrait() // 200)
    write_photo(root / "fake" / "tiny.png", portrait()[:30])
    (root / "fake" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (root / "notes.txt").write_text("no photo")
    return root


class Done(NamedTuple):
    photos: Path
    tree: dict[str, str]


@pytest.fixture(scope="module")
def few_done(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    output = tmp_path_factory.mktemp("few_done") / "crops"
    run(few, output)
    return Done(few, tree_hashes(output))


@pytest.fixture(scope="module")
def many_done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Forty portraits and what a clean run makes of them."""
    folder = tmp_path_factory.mktemp("many")
    photos = write_portraits(folder / "photos", 40)
    run(photos, folder / "crops")
    return Done(photos, tree_hashes(folder / "crops"))


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


def test_one_and_two_workers_write_the_same_bytes(few_done: Done, tmp_path: Path) -> None:
    for workers in (1, 2):
        run(few_done.photos, tmp_path / str(workers), workers=Workers(workers))
        assert tree_hashes(tmp_path / str(workers)) == few_done.tree


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
    assert second == first
    assert seen == []
    assert tree_hashes(tmp_path / "crops") == few_done.tree
    assert [path.stat().st_mtime_ns for path in shards] == times


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


def kill_and_resume(done: Done, output: Path, workers: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    n_shards = 10
    killed = 0
    for number in range(kills):
        goal = number * n_shards // kills
        process = subprocess.Popen(
            command(done.photos, output, workers),
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
    run(done.photos, output)
    assert tree_hashes(output) == done.tree


def test_killed_twice_and_resumed_is_the_same(many_done: Done, tmp_path: Path) -> None:
    kill_and_resume(many_done, tmp_path / "crops", workers=0, kills=2, seed=0)


@pytest.mark.slow
def test_killed_ten_times_and_resumed_is_the_same(many_done: Done, tmp_path: Path) -> None:
    kill_and_resume(many_done, tmp_path / "crops", workers=1, kills=10, seed=1)


def test_killed_before_any_change_and_resumed_is_the_same(
    few_done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        event += 1
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


# Refusals


def begin(source: Path, output: Path) -> Path:
    """A job that was begun, as cheaply as possible: its plan, and no shard."""
    with pytest.raises(KeyError, match="stop"):
        run_with(source, output)
    return output


def run_with(source: Path, output: Path) -> None:
    def stop(*arguments: object) -> Iterator[tuple[Source, Extraction]]:
        raise KeyError("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cropping, "iter_extractions", stop)
        run(source, output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"spec": replace(SPEC, size=80)}, "begun with size=64, now it is 80", id="size"
        ),
        pytest.param(
            {"spec": CropSpec.from_preset("dacon", size=64)},
            "begun with preset='square', now it is 'dacon'; name a new folder",
            id="preset",
        ),
        pytest.param(
            {"shard_size": 5}, "begun with shard_size=4, now it is 5; name a new", id="shard-size"
        ),
    ],
)
def test_refuses_to_go_on_with_other_settings(
    few: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    output = begin(few, tmp_path / "crops")
    before = tree_hashes(output)
    with pytest.raises(UsageError, match=message):
        run(few, output, **options)
    assert tree_hashes(output) == before


def test_refuses_to_go_on_with_other_packages(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = begin(few, tmp_path / "crops")
    monkeypatch.setattr(cropping, "version", lambda name: "99")
    with pytest.raises(UsageError, match=r"begun with facenet-pytorch='2.*', now it is '99'"):
        run(few, output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda root: write_photo(root / "real" / "new.png", portrait()),
            "have changed since it was begun: 1 added, 0 removed, 0 modified",
            id="added",
        ),
        pytest.param(
            lambda root: (root / "real" / "id0" / "000.png").unlink(),
            "0 added, 1 removed, 0 modified",
            id="removed",
        ),
        pytest.param(
            lambda root: (root / "real" / "id0" / "000.png").write_bytes(b"x"),
            "0 added, 0 removed, 1 modified",
            id="modified",
        ),
        pytest.param(
            lambda root: (root / "real").rename(root / "fake" / "more"),
            "1 added, 1 removed, 0 modified",
            id="moved",
        ),
    ],
)
def test_refuses_changed_inputs(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    photos = write_portraits(tmp_path / "photos", 2)
    output = begin(photos, tmp_path / "crops")
    change(photos)
    with pytest.raises(UsageError, match=message):
        run(photos, output)


def test_refuses_changed_labels(tmp_path: Path) -> None:
    write_portraits(tmp_path, 1, names=["a.png"])
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,real\n")
    output = begin(table, tmp_path / "crops")
    table.write_text("path,label\na.png,fake\n")
    with pytest.raises(UsageError, match="0 added, 0 removed, 1 modified"):
        run(table, output)


@pytest.mark.parametrize("name", ["holiday.jpg", ".tmp-mine/photo.jpg", "shards/x"])
def test_refuses_a_foreign_folder_and_leaves_it_alone(few: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "mine"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_bytes(b"mine")
    before = tree_hashes(output)
    with pytest.raises(UsageError, match=r"is not empty and holds no crop job .*; name"):
        run(few, output)
    assert tree_hashes(output) == before


def test_refuses_a_file_as_output(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "crops"):
        with pytest.raises(UsageError, match="is a file; name a folder for the crops"):
            run(few, output)


def test_refuses_nesting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_portraits(tmp_path / "photos", 1)
    monkeypatch.chdir(photos)
    (tmp_path / "link").symlink_to(photos)
    for source, output in (
        (photos, photos / "real" / "crops"),
        (photos, photos),
        (Path(), Path("crops")),
        (tmp_path / "link", photos / "crops"),
        (photos, tmp_path / "link" / "crops"),
    ):
        with pytest.raises(UsageError, match=r"lies inside the input .*; crops must not become"):
            run(source, output)
    assert not (photos / "crops").exists()
    crops = begin(photos, tmp_path / "crops")
    with pytest.raises(UsageError, match=r"the input .* lies inside the crop folder"):
        run(crops / "shards", crops)


def test_refuses_no_shard_size_and_no_labels(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.png", portrait())
    with pytest.raises(UsageError, match="shard_size=0; expected 1 or more"):
        run(tmp_path / "photos", tmp_path / "crops", shard_size=0)
    with pytest.raises(UsageError, match="1 of 1 files have no label"):
        run(tmp_path / "photos", tmp_path / "other", inputs=InputOptions(require_labels=True))
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_in_use_names_the_process(few: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deepfake.storage import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "crops").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "crops")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"is in use by process {holder.pid} on "):
            run(few, tmp_path / "crops")
        result = subprocess.run(
            command(few, tmp_path / "crops", 0), cwd=REPO, capture_output=True, text=True
        )
        assert result.returncode == 2
        assert f"is in use by process {holder.pid} on " in result.stderr
    finally:
        holder.kill()
        holder.communicate()
    # A dead owner's lock is void.
    assert begin(few, tmp_path / "crops").exists()
    assert not any((tmp_path / "crops" / name).exists() for name in LOCK_NAMES)


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
    monkeypatch.setattr(cropping._Job, "check_space", lambda self, shard, spec: None)
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
    assert set(job) == {"crop_spec", "plan_sha256", "inputs", "sampling", "shard_size", "versions"}
    assert (job["inputs"], job["shard_size"]) == (10, SHARD)
    plan = (output / "plan.csv").read_bytes()
    assert job["plan_sha256"] == hashlib.sha256(plan).hexdigest()
    assert (output / JOB_FILE).read_bytes().endswith(b"}\n")


def test_report_of_nothing() -> None:
    report = CropReport(Path("x"), Counter({Status.OK.value: 1234}), 1234)
    assert str(report) == (
        "1,234 inputs = 1,234 ok + 0 no_face + 0 too_small + 0 unreadable -> 1,234 crops in x"
    )
