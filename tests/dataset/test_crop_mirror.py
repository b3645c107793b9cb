"""Crop folders in a store: the bytes, batches and faults of the same folder on a disk."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfake import cli
from deepfake.dataset import crop_mirror
from deepfake.dataset.crop_folder import MeshFiles, write_meshes
from deepfake.dataset.crop_index import Place
from deepfake.dataset.crop_mirror import find_crops, find_mirror, open_crops, peek_job
from deepfake.dataset.crop_store import CropStore, StoreKind
from deepfake.dataset.doctor import examine
from deepfake.dataset.manifest import read_manifest
from deepfake.errors import JobError, UsageError
from deepfake.jobs.folder import JobFolder, read_seal
from deepfake.learning.data import CropDataModule
from deepfake.stores import objects
from tests.made_crops import write_crop_folder
from tests.made_data import make, stream
from tests.stores.made_stores import copy_tree, empty_memory

COUNTS = {"train": (9, 9), "validation": (3, 3), "test": (3, 3)}
N_SHARDS = 5
URL = "memory://b/crops"
BOTH = pytest.mark.parametrize("store", ["tar", "folder"])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    monkeypatch.setattr(crop_mirror, "_MIRRORS", {})


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        yield store


@pytest.fixture
def upload(memory: Any, tmp_path: Path) -> Callable[[StoreKind], Path]:
    """Make a crop folder, and have it in the store, too."""

    def upload(kind: StoreKind) -> Path:
        root = write_crop_folder(
            tmp_path / "here" / "crops", COUNTS, size=32, originals=True, store=kind,
            n_shards=N_SHARDS,
        )  # fmt: skip
        copy_tree(root, memory, "b/crops")
        return root

    return upload


def read_all(root: Path) -> dict[str, bytes]:
    names = [row.crop for row in read_manifest(root).rows]
    store = CropStore(root, names)
    return {name: store.read(name) for name in names}


def count_reads(memory: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        reads.append(path.removeprefix("memory://b/crops/"))
        return real(self, path, *rest, **options)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    return reads


def copies_in(cache: Path) -> list[Path]:
    return [path for path in (cache / "shards").iterdir() if path.name not in (".lock", ".bytes")]


def size_of(cache: Path) -> int:
    return sum(path.stat().st_size for path in copies_in(cache))


# The same as on a disk


@BOTH
@pytest.mark.parametrize(
    ("share", "in_order"), [(2.0, False), (0.5, False), (0.5, True), (0.0001, True)]
)
def test_crops_are_those_of_the_folder_whatever_the_cache_holds(
    store: StoreKind,
    share: float,
    in_order: bool,
    upload: Callable[[StoreKind], Path],
    tmp_path: Path,
) -> None:
    root, cache = upload(store), tmp_path / "cache"
    crops = read_all(root)
    name = "crops.tar" if store == "tar" else "crops/*"
    limit = share * sum(path.stat().st_size for path in root.glob(f"shards/*/{name}"))
    mirror = open_crops(URL, cache, limit / 1e9, in_order)
    assert find_crops(URL) == find_crops(f"{URL}/") == mirror
    for _ in range(2):
        assert read_all(mirror) == crops
        assert size_of(cache) <= limit
    assert len(copies_in(cache)) == {2.0: 5, 0.5: 2, 0.0001: 0}[share]


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"balance": True, "repeat": {"": 2}},
        {"paired": True, "steps_per_epoch": 2},
        {"per_group": 2, "share": 0.5},
    ],
    ids=lambda options: " ".join(options),
)
def test_batches_are_those_of_the_folder_in_order_and_weight(
    store: StoreKind,
    options: dict[str, Any],
    upload: Callable[[StoreKind], Path],
    tmp_path: Path,
) -> None:
    here = make(upload(store), **options)
    there = make(URL, cache=str(tmp_path / "cache"), cache_gb=20e3 / 1e9, **options)
    assert there.description is not None
    assert here.description is not None
    assert there.description.manifest.sha256 == here.description.manifest.sha256
    assert there.description.counts == here.description.counts
    for loader in (CropDataModule.train_dataloader, CropDataModule.val_dataloader):
        assert stream(loader(there)) == stream(loader(here))


# What is fetched, and when


def test_each_tar_is_fetched_once_and_for_all_jobs(
    upload: Callable[[StoreKind], Path],
    memory: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = upload("tar")
    reads = count_reads(memory, monkeypatch)
    mirror = open_crops(URL, tmp_path / "cache")
    assert {path.rsplit("/", 1)[-1] for path in reads} == {
        "job.json", "manifest.csv", "sources.csv", "shard.json", "crops.csv",
    }  # fmt: skip
    reads.clear()
    read_all(mirror)
    assert sorted(reads) == [f"shards/{n:05d}/crops.tar" for n in range(N_SHARDS)]
    reads.clear()
    assert open_crops(URL, tmp_path / "cache") == mirror
    assert read_all(mirror) == read_all(root)
    assert reads == []


@BOTH
def test_a_folder_that_was_made_anew_is_read_anew(
    store: StoreKind, upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path
) -> None:
    root = upload(store)
    read_all(open_crops(URL, tmp_path / "cache"))
    shutil.rmtree(root)
    write_crop_folder(root, COUNTS, size=32, seed=1, store=store, n_shards=2)
    memory.rm("/b/crops", recursive=True)
    copy_tree(root, memory, "b/crops")
    assert read_all(open_crops(URL, tmp_path / "cache")) == read_all(root)


def test_one_process_has_several_folders_and_loaders_get_theirs(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    root = upload("tar")
    copy_tree(root, memory, "other/crops")
    one, two = (open_crops(f"memory://{b}/crops", tmp_path / "cache") for b in ("b", "other"))
    assert one != two
    names = [row.crop for row in read_manifest(root).rows]
    stored = pickle.dumps(CropStore(one, names))
    monkeypatch.setattr(crop_mirror, "_MIRRORS", {})  # as in a process that was just started
    assert pickle.loads(stored).read(names[0]) == read_all(root)[names[0]]


def test_what_lies_in_a_folder_opens_no_store(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    upload("tar")
    mirror = open_crops(URL, tmp_path / "cache")
    monkeypatch.setattr(crop_mirror, "_MIRRORS", {})
    reads = count_reads(memory, monkeypatch)
    assert find_mirror(mirror) is None
    with pytest.raises(JobError, match=r"crop .* cannot be read \(.*No such file"):
        read_all(mirror)
    assert reads == []


def test_names_that_lead_elsewhere_are_not_copied(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path
) -> None:
    upload("tar")
    for name in ("shards/../../x/shard.json", "shards/00000/../../../y", ".lock", "z.csv"):
        memory.store[f"/b/crops/{name}"] = memory.store["/b/crops/job.json"]
    mirror = open_crops(URL, tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "here"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        [mirror.name, "shards"]
    )
    assert not (mirror / "z.csv").exists()


def test_meshes_come_when_they_are_asked_for(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=32, store="tar")
    row = read_manifest(root).rows[0]
    shard = root / "shards" / "00000"
    seal = read_seal(shard)
    assert seal is not None
    mesh = np.arange(936, dtype=np.float32).reshape(468, 2)
    write_meshes(shard, {Path(row.crop).name: mesh})
    (shard / "shard.json").unlink()
    shard.rename(root / "aside")
    JobFolder(root, "crop").seal(0, root / "aside", seal.inputs)
    copy_tree(root, memory, "b/crops")
    mirror = open_crops(URL, tmp_path / "cache")
    assert not (mirror / "shards" / "00000" / "mesh.safetensors").exists()
    for damage in (b"", b"damaged on this disk"):
        reads = count_reads(memory, monkeypatch)
        if damage:
            (mirror / "shards" / "00000" / "mesh.safetensors").write_bytes(damage)
        found = MeshFiles(find_mirror(mirror)).read(mirror / row.crop)
        assert found is not None
        np.testing.assert_array_equal(found, mesh)
        assert reads == ["shards/00000/mesh.safetensors"]


def test_a_mesh_that_several_loaders_want_at_once_is_copied_once(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=32, store="tar")
    data = bytes(range(200))
    copy_tree(root, memory, "b/crops")
    memory.pipe_file("/b/crops/shards/00000/mesh.safetensors", data)
    mirror = find_mirror(open_crops(URL, tmp_path / "cache"))
    assert mirror is not None
    both = threading.Barrier(2)
    reads: list[str] = []
    real = type(memory).cat_file

    def meet(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        reads.append(path)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for the other one, which is not to come
        return real(self, path, *rest, **options)

    monkeypatch.setattr(type(memory), "cat_file", meet)
    digest = hashlib.sha256(data).hexdigest()
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(mirror.bring, ["shards/00000/mesh.safetensors"] * 2, [digest] * 2):
            pass
    assert (mirror.root / "shards" / "00000" / "mesh.safetensors").read_bytes() == data
    assert len(reads) == 1


# Faults


@BOTH
def test_a_copy_that_was_damaged_on_this_disk_is_made_anew(
    store: StoreKind, upload: Callable[[StoreKind], Path], tmp_path: Path
) -> None:
    root, mirror = upload(store), open_crops(URL, tmp_path / "cache")
    crops = read_all(mirror)
    copies = copies_in(tmp_path / "cache")
    sound = {path: path.read_bytes() for path in copies}
    copies[0].write_bytes(bytes(len(sound[copies[0]])))
    copies[1].write_bytes(sound[copies[1]][:100])
    assert read_all(mirror) == crops == read_all(root)
    assert {path: path.read_bytes() for path in copies} == sound


@BOTH
def test_tables_that_were_damaged_on_this_disk_are_copied_anew(
    store: StoreKind,
    upload: Callable[[StoreKind], Path],
    memory: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, mirror = upload(store), open_crops(URL, tmp_path / "cache")
    (mirror / "manifest.csv").write_bytes(b"")  # as after a power loss
    (mirror / "job.json").write_text("no JSON")
    (mirror / "sources.csv").unlink()
    shard = mirror / "shards" / "00000"
    (shard / "shard.json").write_bytes(bytes((shard / "shard.json").stat().st_size))
    (shard / "crops.csv").write_text("")
    reads = count_reads(memory, monkeypatch)
    assert read_all(open_crops(URL, tmp_path / "cache")) == read_all(root)
    tables = {"job.json", "manifest.csv", "sources.csv", "shards/00000/shard.json"}
    if store == "tar":
        tables.add("shards/00000/crops.csv")
    assert {name for name in reads if "/crops/" not in name and not name.endswith("tar")} == tables


@BOTH
def test_what_was_spoiled_in_the_store_is_refused_and_the_rest_is_read(
    store: StoreKind,
    upload: Callable[[StoreKind], Path],
    memory: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = upload(store)
    crops = read_all(root)
    bad = next(iter(crops))
    name = bad if store == "folder" else "shards/00000/crops.tar"
    data = bytearray(memory.cat_file(f"/b/crops/{name}"))
    data[data.index(crops[bad]) + 300] ^= 1
    memory.pipe_file(f"/b/crops/{name}", bytes(data))
    mirror = open_crops(URL, tmp_path / "cache")
    reader = CropStore(mirror, crops)
    with pytest.raises(JobError, match=rf"crop {URL}/{bad} cannot be read \(it is not as it was"):
        reader.read(bad)
    assert f"{URL}/{name} is not as it was written" in caplog.text
    del crops[bad]
    assert {crop: reader.read(crop) for crop in crops} == crops
    problem = next(issue for issue in examine(mirror).issues if issue.severity == "damage")
    assert bad in problem.examples[0]


@BOTH
def test_what_is_missing_in_the_store_is_named(
    store: StoreKind, upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path
) -> None:
    crops = read_all(upload(store))
    bad = list(crops)[-1]
    name = bad if store == "folder" else f"shards/{N_SHARDS - 1:05d}/crops.tar"
    later = open_crops(URL, tmp_path / "cache")
    memory.rm_file(f"/b/crops/{name}")
    with pytest.raises(JobError, match=rf"{URL}/{name} cannot be read \(.*; run the same command"):
        CropStore(later, crops).read(bad)
    mirror = open_crops(URL, tmp_path / "cache")
    told = f"there is no {URL}/{name}" if store == "tar" else "crops.csv does not list it"
    with pytest.raises(JobError, match=rf"crop {URL}/{bad} cannot be read \(.*{told}"):
        CropStore(mirror, crops).read(bad)


def test_a_store_that_does_not_answer_is_no_damage(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    crops = read_all(upload("tar"))
    mirror = open_crops(URL, tmp_path / "cache")
    faults = ["cut", "503", "503"]
    real = type(memory).cat_file

    def fail(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        fault = faults.pop() if faults else ""
        if fault == "503":
            raise OSError("503 Service Unavailable")
        data = real(self, path, *rest, **options)
        return data[: len(data) // 2] if fault == "cut" else data

    monkeypatch.setattr(type(memory), "cat_file", fail)
    assert read_all(mirror) == crops
    shutil.rmtree(tmp_path / "cache" / "shards")
    mirror = open_crops(URL, tmp_path / "cache")
    faults.extend(["503"] * 100)
    with pytest.raises(JobError, match=r"503 Service Unavailable; 5 tries failed\); run the same"):
        examine(mirror)


def test_an_object_that_changes_while_it_is_copied_is_no_copy(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    crops = read_all(upload("tar"))
    mirror = open_crops(URL, tmp_path / "cache")
    real = type(memory).cat_file

    def change(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        data = real(self, path, *rest, **options)
        memory.pipe_file("/b/crops/shards/00000/crops.tar", b"another object")
        return data

    monkeypatch.setattr(type(memory), "cat_file", change)
    with pytest.raises(JobError, match=r"00000/crops.tar cannot be read \(it is not what it was"):
        CropStore(mirror, crops).read(next(iter(crops)))
    assert copies_in(tmp_path / "cache") == []


def test_a_tar_that_has_grown_is_not_copied_into_room_for_the_old_one(
    upload: Callable[[StoreKind], Path],
    memory: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crops = read_all(upload("tar"))
    mirror = open_crops(URL, tmp_path / "cache")
    tar = memory.cat_file("/b/crops/shards/00000/crops.tar")
    memory.pipe_file("/b/crops/shards/00000/crops.tar", tar * 20)
    written: list[int] = []
    real = objects.write_all

    def note(file: Any, data: bytes) -> None:
        written.append(len(data))
        real(file, data)

    monkeypatch.setattr(objects, "write_all", note)
    first = next(iter(crops))
    assert CropStore(mirror, crops).read(first) == crops[first]  # where it was, it still is
    assert written == []


def test_an_index_that_claims_more_than_there_is_takes_no_memory(
    upload: Callable[[StoreKind], Path], tmp_path: Path
) -> None:
    crop = next(iter(read_all(upload("tar"))))
    mirror = find_mirror(open_crops(URL, tmp_path / "cache"))
    assert mirror is not None
    with pytest.raises(OSError, match=r"its shard ends at \d+, before 4611686018427387904"):
        mirror.read(crop, Place(0, 2**62, bytes(32)))


# What is refused


@pytest.mark.parametrize(
    ("root", "cache", "cache_gb", "problem"),
    [
        (URL, None, 1, "lies in a store: name a folder of this disk with --cache"),
        ("crops", "cache", 1, "--cache is for crops in a store, and crops lies on this disk"),
        ("https://host/crops", "cache", 1, "a web server has no folders"),
        ("ftp://host/crops", "cache", 1, "no address that is read here"),
        (URL, "cache", 0.0, r"--cache-gb 0; expected a number above 0"),
        (URL, "cache", float("inf"), r"--cache-gb inf; expected a number above 0"),
        ("memory://b/none", "cache", 1, r"memory://b/none is not a crop folder \(no job.json\)"),
        (URL, "file", 1, r"--cache .*file: .* is a file"),
    ],
)
def test_what_cannot_be_is_refused(
    root: str,
    cache: str | None,
    cache_gb: float,
    problem: str,
    memory: Any,
    tmp_path: Path,
) -> None:
    memory.pipe_file("/b/crops/job.json", b"{}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=problem):
        open_crops(root, cache and tmp_path / cache, cache_gb)


def test_a_folder_that_is_no_finished_job_is_refused(
    upload: Callable[[StoreKind], Path], memory: Any, tmp_path: Path
) -> None:
    root = upload("tar")
    assert peek_job(URL, root.parent) == peek_job(str(root), None)
    job = peek_job(URL, root.parent)
    memory.pipe_file("/b/crops/job.json", json.dumps(job | {"block_size": 2}).encode())
    with pytest.raises(UsageError, match="holds an unfinished crop job"):
        read_manifest(open_crops(URL, tmp_path / "cache"))
    memory.pipe_file("/b/crops/job.json", b"no JSON")
    with pytest.raises(UsageError, match=r"job.json cannot be read"):
        open_crops(URL, tmp_path / "cache")


# Commands


def test_doctor_says_of_a_folder_in_a_store_what_it_says_of_it_here(
    upload: Callable[[StoreKind], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = upload("tar")
    told = []
    for words in ([str(root)], [URL, "--cache", str(tmp_path / "cache")]):
        code = cli.doctor([*words, "--json", "--quiet"])
        told.append((code, json.loads(capsys.readouterr().out)))
    assert told[1][1].pop("root") == URL
    assert told[0][1].pop("root") == str(root)
    assert told[0] == told[1]


def test_commands_say_how_a_crop_folder_in_a_store_is_read(
    upload: Callable[[StoreKind], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = upload("tar")
    cache = ["--cache", str(tmp_path / "cache")]
    for run, words, problem in (
        (cli.doctor, [URL], "name a folder of this disk with --cache"),
        (cli.predict, [URL, "--workers", "0"], "read it with --cache DIR, a folder of this disk"),
        (cli.doctor, [str(root), "--cache-gb", "1"], "name its folder with --cache DIR"),
        (cli.predict, [str(root), "--cache-gb", "1"], "name its folder with --cache DIR"),
        (cli.predict, ["memory://b/a.jpg", *cache], "--cache is for crop folders in a store"),
    ):
        assert run(words) == 2
        assert problem in capsys.readouterr().err
