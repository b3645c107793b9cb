"""Parts of a prediction become the very tables of the undivided job."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.cli.score_tables import job_folder
from deepfake.errors import UsageError
from deepfake.inference.formats import encode_table
from deepfake.inference.job import describe_settings
from deepfake.jobs.merging import join_parts
from deepfake.jobs.parts import JobPart
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.fakes import each_change, run_and_die
from tests.inference.made_answers import NAMES, run_job
from tests.stores.made_stores import empty_memory

ROOT = Path(__file__).parents[2]


def write_part(folder: Path, part: str, names: list[str] = NAMES, **settings: Any) -> Path:
    """What ``predict --shard`` leaves, with made answers."""
    path = folder / f"{part.replace('/', '-')}.csv"
    run_job(job_folder(path), folder, names, JobPart.parse(part), **settings)
    path.write_text("the part's own table\n")
    return path


def write_parts(folder: Path, of: int) -> list[Path]:
    return [write_part(folder, f"{number}/{of}") for number in range(1, of + 1)]


def merge(output: Path, parts: Sequence[object], *more: object) -> int:
    words = [output, *parts, "--faces", output.with_name(f"faces-{output.name}"), *more]
    return cli.merge([str(word) for word in words])


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*m.csv")}


@each_change
def test_killed_before_any_change_and_run_again_is_the_same(tmp_path: Path, stride: int) -> None:
    parts = write_parts(tmp_path / "parts", 3)
    (tmp_path / "clean").mkdir()
    assert merge(tmp_path / "clean" / "m.csv", parts) == 0
    expected = tables(tmp_path / "clean")
    assert set(expected) == {"m.csv", "faces-m.csv"}
    event = 0
    while True:
        folder = tmp_path / f"{event}"
        folder.mkdir()
        died = run_and_die(partial(merge, folder / "m.csv", parts), event)
        assert merge(folder / "m.csv", parts) == 0
        assert tables(folder) == expected
        if not died:
            break
        event += stride
    assert event > 4  # it did die on the way


def test_a_table_that_holds_something_else_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", 2)
    output, faces = tmp_path / "m.csv", tmp_path / "faces-m.csv"
    faces.write_text("precious")
    assert merge(output, parts) == 2
    assert "exists and holds something else; name another file or pass" in capsys.readouterr().err
    assert faces.read_text() == "precious"
    assert not output.exists()
    assert merge(output, parts, "--overwrite") == 0
    content = output.read_bytes()
    assert merge(output, parts) == 0
    output.write_bytes(content + b"one more\n")
    assert merge(output, parts) == 2
    output.write_bytes(content[:-1])
    assert merge(output, parts) == 2


def test_each_suffix_is_merged_and_merged_again_to_the_same_bytes(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "parts", 2)
    whole, _ = run_job(tmp_path / "whole", tmp_path)
    for suffix in (".parquet", ".json", ".jsonl"):
        output = tmp_path / f"m{suffix}"
        assert merge(output, parts) == 0
        content = output.read_bytes()
        settings = describe_settings(whole.settings)
        assert content == b"".join(encode_table(output, whole.answers, settings))
        assert merge(output, parts) == 0
        output.write_bytes(content[:-1])
        assert merge(output, parts) == 2
        assert merge(output, parts, "--overwrite") == 0
        assert output.read_bytes() == content


def test_a_suffix_that_nobody_writes_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", 2)
    for output, faces in (("m.xlsx", "faces.csv"), ("m.csv", "faces.txt")):
        words = [tmp_path / output, *parts, "--faces", tmp_path / faces]
        assert cli.merge([str(word) for word in words]) == 2
        assert "no table is written as" in capsys.readouterr().err
    words = [tmp_path / "photos", "--checkpoint", tmp_path / "no.ckpt", "--output", "m.tsv"]
    assert cli.predict([str(word) for word in words]) == 2
    assert "no table is written as .tsv" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}


def test_exit_codes(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, 2)
    assert merge(tmp_path / "m.csv", parts, "--strict") == 3
    nothing = [write_part(tmp_path / "n", f"{i}/2", ["4.jpg"] * 20) for i in (1, 2)]
    assert merge(tmp_path / "n.csv", nothing) == 4


def test_submission_is_filled_from_all_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", 2)
    sample = tmp_path / "sample.csv"
    sample.write_text("id,y\n29,0\n0,0\n3,0\nnobody,0\n")
    assert merge(tmp_path / "m.csv", parts, "--submission", sample) == 0
    rows = read_csv(tmp_path / "submission.csv", ["id", "y"])
    assert [row["y"] for row in rows] == ["0.250000", "0.000000", "0.075000", "0.250000"]
    assert "rows without a score got 0.25" in capsys.readouterr().out


def test_no_space_is_survived(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", 2)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(512 * 1024 - 4096))
    assert merge(small_disk / "m.csv", parts) == 1
    error = capsys.readouterr().err
    assert "no space left while writing" in error
    assert "free some space and run the same command again" in error
    ballast.unlink()
    assert merge(small_disk / "m.csv", parts) == 0
    assert merge(tmp_path / "m.csv", parts) == 0
    assert tables(small_disk) == tables(tmp_path)
    assert {path.name for path in small_disk.iterdir()} == {"m.csv", "faces-m.csv"}


# Refusals


def edit_settings(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        file = job_folder(path) / "job.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def last_shard(path: Path) -> Path:
    return sorted((job_folder(path) / "shards").iterdir())[-1]


def cut(path: Path) -> None:
    answers = last_shard(path) / "answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: shutil.rmtree(last_shard(path)),
            r"part 2/3 in .*2-3\.csv\.job is unfinished; go on with its own command: deepfake "
            r"predict with --shard 2/3",
        ),
        (cut, r"part 2/3 in .* is damaged \(00019\); mend it with its own command"),
        (
            lambda path: shutil.rmtree(job_folder(path)),
            r"2-3\.csv\.job is no part of a job: it holds no job\.json",
        ),
        (edit_settings(part=None), "is a whole job, not a part"),
        (edit_settings(part="1/3"), "are both part 1/3"),
        (edit_settings(part="2/4"), "is part 1/3 and .* is part 2/4"),
        (edit_settings(checkpoint_sha256="d"), "jobs: checkpoint_sha256='c' and 'd'; parts"),
        (edit_settings(plan_sha256="d"), r"plan\.csv is not the plan that job\.json tells of"),
        (edit_settings(versions={"torch": "9"}), "of different jobs: .*; parts of one job have"),
        (edit_settings(sampling={"frames": 3}), "different jobs: sampling=None and {'frames': 3}"),
        (lambda path: (job_folder(path) / "job.json").write_text("[]"), "holds no settings"),
        (lambda path: (job_folder(path) / "job.json").write_text("x"), "cannot be read"),
    ],
    ids=[
        *("unfinished", "damaged", "no-job", "whole", "number", "of", "checkpoint", "plan"),
        *("versions", "setting", "foreign", "no-json"),
    ],
)
def test_refuses_parts_that_do_not_fit(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    parts = write_parts(tmp_path, 3)
    damage(parts[1])
    with pytest.raises(UsageError, match=message):
        join_parts([job_folder(part) for part in parts], "predict")


def test_refuses_parts_with_other_inputs(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, "1/2"), write_part(tmp_path, "2/2", [*NAMES[1:], "99.jpg"])]
    with pytest.raises(UsageError, match="inputs were 1 added, 1 removed, 0 modified"):
        join_parts([job_folder(part) for part in parts], "predict")


def test_refuses_missing_and_mixed_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", 3)
    for words, message in (
        ([parts[0], parts[2]], "part 2/3 is missing"),
        ([*parts, parts[0]], "are both part 1/3"),
        ([*parts, tmp_path], "is a folder and"),
        ([tmp_path / "parts"], "are for parts of predict"),
        ([*parts[:2], tmp_path / "none.csv"], "none.csv: no such folder or file; name the output"),
    ):
        assert merge(tmp_path / "m.csv", words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "m.csv").exists()
    assert cli.merge([str(tmp_path / "no" / "m.csv"), *map(str, parts)]) == 2
    assert "there is no folder" in capsys.readouterr().err
    options = (["--no-answer", "0.0"], ["--overwrite"], ["--submission-output", "s.csv"])
    for more in options:
        assert cli.merge([str(tmp_path / "m"), str(tmp_path / "parts"), *more]) == 2
        assert "are for parts of predict" in capsys.readouterr().err
    assert cli.merge(list(map(str, parts))) == 2
    assert f"{parts[0]} is a part itself; name what is written" in capsys.readouterr().err
    assert cli.merge(["-", *map(str, parts)]) == 2
    assert "name a file" in capsys.readouterr().err


# The whole way, with a network


def words(trained: Trained, output: Path, *more: object) -> list[str]:
    options = ["--checkpoint", trained.checkpoint, "--output", output, "--workers", "0"]
    options += ["--faces", output.with_name(f"faces-{output.name}")]
    return [str(word) for word in [trained.photos, *options, "--device", "cpu", "--quiet", *more]]


def predict_in_a_process(trained: Trained, output: Path, part: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "predict.py"), *words(trained, output, "--shard", part)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert cli.predict(words(trained, folder / "m.csv")) == 0
    return tables(folder)


def test_predicted_in_parts_is_predicted_at_once(
    trained: Trained, whole: dict[str, bytes], tmp_path: Path
) -> None:
    parts = [tmp_path / f"{number}.csv" for number in range(1, 6)]
    for number, part in enumerate(parts, 1):
        assert cli.predict(words(trained, part, "--shard", f"{number}/5")) == 0
    assert merge(tmp_path / "m.csv", parts) == 0
    assert tables(tmp_path) == whole
    # The parts' own tables, one below the other, are the same rows.
    bodies = [part.read_bytes().split(b"\n", 1) for part in parts]
    assert bodies[0][0] + b"\n" + b"".join(body for _, body in bodies) == whole["m.csv"]


def test_a_part_in_a_store_lies_there_with_its_job(
    trained: Trained, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    job = ["--job", str(tmp_path / "job")]
    with empty_memory() as memory:
        for number in (1, 2):
            line = words(trained, tmp_path / f"{number}.csv", "--shard", f"{number}/2", *job)
            line[line.index("--output") + 1] = f"memory://b/{number}.csv"
            assert cli.predict(line) == 0
        names = {path.rpartition("/")[2] for path in memory.find("/b")}
        assert names == {"1.csv", "2.csv", "job.json", "plan.csv", "shard.json", "answers.jsonl"}
        parts = ["memory://b/2.csv", "memory://b/1.csv", *job]
        merged = tmp_path / "here" / "m.csv"
        assert merge(merged, parts) == 0
    assert tables(tmp_path / "here") == whole


@pytest.mark.slow
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_processes_that_do_not_know_each_other(
    trained: Trained, whole: dict[str, bytes], tmp_path: Path, of: int
) -> None:
    parts = [tmp_path / f"{number}.csv" for number in range(1, of + 1)]
    for number, part in enumerate(parts, 1):
        predict_in_a_process(trained, part, f"{number}/{of}")
    command = [sys.executable, "-c", "import sys; from deepfake.cli import main; sys.exit(main())"]
    command += ["merge", str(tmp_path / "m.csv"), *map(str, parts)]
    command += ["--faces", str(tmp_path / "faces-m.csv")]
    process = subprocess.Popen(command, cwd=ROOT)
    while not [*tmp_path.glob("*m.csv"), *tmp_path.glob(".tmp-*")] and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert tables(tmp_path) == whole


def test_a_finished_part_may_be_run_again(trained: Trained, tmp_path: Path) -> None:
    part = tmp_path / "1.csv"
    assert cli.predict(words(trained, part, "--shard", "1/5")) == 0
    before = part.read_bytes()
    assert cli.predict(words(trained, part, "--shard", "1/5")) == 0
    assert part.read_bytes() == before


def test_a_part_refuses_what_only_the_whole_can_do(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "1.csv"
    for more, message in (
        (["--shard", "3/2"], "shard 3/2: expected I/N"),
        (["--shard", "1/2", "--submission", "s.csv"], "give it to deepfake merge"),
        (["--shard", "1/2", "--output", "-"], "--shard needs a file as --output"),
    ):
        assert cli.predict(words(trained, part, *more)) == 2
        assert message in capsys.readouterr().err


def test_a_part_without_inputs_or_answers_is_no_failure(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"broken")
    for number in (1, 2):
        options = ["--checkpoint", str(trained.checkpoint), "--shard", f"{number}/2"]
        options += ["--output", str(tmp_path / f"{number}.csv"), "--workers", "0", "--quiet"]
        assert cli.predict([str(tmp_path / "photos"), *options]) == 0
        crops = [str(tmp_path / "photos"), str(tmp_path / f"crops{number}"), "--workers", "0"]
        assert cli.crop([*crops, "--quiet", "--shard", f"{number}/2"]) == 0
    assert (
        cli.merge([str(tmp_path / "m.csv"), str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]) == 4
    )
    crops = [str(tmp_path / f"crops{number}") for number in (1, 2)]
    assert cli.merge([str(tmp_path / "crops"), *crops]) == 4
