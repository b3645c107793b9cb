"""An S3 server on this machine, and jobs on what lies in it: the bytes of the same local job.

Between the two stands a proxy that cuts, delays and refuses reads, or has an object replaced while
it is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepfake import cli
from deepfake.dataset.manifest import SOURCES_FILE
from deepfake.evaluation.job import FACES_FILE, FILES_FILE
from deepfake.learning.checkpoint import read_info
from deepfake.media.discovery import discover
from deepfake.media.objects import discover_objects
from deepfake.stores import objects
from deepfake.stores.address import Address
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.fakes import portrait, tree_hashes, write_photo, write_portraits
from tests.stores.made_stores import BUSY, CUT, SLOW, SPOIL, SWAP, Proxy

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
BUCKET = "photos"


class Bucket(NamedTuple):
    """The same photos on this disk and in ``s3://photos/in``, and what stands before that."""

    photos: Path
    proxy: Proxy
    store: Any


@pytest.fixture(scope="module")
def bucket(s3: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    photos = write_portraits(tmp_path_factory.mktemp("s3") / "in", 12)
    (photos / "fake" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (photos / "notes.md").write_text("no photo")
    store = objects.open_store("s3", False)
    store.mkdir(BUCKET)
    store.mkdir("others")
    for path in sorted(photos.rglob("*")):
        if path.is_file():
            store.pipe_file(f"{BUCKET}/in/{path.relative_to(photos).as_posix()}", path.read_bytes())
    return Bucket(photos, s3, store)


@pytest.fixture(scope="module")
def local(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("local") / "crops"
    assert crop(bucket.photos, output) == 0
    return results_of(output)


def words(source: object, output: object) -> list[str]:
    return f"{source} {output} --size 64 --quiet --shard-size 3 --workers 2".split()


def crop(source: object, output: Path) -> int:
    return cli.crop(words(source, output))


def results_of(output: Path) -> dict[str, str]:
    """All that a job has made; the seals of its shards tell versions in place of hashes."""
    tree = tree_hashes(output)
    return {name: found for name, found in tree.items() if not name.endswith("shard.json")}


def test_the_server_and_the_disk_list_alike(bucket: Bucket) -> None:
    here, there = discover(bucket.photos), discover_objects(f"s3://{BUCKET}/in")
    assert [(one.id, one.name) for one in there.sources] == [
        (one.id, one.name) for one in here.sources
    ]
    assert there.skipped == here.skipped
    looks = [objects.look(Address.parse(f"s3://{BUCKET}/in/{one.name}")) for one in there.sources]
    assert [(one.stored.size, one.stored.stamp) for one in there.sources if one.stored] == [
        (one.size, one.stamp) for one in looks if one
    ]


def test_the_crops_are_those_of_the_local_job_whatever_the_server_does(
    bucket: Bucket, local: dict[str, str], tmp_path: Path
) -> None:
    bucket.proxy.faults = {"000.png": [BUSY], "003.png": [CUT, CUT], "006.png": [CUT, SLOW]}
    assert crop(f"s3://{BUCKET}/in/", tmp_path / "crops") == 0
    assert not any(bucket.proxy.faults.values())
    assert results_of(tmp_path / "crops") == local


def test_killed_and_run_again_it_ends_alike_and_leaves_no_copies(
    bucket: Bucket, local: dict[str, str], tmp_path: Path
) -> None:
    bucket.proxy.faults = {".png": [SLOW] * 6}
    output, copies = tmp_path / "crops", tmp_path / "tmp"
    copies.mkdir()
    command = [sys.executable, "crop.py", *words(f"s3://{BUCKET}/in", output)]
    environment = os.environ | {"TMPDIR": str(copies)}
    job = subprocess.Popen(command, cwd=REPO, env=environment)
    while not list(output.glob("shards/*")) and job.poll() is None:
        time.sleep(0.05)
    job.kill()
    job.wait()
    assert crop(f"s3://{BUCKET}/in", output) == 0
    assert results_of(output) == local
    assert not [path for path in copies.rglob("*") if path.is_file()]


def test_ray_reads_on_its_nodes_what_is_replaced_is_a_row_and_done_again(
    bucket: Bucket, local: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra deepfake[ray]")
    from tests.jobs.made_ray import start_nodes

    with start_nodes() as nodes:
        nodes.add(num_cpus=2)  # as many as ``words`` has workers
        check_replaced(bucket, local, tmp_path, "--engine", nodes.engine)


def test_what_is_replaced_while_it_is_read_is_a_row_and_done_again(
    bucket: Bucket, local: dict[str, str], tmp_path: Path
) -> None:
    check_replaced(bucket, local, tmp_path)


def check_replaced(bucket: Bucket, local: dict[str, str], tmp_path: Path, *engine: str) -> None:
    command = [*words(f"s3://{BUCKET}/in", tmp_path / "crops"), *engine]
    name = "real/id0/000.png"
    old = (bucket.photos / name).read_bytes()
    new = write_photo(tmp_path / "new.png", portrait(9, 2, 128)).read_bytes()
    bucket.proxy.swap = lambda: bucket.store.pipe_file(f"{BUCKET}/in/{name}", new)
    bucket.proxy.faults = {"000.png": [SWAP], "003.png": [CUT]}
    assert cli.crop(command) == 0
    rows = {row["path"]: row for row in read_csv(tmp_path / "crops" / SOURCES_FILE, ["path"])}
    assert rows[name]["status"] == "unreadable"
    assert rows[name]["reason"].startswith("changed: it is not what it was when the job")
    bucket.store.pipe_file(f"{BUCKET}/in/{name}", old)
    assert cli.crop(command) == 0
    assert results_of(tmp_path / "crops") == local


def test_a_store_that_is_out_for_long_costs_rows_until_it_is_back(
    bucket: Bucket, local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    bucket.proxy.faults = {"000.png": [BUSY] * 1000}
    command = [*words(f"s3://{BUCKET}/in", tmp_path / "crops"), "--workers", "0"]
    assert cli.crop(command) == 0
    rows = {row["path"]: row for row in read_csv(tmp_path / "crops" / SOURCES_FILE, ["path"])}
    assert rows["real/id0/000.png"]["reason"].startswith("io_error: ")
    assert rows["real/id0/000.png"]["reason"].endswith("; 5 tries failed")
    bucket.proxy.faults = {}
    assert cli.crop(command) == 0
    assert results_of(tmp_path / "crops") == local


def test_the_table_of_predict_is_that_of_the_local_job(
    bucket: Bucket, trained: Trained, tmp_path: Path
) -> None:
    bucket.proxy.faults = {"001.png": [CUT]}
    for source, name in ((bucket.photos, "here"), (f"s3://{BUCKET}/in/", "there")):
        output = tmp_path / f"{name}.csv"
        command = [str(source), "--checkpoint", str(trained.checkpoint), "--output", str(output)]
        assert cli.predict([*command, "--quiet", "--device", "cpu", "--workers", "2"]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_lists_tables_and_patterns_in_the_bucket(
    bucket: Bucket, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.relative_to(bucket.photos).as_posix() for path in bucket.photos.rglob("*.png")]
    lines = "".join(f"../in/{name},{name.partition('/')[0]}\n" for name in sorted(names))
    table = tmp_path / "lists" / "labels.csv"
    table.parent.mkdir()
    table.write_text(f"path,label\n{lines}")
    bucket.store.pipe_file(f"{BUCKET}/lists/labels.csv", table.read_bytes())
    (tmp_path / "in").symlink_to(bucket.photos)
    scores: list[list[bytes]] = []
    for data in (str(table), f"s3://{BUCKET}/lists/labels.csv"):
        output = tmp_path / f"report-{len(scores)}"
        command = ["--checkpoint", str(trained.checkpoint), "--data", data, "--split", "all"]
        command += ["--resamples", "0", "--output", str(output), "--quiet", "--device", "cpu"]
        assert cli.evaluate([*command, "--workers", "1"]) == 0
        scores.append([(output / name).read_bytes() for name in (FILES_FILE, FACES_FILE)])
    assert scores[0] == scores[1]

    bucket.store.pipe_file(f"{BUCKET}/lists/bad.txt", b"s3://others/secret.jpg\n")
    assert crop(f"s3://{BUCKET}/lists/bad.txt", tmp_path / "bad") == 2
    assert "lies in another store; --other-stores allows that" in capsys.readouterr().err
    pattern = f"s3://{BUCKET}/in/real/*/*.png"
    assert len(discover_objects(pattern).sources) == 6


def test_one_object_is_explained(bucket: Bucket, trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    command = [f"s3://{BUCKET}/in/real/id0/000.png", "--checkpoint", str(trained.checkpoint)]
    command += ["--output", str(page), "--device", "cpu", "--workers", "1", "--top-frames", "1"]
    assert cli.explain([*command, "--quiet"]) == 0
    assert "s3://photos/in/real/id0/000.png" in page.read_text(encoding="utf-8")


OUT = f"s3://{BUCKET}/out"


def fetch_tree(bucket: Bucket, key: str, folder: Path) -> dict[str, str]:
    """What lies below a key, copied to this disk."""
    for path in bucket.store.find(f"{BUCKET}/{key}"):
        target = folder / path.removeprefix(f"{BUCKET}/{key}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket.store.cat_file(path))
    return results_of(folder)


def test_crops_are_uploaded_whole_whatever_the_server_does(
    bucket: Bucket,
    local: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    bucket.proxy.faults = {}
    bucket.proxy.write_faults = {
        "manifest.csv": [BUSY, CUT, SLOW], "sources.csv": [SPOIL], "job.json": [SPOIL],
    }  # fmt: skip
    bucket.proxy.written.clear()
    command = [*words(bucket.photos, OUT), "--job", str(tmp_path / "job")]
    assert cli.crop(command) == 0
    assert not any(bucket.proxy.write_faults.values())
    assert fetch_tree(bucket, "out", tmp_path / "copy") == local
    seal = f"/{BUCKET}/out/job.json"
    assert bucket.proxy.written[-2:] == [seal, seal]  # the first one was spoiled
    assert seal not in bucket.proxy.written[:-2]
    # It is a crop folder like any other.
    assert crop(bucket.photos, tmp_path / "copy") == 0
    assert "nothing was left to do" in capsys.readouterr().out


def test_an_upload_that_was_killed_goes_on_with_the_same_command(
    bucket: Bucket, local: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.proxy.write_faults = {".jpg": [SLOW] * 40}
    bucket.proxy.written.clear()
    options = [*words(bucket.photos, f"s3://{BUCKET}/killed"), "--job", str(tmp_path / "job")]
    job = subprocess.Popen([sys.executable, "crop.py", *options], cwd=REPO)
    while not bucket.proxy.written and job.poll() is None:
        time.sleep(0.02)
    job.kill()
    job.wait()
    there = bucket.store.find(f"{BUCKET}/killed")
    assert there
    assert not [path for path in there if path.endswith("job.json")]
    bucket.proxy.write_faults = {}
    assert cli.crop(options) == 0
    assert "lay there already" in capsys.readouterr().err
    assert fetch_tree(bucket, "killed", tmp_path / "copy") == local


def test_parts_in_the_bucket_are_merged_to_what_was_never_divided(
    bucket: Bucket, local: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    bucket.proxy.write_faults = {"parts/1/manifest.csv": [CUT], "2.csv.job/job.json": [SPOIL, BUSY]}
    bucket.proxy.faults = {}
    detector = ["--checkpoint", str(trained.checkpoint), "--quiet", "--device", "cpu"]
    assert cli.predict([str(bucket.photos), *detector, "--output", str(tmp_path / "here.csv")]) == 0
    for number in "12":
        part = ["--shard", f"{number}/2", "--job", str(tmp_path / number)]
        # Of photos on this disk: as of any job, the seals tell where the inputs lie.
        assert cli.crop([*words(bucket.photos, f"s3://{BUCKET}/parts/{number}"), *part]) == 0
        output = ["--output", f"s3://{BUCKET}/scores/{number}.csv"]
        assert cli.predict([str(bucket.photos), *detector, *output, *part]) == 0
    assert not any(bucket.proxy.write_faults.values())
    bucket.proxy.faults = {".jpg": [BUSY, CUT, SLOW], "plan.csv": [CUT], "answers.jsonl": [BUSY]}
    job = ["--job", str(tmp_path / "job")]
    parts = [f"s3://{BUCKET}/parts/{number}" for number in "12"]
    assert cli.merge([*parts, "--output", str(tmp_path / "crops"), *job]) == 0
    assert results_of(tmp_path / "crops") == local
    assert cli.merge([f"s3://{BUCKET}/merged", *parts, *job]) == 0
    assert fetch_tree(bucket, "merged", tmp_path / "copy") == local
    tables = [f"s3://{BUCKET}/scores/{number}.csv" for number in "12"]
    assert cli.merge([*tables, "--output", f"s3://{BUCKET}/merged.csv", *job]) == 0
    assert not any(bucket.proxy.faults.values())
    assert bucket.store.cat_file(f"{BUCKET}/merged.csv") == (tmp_path / "here.csv").read_bytes()


def test_scores_and_reports_by_a_checkpoint_in_the_bucket_lie_in_the_bucket(
    bucket: Bucket, trained: Trained, tmp_path: Path
) -> None:
    bucket.proxy.faults, bucket.proxy.write_faults = {}, {"scores.csv": [CUT, BUSY]}
    model = f"s3://{BUCKET}/models/model.ckpt"
    bucket.store.pipe_file(model, trained.checkpoint.read_bytes())
    common = ["--quiet", "--device", "cpu", "--workers", "1"]
    here = [str(bucket.photos), "--checkpoint", str(trained.checkpoint), *common]
    assert cli.predict([*here, "--output", str(tmp_path / "here.csv")]) == 0
    job, output = str(tmp_path / "job"), f"s3://{BUCKET}/tables/scores.csv"
    there = [f"s3://{BUCKET}/in", "--checkpoint", model, *common, "--output", output]
    assert cli.predict([*there, "--job", job]) == 0
    assert not any(bucket.proxy.write_faults.values())
    assert bucket.store.cat_file(output) == (tmp_path / "here.csv").read_bytes()

    report = f"s3://{BUCKET}/report"
    command = ["--checkpoint", model, "--data", f"s3://{BUCKET}/in", "--split", "all", *common]
    command += ["--resamples", "0", "--output", report, "--job", job]
    assert cli.evaluate(command) == 0
    for name in (FILES_FILE, "report.html"):
        made = (tmp_path / "job" / "report" / name).read_bytes()
        assert bucket.store.cat_file(f"{report}/{name}") == made


def test_a_run_lies_in_the_bucket_when_it_has_come_to_its_end(
    bucket: Bucket, trained: Trained, tmp_path: Path
) -> None:
    bucket.proxy.write_faults = {"model.ckpt": [CUT]}
    weights = f"s3://{BUCKET}/models/weights.ckpt"
    bucket.store.pipe_file(weights, trained.checkpoint.read_bytes())
    command = ["--config", "default", "--config", "smoke", "--data", str(trained.crops)]
    command += ["--model.pretrained", weights, "--run", f"s3://{BUCKET}/runs/001"]
    assert cli.train([*command, "--job", str(tmp_path), "--resume", "auto"]) == 0
    assert not any(bucket.proxy.write_faults.values())
    assert fetch_tree(bucket, "runs/001", tmp_path / "copy").items() <= (
        tree_hashes(tmp_path / "001").items()
    )
    assert read_info(f"s3://{BUCKET}/runs/001/model.ckpt")["initial_weights"] == weights
