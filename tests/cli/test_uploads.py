"""Outputs in a store: made in the folder of --job, uploaded when all went well, nobody else's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.cli.uploads import with_uploads
from deepfake.errors import JobError, UsageError
from deepfake.stores import objects
from tests.stores.made_stores import empty_memory


@pytest.fixture
def memory() -> Iterator[Any]:
    with empty_memory() as store:
        yield store


def name(job: Path | None, **outputs: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"job": job, "overwrite": False, "quiet": True, **outputs})


def make(text: str) -> Any:
    def work(options: argparse.Namespace) -> int:
        options.output.write_text(text)
        return 3

    return work


def test_a_table_is_made_in_the_job_and_lies_in_the_store_after(
    memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "new" / "job"
    for text in ("one", "one", "two"):
        options = name(job, output="memory://out/scores.csv", faces=None)
        assert with_uploads(make(text), options, "output", "faces") == 3
        assert options.output == job / "scores.csv"
        assert options.faces is None
        assert memory.cat_file("/out/scores.csv").decode() == text
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "uploaded: memory://out/scores.csv (1 files sent)",
        "uploaded: memory://out/scores.csv (0 files sent, 1 lay there already)",
        "uploaded: memory://out/scores.csv (1 files sent)",
    ]


def test_outputs_of_this_disk_are_left_alone(tmp_path: Path) -> None:
    options = name(None, output=tmp_path / "scores.csv")
    assert with_uploads(make("one"), options, "output") == 3
    assert (tmp_path / "scores.csv").read_text() == "one"


def test_what_failed_uploads_nothing(memory: Any, tmp_path: Path) -> None:
    def fail(options: argparse.Namespace) -> int:
        options.output.write_text("half")
        raise JobError("no space left")

    with pytest.raises(JobError, match="no space left"):
        with_uploads(fail, name(tmp_path, output="memory://out/scores.csv"), "output")
    assert not memory.exists("/out/scores.csv")


def test_a_folder_goes_without_locks_and_leftovers_its_seal_last(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(options: argparse.Namespace) -> int:
        for one in ("shards/0/a.jpg", ".tmp-9/b.jpg", "job.json", "manifest.csv", ".lock", "z.csv"):
            path = options.output / one
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(one)
        return 0

    sent: list[str] = []
    put = memory.put_file

    def note(path: str, url: str) -> None:
        sent.append(Path(path).name)
        put(path, url)

    monkeypatch.setattr(memory, "put_file", note)
    options = name(tmp_path / "job", output="memory://out/crops/")
    monkeypatch.setattr("deepfake.stores.objects.open_store", lambda scheme, other: memory)
    assert with_uploads(work, options, "output") == 0
    assert options.output == tmp_path / "job" / "crops"
    assert sorted(memory.find("/out")) == [
        f"/out/crops/{one}" for one in ("job.json", "manifest.csv", "shards/0/a.jpg", "z.csv")
    ]
    assert sent[-1] == "job.json"


def test_what_is_no_more_in_a_folder_goes_and_what_others_put_there_stays(
    memory: Any, tmp_path: Path
) -> None:
    def work(*names: str) -> Any:
        def make(options: argparse.Namespace) -> int:
            options.output.mkdir(exist_ok=True)
            for path in options.output.iterdir():
                path.unlink()
            for one in names:
                (options.output / one).write_text(one)
            return 0

        return make

    for names in (("a.jpg", "job.json"), ("b.jpg", "job.json")):
        with_uploads(work(*names), name(tmp_path, output="memory://out/crops"), "output")
        memory.pipe_file("/out/crops/README", b"somebody else's")
    there = [f"/out/crops/{one}" for one in ("README", "b.jpg", "job.json")]
    assert sorted(memory.find("/out")) == there


def test_somebody_elses_object_is_replaced_only_where_that_is_asked_for(
    memory: Any, tmp_path: Path
) -> None:
    memory.pipe_file("/out/scores.csv", b"old")
    memory.pipe_file("/out/crops/a.jpg", b"old")
    for target, advice in (("scores.csv", "name another one or pass --overwrite"), ("crops", "")):
        options = name(tmp_path, output=f"memory://out/{target}")
        with pytest.raises(UsageError, match=rf"{target} exists, and .* has not made it.*{advice}"):
            with_uploads(make("new"), options, "output")
    options = name(tmp_path, output="memory://out/crops", overwrite=True)
    with pytest.raises(UsageError, match="crops exists, and"):
        with_uploads(make("new"), options, "output")
    assert not (tmp_path / "scores.csv").exists()
    options = name(tmp_path, output="memory://out/scores.csv", overwrite=True)
    with_uploads(make("new"), options, "output")
    assert memory.cat_file("/out/scores.csv") == b"new"


def test_what_is_made_from_the_start_replaces_what_it_left_in_the_job(
    memory: Any, tmp_path: Path
) -> None:
    for anew in (False, True):
        options = name(tmp_path, output="memory://out/new.ckpt")
        with_uploads(make("x"), options, "output", anew=anew)
        assert options.overwrite is anew


@pytest.mark.parametrize(
    ("has_job", "outputs", "problem"),
    [
        (False, {"output": "s3://b/a.csv"}, r"--output s3://b/a.csv lies in a store: .*--job"),
        (True, {"output": "scores.csv"}, "--job is where outputs for a store are made, and none"),
        (True, {"output": "https://host/scores.csv"}, "such stores are only read here"),
        (True, {"output": "s3://b/a.csv", "faces": "s3://b/x/a.csv"}, "two outputs have the same"),
    ],
)  # fmt: skip
def test_what_cannot_be_uploaded_is_refused_before_any_work(
    has_job: bool, outputs: dict[str, str], problem: str, tmp_path: Path
) -> None:
    options = name(tmp_path if has_job else None, **outputs)
    with pytest.raises(UsageError, match=problem):
        with_uploads(make("x"), options, *outputs)
    assert not any(tmp_path.iterdir())


def test_a_job_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("x")
    with pytest.raises(UsageError, match="job is a file; name a folder"):
        with_uploads(make("x"), name(tmp_path / "job", output="memory://out/a.csv"), "output")


def test_files_of_a_folder_are_uploaded_before_its_end_where_they_may_fail(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    memory.pipe_file("/out/run/c/others.ckpt", b"somebody else's")
    there: list[list[str]] = []

    def work(options: argparse.Namespace) -> int:
        folder = options.output / "c"
        folder.mkdir(parents=True)
        put = memory.put_file
        for names in (["1.ckpt", "last.ckpt"], ["2.ckpt", "last.ckpt"], ["3.ckpt", "last.ckpt"]):
            for one in names:
                (folder / one).write_text(f"{one} of {names}")
            (options.output / "log.csv").write_text("not yet")
            if "3.ckpt" in names:
                monkeypatch.setattr(memory, "put_file", fail)
            options.publish([f"c/{one}" for one in names])
            there.append(sorted(memory.find("/out/run")))
        monkeypatch.setattr(memory, "put_file", put)
        (folder / "1.ckpt").unlink()
        return 0

    def fail(*words: Any) -> None:
        raise OSError("503 Service Unavailable")

    monkeypatch.setattr("deepfake.stores.objects.open_store", lambda scheme, other: memory)
    monkeypatch.setattr("deepfake.cli.uploads._Claims.add", lambda self, targets, overwrite: None)
    with_uploads(work, name(tmp_path, output="memory://out/run"), "output")
    one, two = ([f"/out/run/c/{n}.ckpt" for n in (str(k), "last", "others")] for k in (1, 2))
    assert there == [one, two, two]
    assert "503 Service Unavailable; 5 tries failed" in caplog.text
    ends = ["c/2.ckpt", "c/3.ckpt", "c/last.ckpt", "c/others.ckpt", "log.csv"]
    assert sorted(memory.find("/out/run")) == [f"/out/run/{end}" for end in ends]
