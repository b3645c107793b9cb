"""Crops in an S3 server on this machine: what is trained and scored is that of the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.dataset import crop_mirror
from deepfake.dataset.crop_store import CropStore, StoreKind
from deepfake.dataset.manifest import read_manifest
from deepfake.errors import JobError
from deepfake.evaluation.job import FACES_FILE, FILES_FILE
from deepfake.stores import objects
from tests.conftest import Trained
from tests.made_crops import write_crop_folder
from tests.stores.made_stores import BUSY, CUT, SLOW, SWAP, Proxy
from tests.training.made_runs import (
    MIDWAY,
    REPO,
    SMOKE,
    TWO,
    assert_same_run,
    assert_same_state,
    run_until_signal,
    start,
    train,
    wait,
    wait_until,
)

pytestmark = pytest.mark.slow
BUCKET = "crops"
COUNTS = {"train": (80, 60), "validation": (8, 8), "test": (8, 8)}
N_SHARDS = 6


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPFAKE_RUN_FOLDER", "")
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER")
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def store(s3: Proxy) -> Any:
    found = objects.open_store("s3", False)
    found.mkdir(BUCKET)
    return found


@pytest.fixture
def proxy(s3: Proxy) -> Iterator[Proxy]:
    s3.faults = {}
    yield s3
    s3.faults = {}


@pytest.fixture(scope="module")
def folders(store: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[StoreKind, Path]:
    """The same crops as tars and as files, here and in ``s3://crops/tar`` and ``s3://crops/folder``."""
    kinds: tuple[StoreKind, ...] = ("tar", "folder")
    root = tmp_path_factory.mktemp("crops")
    for kind in kinds:
        write_crop_folder(root / kind, COUNTS, store=kind, n_shards=N_SHARDS)
        upload(store, root / kind, kind)
    return {kind: root / kind for kind in kinds}


@pytest.fixture(scope="module")
def local(folders: dict[StoreKind, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("local") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
        train(folders["tar"], run, *MIDWAY)
        os.environ.pop("DEEPFAKE_RUN_FOLDER", None)
    return run


def upload(store: Any, folder: Path, key: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            store.pipe_file(f"{BUCKET}/{key}/{name}", path.read_bytes())


def url(kind: str) -> str:
    return f"s3://{BUCKET}/{kind}"


def cached(cache: Path, folder: Path, share: float = 2.0) -> list[str]:
    """Options for a cache that holds a share of what a folder takes."""
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ["--data.cache", str(cache), "--data.cache_gb", str(share * n_bytes / 1e9)]


def copies_in(cache: Path) -> list[str]:
    names = {path.name for path in (cache / "shards").iterdir()}
    return sorted(names - {".lock", ".bytes"})


@pytest.mark.parametrize(
    ("kind", "share", "workers"),
    [("tar", 2.0, 0), ("tar", 0.5, 2), ("tar", 1e-6, 2), ("folder", 0.5, 2)],
)
def test_a_training_has_the_weights_of_one_on_a_disk_whatever_the_server_does(
    kind: StoreKind,
    share: float,
    workers: int,
    folders: dict[StoreKind, Path],
    local: Path,
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    proxy.faults = {
        "manifest.csv": [BUSY], "00001/shard.json": [CUT, SLOW], "00002/crops.tar": [CUT, BUSY],
        "crops.tar": [SLOW, CUT], ".jpg": [BUSY, CUT, SLOW],
    }  # fmt: skip
    cache = cached(tmp_path / "cache", folders[kind], share)
    train(url(kind), tmp_path / "run", *MIDWAY, *cache, "--data.num_workers", str(workers))
    assert_same_run(local, tmp_path / "run")
    held = len(copies_in(tmp_path / "cache"))
    assert held == N_SHARDS if share > 1 else held < N_SHARDS
    assert held or share < 0.1


def test_killed_while_it_fetches_the_next_run_reads_nothing_of_half_a_tar(
    folders: dict[StoreKind, Path], local: Path, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.faults = {"crops.tar": [SLOW] * 2}
    cache, options = tmp_path / "cache", cached(tmp_path / "cache", folders["tar"])
    child = start(url("tar"), tmp_path / "killed", *MIDWAY, *options)

    def is_fetching() -> bool:
        return (cache / "shards").exists() and any(
            name.startswith(".tmp-") for name in copies_in(cache)
        )

    try:
        wait_until(child, is_fetching, tmp_path / "killed.log")
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert is_fetching()
    train(url("tar"), tmp_path / "run", *MIDWAY, *options)
    assert_same_run(local, tmp_path / "run")
    assert len(copies_in(cache)) == N_SHARDS
    assert not is_fetching()


def test_stopped_in_mid_epoch_it_goes_on_as_if_nothing_had_happened(
    folders: dict[StoreKind, Path], local: Path, proxy: Proxy, tmp_path: Path, monkeypatch: Any
) -> None:
    options = [*MIDWAY, *cached(tmp_path / "cache", folders["tar"], 0.5)]
    options += ["--data.num_workers", "2"]
    stopped = tmp_path / "stopped"
    code = run_until_signal(url("tar"), stopped, monkeypatch, 26, *options)
    assert code == 128 + signal.SIGTERM
    os.environ.pop("DEEPFAKE_RUN_FOLDER", None)
    elsewhere = [*MIDWAY, *cached(tmp_path / "another", folders["tar"], 0.3)]
    train(url("tar"), tmp_path / "run", *elsewhere, "--resume", str(stopped))
    assert_same_run(local, tmp_path / "run")


def test_a_run_that_was_killed_goes_on_elsewhere_from_what_lies_in_the_bucket(
    folders: dict[StoreKind, Path], local: Path, store: Any, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.write_faults = {"last.ckpt": [CUT, BUSY]}
    words = [sys.executable, str(REPO / "train.py"), *SMOKE, *MIDWAY, "--data", url("tar")]
    first = [*words, *cached(tmp_path / "cache", folders["tar"]), "--job", str(tmp_path / "one")]
    first += ["--run", f"s3://{BUCKET}/runs/001", "--trainer.max_epochs", "2"]
    log = tmp_path / "killed.log"
    last = f"{BUCKET}/runs/001/checkpoints/last.ckpt"
    with log.open("wb") as output:
        child = subprocess.Popen(first, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(child, lambda: f"/{last}" in proxy.written, log)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    shutil.rmtree(tmp_path / "one")
    assert not store.exists(f"{BUCKET}/runs/001/model.ckpt")
    second = [*SMOKE, *MIDWAY, "--data", url("tar"), *cached(tmp_path / "new", folders["tar"])]
    second += ["--resume", f"s3://{BUCKET}/runs/001", "--run", f"s3://{BUCKET}/runs/002"]
    assert cli.train([*second, "--job", str(tmp_path / "two")]) == 0
    assert_same_run(local, tmp_path / "two" / "002")
    there = {path.rsplit("/", 1)[-1] for path in store.find(f"{BUCKET}/runs/002")}
    assert {"model.ckpt", "last.ckpt", "metrics.csv"} <= there


def test_two_processes_of_a_training_share_a_cache(
    folders: dict[StoreKind, Path], proxy: Proxy, tmp_path: Path
) -> None:
    cache = cached(tmp_path / "cache", folders["tar"], 0.7)
    for data, name, options in (
        (folders["tar"], "here", []),
        (url("tar"), "there", [*cache, "--data.num_workers", "1"]),
    ):
        child = start(data, tmp_path / name, *MIDWAY, *TWO, *options)
        log = tmp_path / f"{name}.log"
        assert wait(child, log) == 0, log.read_text()
    assert_same_state(tmp_path / "here" / "model.ckpt", tmp_path / "there" / "model.ckpt")
    assert 0 < len(copies_in(tmp_path / "cache")) < N_SHARDS


def test_what_is_replaced_while_it_is_read_ends_the_job_and_not_as_damage(
    folders: dict[StoreKind, Path], store: Any, proxy: Proxy, tmp_path: Path
) -> None:
    upload(store, folders["tar"], "swapped")
    key = f"{BUCKET}/swapped/shards/00000/crops.tar"
    root = crop_mirror.open_crops(f"s3://{BUCKET}/swapped", tmp_path / "cache")
    names = [row.crop for row in read_manifest(root).rows]
    crops = CropStore(root, names)
    proxy.faults, proxy.swap = {"crops.tar": [SWAP]}, lambda: store.pipe_file(key, b"another")
    with pytest.raises(JobError, match=r"00000/crops.tar cannot be read \(it is not what it was"):
        crops.read(names[0])
    assert copies_in(tmp_path / "cache") == []


def test_ray_workers_read_them_through_the_cache_of_their_node(
    trained: Trained, store: Any, proxy: Proxy, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra deepfake[ray]")
    from tests.jobs.made_ray import start_nodes

    upload(store, trained.crops, "ray/crops")
    model = ["--checkpoint", str(trained.checkpoint), "--quiet", "--device", "cpu"]

    def score(folder: Path, data: str, *more: str) -> dict[str, bytes]:
        folder.mkdir()
        words = [data, *model, *more, "--backend", "torch", "--output", str(folder / "scores.csv")]
        assert cli.predict([*words, "--faces", str(folder / "faces.csv")]) == 0
        words = ["--data", data, *model, *more, "--output", str(folder / "report")]
        assert cli.evaluate([*words, "--resamples", "0"]) == 0
        names = ("scores.csv", "faces.csv", f"report/{FILES_FILE}", f"report/{FACES_FILE}")
        return {name: (folder / name).read_bytes() for name in names}

    here = score(tmp_path / "here", str(trained.crops), "--workers", "0")
    with start_nodes() as nodes:
        for _ in range(2):
            nodes.add()
        more = ["--engine", nodes.engine, "--cache", str(tmp_path / "cache")]
        assert score(tmp_path / "there", url("ray/crops"), *more) == here
    assert copies_in(tmp_path / "cache")


def test_what_is_scored_is_what_is_scored_of_the_folder(
    trained: Trained, store: Any, proxy: Proxy, tmp_path: Path, capsys: Any
) -> None:
    upload(store, trained.crops, "trained/crops")
    model = ["--checkpoint", str(trained.checkpoint), "--quiet", "--device", "cpu"]
    cache = ["--cache", str(tmp_path / "cache")]

    def run(command: Any, words: Sequence[str], *names: str) -> list[bytes]:
        assert command(words) == 0
        return [(tmp_path / name).read_bytes() for name in names]

    found: list[list[Any]] = []
    for data, more in ((str(trained.crops), []), (url("trained/crops"), cache)):
        name = "there" if more else "here"
        proxy.faults = {".jpg": [BUSY, CUT]}
        tables = (f"{name}.csv", f"{name}-faces.csv")
        words = [data, *model, *more, "--output", tables[0], "--faces", tables[1]]
        scores = run(cli.predict, words, *tables)
        words = ["--data", data, *model, *more, "--resamples", "0", "--output", name]
        report = run(cli.evaluate, words, f"{name}/{FILES_FILE}", f"{name}/{FACES_FILE}")
        words = ["--data", data, *model, *more, "--output", f"{name}.ckpt"]
        assert cli.fit_head(words) == 0
        sheet = [data, *more, "--output", f"{name}.png", "--columns", "3"]
        picture = run(cli.show_augmentations, sheet, f"{name}.png")
        capsys.readouterr()
        assert cli.info([f"{name}.ckpt", "--json"]) == 0
        info = json.loads(capsys.readouterr().out)
        found.append([scores, report, info["limits"], info["metrics"], picture])
    assert found[0] == found[1]
