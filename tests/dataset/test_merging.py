"""Parts of a crop job become the very folder of the undivided job, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.dataset import crop_folder, cropping
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import JOB_FILE, MANIFEST_FILE, SOURCES_FILE, read_manifest
from deepfake.dataset.merging import merge_crops
from deepfake.errors import JobError, UsageError
from deepfake.faces.pipeline import iter_extractions
from deepfake.jobs.parts import Division, JobPart
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Extraction, Source, Status, Workers
from tests.fakes import (
    each_change,
    portrait,
    run_and_die,
    tree_hashes,
    write_photo,
    write_portraits,
)
from tests.stores.made_stores import copy_tree, empty_memory

REPO = Path(__file__).resolve().parents[2]
SPEC = CropSpec(size=64)
Found = dict[str, Extraction]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photos, one of them bad: three shards of two, and one of one."""
    root = write_portraits(tmp_path_factory.mktemp("photos"), 6)
    (root / "fake" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    return root


@pytest.fixture(scope="module")
def found(photos: Path) -> Found:
    return {s.id: e for s, e in iter_extractions(discover(photos).sources, SPEC, Workers(0))}


@pytest.fixture
def known(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction is not what is tried here."""
    monkeypatch.setattr(
        cropping, "iter_extractions", lambda sources, *rest: ((s, found[s.id]) for s in sources)
    )


def crop(photos: Path, output: Path, part: str | None = None, **options: Any) -> Path:
    settings: dict[str, Any] = {"workers": Workers(0), "quiet": True} | options
    spec, shard_size = settings.pop("spec", SPEC), settings.pop("shard_size", 2)
    division = Division(None if part is None else JobPart.parse(part), shard_size)
    crop_media(str(photos), output, spec, division=division, **settings)
    return output


def crop_parts(photos: Path, folder: Path, of: int) -> list[Path]:
    return [crop(photos, folder / f"{i}", f"{i}/{of}") for i in range(1, of + 1)]


@pytest.fixture
def whole(photos: Path, known: None, tmp_path: Path) -> dict[str, str]:
    return tree_hashes(crop(photos, tmp_path / "whole"))


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_merged_is_what_was_never_divided(
    photos: Path, whole: dict[str, str], tmp_path: Path, of: int
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", of)
    before = [tree_hashes(part) for part in parts]
    report = merge_crops(tmp_path / "merged", parts[::-1])
    assert tree_hashes(tmp_path / "merged") == whole
    assert [tree_hashes(part) for part in parts] == before
    assert (report.inputs, report.crops) == (7, 6)
    # It goes on like any crop folder, and merging again is no work.
    crop(photos, tmp_path / "merged")
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == whole


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        yield store


def test_parts_in_a_store_are_merged_there_or_here(
    photos: Path, whole: dict[str, str], memory: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    for number, part in enumerate(crop_parts(photos, tmp_path / "parts", 2), start=1):
        copy_tree(part, memory, f"b/parts/{number}")
    memory.pipe_file("/b/parts/1/shards/../../../escaped", b"")
    reads: list[str] = []
    real = type(memory).cat_file

    def note(self: Any, path: str, *more: Any, **part: Any) -> Any:
        reads.append(path)
        return real(self, path, *more, **part)

    monkeypatch.setattr(type(memory), "cat_file", note)
    parts = ["memory://b/parts/1", "memory://b/parts/2/", "--job", str(tmp_path / "job")]
    assert cli.merge([*parts, "--output", str(tmp_path / "here")]) == 0
    assert tree_hashes(tmp_path / "here") == whole
    assert len(reads) == len([name for name in memory.find("/b/parts") if ".." not in name])
    assert not list(tmp_path.rglob("escaped"))

    # Another day a part has other files; what lay in its copy and is no more there goes.
    copies = sorted((tmp_path / "job").glob("part-1-*/shards/00000/crops/*"))
    (copies[0].parent / "stray.jpg").write_text("of an earlier state")
    copies[0].write_bytes(b"damaged on this disk")
    reads.clear()
    assert cli.merge([*parts, "--output", "memory://b/crops"]) == 0
    assert len([name for name in reads if "/parts/" in name]) == 1
    for path in memory.find("/b/crops"):
        target = tmp_path / "there" / path.removeprefix("/b/crops/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(memory.cat_file(path))
    assert tree_hashes(tmp_path / "there") == whole


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["memory://b/1"], "memory://b/1 lies in a store: name a folder of this disk with --job"),
        (["memory://b/1", "--job", "job"], "memory://b/1: no part of a job lies there, or its up"),
        (["https://host/1", "--job", "job"], "a web server has no folders; copy the parts to a"),
    ],
)
def test_refuses_parts_in_a_store_that_are_not_there(
    words: list[str], problem: str, memory: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    memory.pipe_file("/b/1/manifest.csv", b"of an upload that was stopped")
    monkeypatch.chdir(tmp_path)
    assert cli.merge([*words, "--output", "crops"]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "crops").exists()


def test_a_part_without_inputs_is_a_part(photos: Path, known: None, tmp_path: Path) -> None:
    parts = crop_parts(photos, tmp_path, 5)
    assert sum(len([*part.glob("shards/*")]) for part in parts) == 4
    (empty,) = [part for part in parts if not [*part.glob("shards/*")]]
    assert (empty / SOURCES_FILE).read_text().count("\n") == 1


def test_the_disk_is_not_filled_twice(photos: Path, known: None, tmp_path: Path) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 2)
    merge_crops(tmp_path / "merged", parts)
    crops = [*(tmp_path / "merged").rglob("*.jpg")]
    assert len(crops) == 6
    assert {path.stat().st_nlink for path in crops} == {2}


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK], ids=os.strerror)
def test_without_links_files_are_copied(
    photos: Path,
    whole: dict[str, str],
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, "no links")

    parts = crop_parts(photos, tmp_path / "parts", 2)
    monkeypatch.setattr(os, "link", refuse)
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == whole


@each_change
def test_killed_before_any_change_and_run_again_is_the_same(
    photos: Path, whole: dict[str, str], tmp_path: Path, stride: int
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 3)
    event = 0
    while run_and_die(partial(merge_crops, tmp_path / f"{event}", parts), event):
        merge_crops(tmp_path / f"{event}", parts)
        assert tree_hashes(tmp_path / f"{event}") == whole, f"killed before {event}"
        event += stride
    assert event > 40  # it did die on the way


def run_command(*words: object) -> None:
    command = [sys.executable, "crop.py", *map(str, words), "--size", "64", "--quiet"]
    subprocess.run(
        [*command, "--shard-size", "2", "--workers", "0"],
        cwd=REPO,
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
def test_killed_by_the_system_and_run_again_is_the_same(
    photos: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 3)
    output = tmp_path / "merged"
    code = "import sys; from deepfake.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "merge", str(output), *map(str, parts)]
    for number in range(4):
        process = subprocess.Popen(command, cwd=REPO)
        while len([*output.glob("shards/*")]) < number and process.poll() is None:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=REPO).returncode == 0
    assert tree_hashes(output) == whole


@pytest.mark.slow
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_processes_that_do_not_know_each_other(photos: Path, tmp_path: Path, of: int) -> None:
    crop(photos, tmp_path / "whole")
    parts = [tmp_path / f"{number}" for number in range(1, of + 1)]
    for number, part in enumerate(parts, 1):
        run_command(photos, part, "--shard", f"{number}/{of}")
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == tree_hashes(tmp_path / "whole")


def test_a_full_disk_is_survived(
    photos: Path, whole: dict[str, str], small_disk: Path, tmp_path: Path
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 2)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((512 - 40) * 1024))
    with pytest.raises(JobError, match=r"no space left while writing .*merged; .* run the same"):
        merge_crops(small_disk / "merged", parts)
    finished = tree_hashes(small_disk / "merged" / "shards")
    assert 0 < len([name for name in finished if "/" not in name]) < 4
    ballast.unlink()
    merge_crops(small_disk / "merged", parts)
    assert tree_hashes(small_disk / "merged") == whole
    assert finished.items() <= tree_hashes(small_disk / "merged" / "shards").items()


@pytest.mark.parametrize("fits", [0, 3, 9, 16])
def test_no_space_at_any_write_is_survived(
    photos: Path, whole: dict[str, str], tmp_path: Path, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 2)
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > fits:
            raise OSError(errno.ENOSPC, "full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError, match=r"no space left while writing .*; .* run the same command"):
        merge_crops(tmp_path / "merged", parts)
    monkeypatch.undo()
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == whole


# Refusals


def drop(name: str) -> Callable[[Path], object]:
    return lambda part: (part / name).unlink()


def edit_job(**changes: object) -> Callable[[Path], object]:
    def edit(part: Path) -> None:
        job = json.loads((part / JOB_FILE).read_text())
        (part / JOB_FILE).write_text(json.dumps(job | changes))

    return edit


def forget_the_end(part: Path) -> None:
    """As a kill leaves it before the last change."""
    job = json.loads((part / JOB_FILE).read_text())
    del job["results"]
    (part / JOB_FILE).write_text(json.dumps(job))


def edit_version(part: Path) -> None:
    job = json.loads((part / JOB_FILE).read_text())
    job["versions"]["torch"] = "1.0"
    (part / JOB_FILE).write_text(json.dumps(job))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            forget_the_end,
            r"part 2/3 in .*2 is unfinished; go on with .*: deepfake crop with --shard 2/3 and",
        ),
        (drop(MANIFEST_FILE), r"part 2/3 in .* is damaged \(manifest\.csv\); mend it with its own"),
        (
            lambda part: (part / SOURCES_FILE).write_bytes(b""),
            r"part 2/3 in .* is damaged \(sources\.csv\)",
        ),
        (
            lambda part: next(part.rglob("*.jpg")).unlink(),
            r"part 2/3 in .* is damaged \(00001\); mend it with .* --shard 2/3",
        ),
        (lambda part: shutil.rmtree(part / "shards" / "00001"), "is damaged"),
        (edit_version, r"1 and .*2 are of different jobs: torch='.*' and '1\.0'; parts of one job"),
        (edit_job(block_size=5), "are of different jobs: block_size=2 and 5"),
        (edit_job(part="2/4"), "is part 1/3 and .* is part 2/4"),
        (edit_job(part="1/3"), "are both part 1/3"),
        (edit_job(part=None), "is a whole job, not a part of one"),
        (edit_job(part="x"), "shard 'x': expected I/N"),
        (
            lambda part: (part / "plan.csv").write_text("x"),
            "is not the plan that job.json tells of",
        ),
        (drop("plan.csv"), r"plan\.csv is not the plan that job\.json tells of"),
        (drop(JOB_FILE), r"is not a crop folder \(no job\.json\)"),
    ],
    ids=[
        "unfinished",
        "no-manifest",
        "sources-emptied",
        "crop-gone",
        "shard-gone",
        "versions",
        "shard-size",
        "of",
        "number",
        "whole",
        "nonsense",
        "plan",
        "no-plan",
        "no-job",
    ],
)
def test_refuses_parts_that_do_not_fit(
    photos: Path, known: None, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 3)
    damage(parts[1])
    with pytest.raises(UsageError, match=message):
        merge_crops(tmp_path / "merged", parts)
    assert not (tmp_path / "merged").exists()


def test_refuses_parts_of_other_recipes_and_inputs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(sources: list[Source], *rest: object) -> Iterator[tuple[Source, Extraction]]:
        return ((source, Extraction(Status.NO_FACE, "no_face: none")) for source in sources)

    monkeypatch.setattr(cropping, "iter_extractions", none)
    first = crop(photos, tmp_path / "1", "1/2")
    other = crop(photos, tmp_path / "2", "2/2", spec=replace(SPEC, min_face=50))
    with pytest.raises(UsageError, match="of different jobs: min_face=40 and 50; parts of one"):
        merge_crops(tmp_path / "merged", [first, other])
    shutil.copytree(photos, tmp_path / "more")
    write_photo(tmp_path / "more" / "real" / "new.png", portrait())
    changed = crop(tmp_path / "more", tmp_path / "3", "2/2")
    with pytest.raises(UsageError, match="one to the other, inputs were 1 added, 0 removed, 0 mod"):
        merge_crops(tmp_path / "merged", [first, changed])
    with pytest.raises(UsageError, match="part 2/2 is missing"):
        merge_crops(tmp_path / "merged", [first])
    with pytest.raises(UsageError, match="are both part 1/2"):
        merge_crops(tmp_path / "merged", [first, first])


def test_refuses_an_output_that_is_something_else(
    photos: Path, known: None, tmp_path: Path
) -> None:
    parts = crop_parts(photos, tmp_path / "parts", 2)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        merge_crops(tmp_path / "file", parts)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no crop job"):
        merge_crops(tmp_path / "mine", parts)
    with pytest.raises(UsageError, match="begun with part='1/2', now it is its default"):
        merge_crops(parts[0], parts)
    other = crop(photos, tmp_path / "other", spec=replace(SPEC, jpeg_quality=90))
    with pytest.raises(UsageError, match="begun with jpeg_quality=90, now it is 95"):
        merge_crops(other, parts)


def test_goes_on_with_its_own_part_only(photos: Path, known: None, tmp_path: Path) -> None:
    part = crop(photos, tmp_path / "part", "1/2")
    with pytest.raises(UsageError, match="begun with part='1/2', now it is '2/2'; name a new"):
        crop(photos, part, "2/2")
    with pytest.raises(UsageError, match="begun with part='1/2', now it is its default"):
        crop(photos, part)
    before = tree_hashes(part)
    crop(photos, part, "1/2")
    assert tree_hashes(part) == before


def test_a_part_is_not_trained_on_by_mistake(photos: Path, known: None, tmp_path: Path) -> None:
    part = crop(photos, tmp_path / "part", "1/2")
    with pytest.raises(UsageError, match=r"holds part 1/2 of a crop job; put .* deepfake merge"):
        read_manifest(part)


def test_a_job_file_without_its_numbers_is_refused(
    photos: Path, known: None, tmp_path: Path
) -> None:
    part = crop(photos, tmp_path / "part", "1/1")
    job = json.loads((part / JOB_FILE).read_text())
    del job["inputs"]
    (part / JOB_FILE).write_text(json.dumps(job))
    with pytest.raises(UsageError, match=r"job\.json lacks 'inputs'; was it edited"):
        merge_crops(tmp_path / "merged", [part])


def test_merging_imports_no_network() -> None:
    code = (
        "import sys, deepfake.dataset.merging, deepfake.jobs.merging\n"
        "print(sorted({'torch', 'cv2', 'av', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_shard_is_joined_without_its_header(tmp_path: Path) -> None:
    for shard, text in ((0, "h\na\n"), (1, "h\n"), (2, 'h\n"b, b"\n')):
        (tmp_path / f"{shard}.csv").write_text(text)
    tables = [tmp_path / f"{shard}.csv" for shard in range(3)]
    assert b"".join(crop_folder._join(["h"], tables)) == b'h\na\n"b, b"\n'
