"""A prediction is one job: killed, changed, damaged or shared, it ends with the same tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deepfake import cli
from deepfake.cli.score_tables import job_folder
from deepfake.errors import JobError, UsageError
from deepfake.inference.graphs import record_graph
from deepfake.inference.job import KIND, ScoreBlocks, iter_answers
from deepfake.inference.predictor import Predictor
from deepfake.jobs.engine import Job, run_here
from deepfake.jobs.folder import JobFolder, hash_file, read_job
from deepfake.media.discovery import discover, list_sources
from deepfake.records import FaceScore, Result, Source
from tests.conftest import Trained
from tests.fakes import tree_hashes
from tests.inference.made_answers import NAMES, answer, run_job
from tests.jobs.made_executor import work_elsewhere
from tests.made_results import make_answer

ROOT = Path(__file__).parents[2]
FACE = FaceScore(3, 0.12, 0, (1.25, 2.0, 30.5, 40.0), 0.987654321, 0.1 + 0.2)


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    job, asked = run_job(tmp_path / "job", tmp_path)
    assert asked == NAMES
    assert list(job.answers()) == [answer(source) for source in list_sources(NAMES, tmp_path)]
    again, asked = run_job(tmp_path / "job", tmp_path)
    assert (again.is_finished, asked) == (True, [])


def test_answers_of_unchanged_inputs_are_used_again(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text(name)
    run_job(tmp_path / "job", tmp_path)
    (tmp_path / "7.jpg").write_text("7.jpX")
    (tmp_path / "3.jpg").rename(tmp_path / "33.jpg")
    names = ["33.jpg", *(name for name in NAMES if name != "3.jpg")]
    job, asked = run_job(tmp_path / "job", tmp_path, names)
    assert sorted(asked) == ["33.jpg", "7.jpg"]
    assert [score.path for score in job.answers()] == names


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        pytest.param(("0.5", "NaN"), "NaN is no finite number", id="nan"),
        pytest.param(("0.5", "1.5"), "score 1.5", id="range"),
        pytest.param(('"ok"', '"fine"'), "'fine' is not a valid Status", id="status"),
        pytest.param(("0.5", '"high"'), "not supported between", id="text"),
        pytest.param(('"faces": ', '"faces": ' + "[" * 100_000), "nested too deeply", id="deep"),
        pytest.param(('"people"', '"folk"'), "'people'", id="missing"),
        pytest.param(("0.5", "9" * 5000), "Exceeds the limit", id="digits"),
    ],
)
def test_an_answer_that_is_none_is_named_by_its_line(
    spoil: tuple[str, str], problem: str, tmp_path: Path
) -> None:
    lines = [json.dumps(asdict(make_answer(name, 0.5))) for name in "ab"]
    (tmp_path / "answers.jsonl").write_text(lines[0] + "\n" + lines[1].replace(*spoil, 1) + "\n")
    answers = iter_answers(tmp_path)
    assert next(answers) == make_answer("a", 0.5)
    with pytest.raises(JobError, match=rf"answers\.jsonl:2 holds no answer \(.*{problem}"):
        next(answers)


def test_a_job_knows_when_it_began_and_when_it_last_answered(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text(name)
    before = datetime.now(UTC)
    first = run_job(tmp_path / "job", tmp_path)[0].times
    assert before <= first[0] <= first[1] <= datetime.now(UTC)
    # With nothing left to do they stay; with something, the job has still begun when it did.
    assert run_job(tmp_path / "job", tmp_path)[0].times == first
    (tmp_path / "7.jpg").write_text("7.jpX")
    began, ended = run_job(tmp_path / "job", tmp_path)[0].times
    assert (began, ended > first[1]) == (first[0], True)
    # Something in front of it moves every answer to another block; they are older all the same.
    (tmp_path / "99.jpg").write_text("99")
    job, asked = run_job(tmp_path / "job", tmp_path, ["99.jpg", *NAMES])
    assert (asked, job.times[0]) == (["99.jpg"], began)
    ended = run_job(tmp_path / "job", tmp_path)[0].times[1]
    for content in ("", "[1]", '{"began": 3, "ended": null}', '{"began": "yesterday"}'):
        (tmp_path / "job" / "times.json").write_text(content)
        assert run_job(tmp_path / "job", tmp_path)[0].times[0] >= ended
    (tmp_path / "job" / "times.json").unlink()
    os.mkfifo(tmp_path / "job" / "times.json")
    with pytest.raises(UsageError, match="is no regular file"):
        run_job(tmp_path / "job", tmp_path)


def words(trained: Trained, output: Path, *more: object, few: bool = False) -> list[str]:
    photos = trained.photos
    if few:
        photos = output.with_suffix(".txt")
        photos.write_text("".join(f"{p}\n" for p in sorted(trained.photos.rglob("*.png"))[:4]))
    options = ["--checkpoint", trained.checkpoint, "--output", output, "--workers", "0"]
    options += ["--faces", output.with_name(f"faces-{output.name}"), "--batch-size", "4"]
    return [str(word) for word in [photos, *options, "--device", "cpu", "--quiet", *more]]


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture(scope="module")
def clean(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clean")
    assert cli.predict(words(trained, folder / "s.csv")) == 0
    return tables(folder)


def start(trained: Trained, output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *words(trained, output, "--workers", "1")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(root: Path, process: subprocess.Popen[str], number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(root.glob("shards/0*"))) < number:
        assert process.poll() is None, "it ended before it could be met"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow  # a crop job, which is the same engine, is killed in the default run
@pytest.mark.parametrize("shards", [1, 9])
def test_killed_and_started_again_gives_the_same_bytes(
    trained: Trained, clean: dict[str, bytes], shards: int, tmp_path: Path
) -> None:
    output = tmp_path / "s.csv"
    process = start(trained, output)
    wait_for_shards(job_folder(output), process, shards)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    assert cli.predict(words(trained, output)) == 0
    assert tables(tmp_path) == clean
    assert {path.name for path in tmp_path.iterdir()} == {"s.csv", "faces-s.csv", "s.csv.job"}
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_a_second_job_is_refused_and_a_signal_ends_the_first_with_how_to_go_on(
    trained: Trained,
    clean: dict[str, bytes],
    number: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "s.csv"
    process = start(trained, output)
    wait_for_shards(job_folder(output), process, 1)
    assert cli.predict(words(trained, output)) == 2
    assert f"is in use by process {process.pid} on" in capsys.readouterr().err
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    (line,) = [line for line in errors.splitlines() if line and not line.startswith("INFO")]
    assert line == "interrupted; run the same command again to go on"
    assert cli.predict(words(trained, output)) == 0
    assert tables(tmp_path) == clean


def test_a_finished_job_run_again_says_so(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.csv"
    assert cli.predict(words(trained, output, few=True)) == 0
    assert "finished already" not in capsys.readouterr().out
    before = tables(tmp_path)
    assert cli.predict(words(trained, output, few=True)) == 0
    assert f"{output} was finished already; nothing was left to do" in capsys.readouterr().out
    output.write_text("garbled")
    assert cli.predict(words(trained, output, few=True)) == 0
    assert f"{output} was finished already; written now: {output}\n" in capsys.readouterr().out
    assert tables(tmp_path) == before
    sample = tmp_path / "sample.csv"
    for row in ("nobody.jpg", "somebody.jpg"):
        sample.write_text(f"id,y\n{row},0\n")
        assert cli.predict(words(trained, output, "--submission", str(sample), few=True)) == 0
        told = capsys.readouterr().out
        assert f"finished already; written now: {tmp_path / 'submission.csv'}\n" in told


def test_other_settings_are_refused_by_name_and_overwrite_begins_anew(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.csv"
    assert cli.predict(words(trained, output, few=True)) == 0
    more = ["--aggregate", "max"]
    assert cli.predict(words(trained, output, *more, few=True)) == 2
    assert "begun with policy='mean', now it is 'max'" in capsys.readouterr().err
    assert cli.predict(words(trained, output, *more, "--overwrite", few=True)) == 0
    assert read_job(job_folder(output))["aggregation"]["policy"] == "max"


def test_what_is_in_the_way_is_not_touched(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "s.csv.job"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def put_a_folder() -> None:
        root.mkdir()
        (root / "letter").write_text("dear")

    for make in (lambda: root.write_text("a"), lambda: root.symlink_to(elsewhere), put_a_folder):
        make()
        assert cli.predict(words(trained, tmp_path / "s.csv", "--overwrite")) == 2
        assert re.search("in the way|holds no predict job", capsys.readouterr().err)
        if root.is_dir() and not root.is_symlink():
            assert (root / "letter").read_text() == "dear"
        else:
            root.unlink()
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("which", ["output", "faces", "submission-output", "report"])
@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "relative"])
def test_an_output_never_destroys_an_input(
    which: str,
    link: str,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suffix = ".html" if which == "report" else ".csv"
    photo, sample = tmp_path / f"photo{suffix}", tmp_path / "sample.csv"
    photo.write_bytes(next(trained.photos.rglob("*.png")).read_bytes())
    sample.write_text("id,y\nphoto,0\n")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{photo}\n")
    target: Path = photo
    if link == "symbolic":
        target = tmp_path / f"link{suffix}"
        target.symlink_to(photo)
    elif link == "hard":
        target = tmp_path / f"hard{suffix}"
        os.link(photo, target)
    elif link == "relative":
        monkeypatch.chdir(tmp_path)
        target = Path(f"./photo{suffix}")
    before = photo.read_bytes()
    options = ["--output", tmp_path / "s.csv", "--submission", sample, f"--{which}", target]
    line = [listing, "--checkpoint", trained.checkpoint, "--workers", "0", "--overwrite", *options]
    assert cli.predict([str(word) for word in line]) == 2
    assert "would destroy the input" in capsys.readouterr().err
    assert photo.read_bytes() == before


@pytest.mark.timeout(60)
def test_a_strangers_job_is_gone_on_with_only_inside_of_its_folder(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = job_folder(tmp_path / "s.csv")
    for target in (None, "/dev/zero", tmp_path / "outside"):
        root.mkdir()
        if target is None:
            os.mkfifo(root / "outputs.json")
        else:
            (root / "outputs.json").symlink_to(target)
        assert cli.predict(words(trained, tmp_path / "s.csv")) == 2
        assert "names 'outputs.json', which" in capsys.readouterr().err
        shutil.rmtree(root)
    assert not (tmp_path / "outside").exists()


def test_the_checkpoint_is_an_input(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(trained.checkpoint.read_bytes())
    (tmp_path / "s.csv").symlink_to(checkpoint)
    (tmp_path / "t.html").symlink_to(checkpoint)
    for output, more in (("s.csv", []), ("t.csv", ["--report", tmp_path / "t.html"])):
        line = [trained.photos, "--checkpoint", checkpoint, "--output", tmp_path / output, *more]
        assert cli.predict([str(word) for word in [*line, "--overwrite"]]) == 2
        assert "would destroy the input" in capsys.readouterr().err


@pytest.mark.slow
def test_another_engine_predicts_to_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    predictor = Predictor.from_checkpoint(trained.checkpoint, "cpu", backend="torch")
    sources = discover(trained.photos).sources[:12]
    for name, execute in (("here", run_here), ("there", work_elsewhere)):
        (tmp_path / name).mkdir()
        job = Job(JobFolder(tmp_path / name, KIND), sources, 5)
        job.begin([], {})
        assert len(list(job.run(job.find_todo(), ScoreBlocks(predictor), execute))) == job.n_blocks
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there")


@pytest.mark.slow
def test_answers_do_not_pile_up(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the list of inputs may grow: twenty faces an input would be some six kilobytes more."""

    def score(
        self: Predictor, blocks: Iterable[Sequence[Source]], keep: object
    ) -> Iterator[list[Result]]:
        for block in blocks:
            faces = tuple(replace(FACE, frame_index=frame) for frame in range(20))
            yield [make_answer(source.name, 0.5, faces=faces) for source in block]

    monkeypatch.setattr(Predictor, "score_blocks", score)
    # A block's answers are held, and a long job has larger blocks: both jobs get the same here.
    monkeypatch.setattr("deepfake.inference.job.choose_block_size", lambda inputs: 8)
    peaks = []
    for number in (40, 240):
        listing = tmp_path / f"{number}.txt"
        listing.write_text("".join(f"{index:06d}.jpg\n" for index in range(number)))
        outputs = ["--output", str(tmp_path / f"{number}.csv"), "--quiet", "--backend", "torch"]
        outputs += ["--faces", str(tmp_path / f"f{number}.csv"), "--workers", "0"]
        tracemalloc.start()
        assert cli.predict([str(listing), "--checkpoint", str(trained.checkpoint), *outputs]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (tmp_path / f"f{number}.csv").read_text().count("\n") == 20 * number + 1
    assert peaks[1] - peaks[0] < 2000 * 200


@pytest.mark.parametrize("room_kb", [8, 40])
def test_a_full_disk_is_survived(
    trained: Trained,
    clean: dict[str, bytes],
    small_disk: Path,
    room_kb: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((512 - room_kb) * 1024))
    for _ in range(2):  # nor does it help to try again
        assert cli.predict(words(trained, small_disk / "s.csv")) == 1
        error = capsys.readouterr().err
        assert "no space left" in error
        assert "free some space and run the same command again to go on" in error
    ballast.unlink()
    assert cli.predict(words(trained, small_disk / "s.csv")) == 0
    assert tables(small_disk) == clean


def test_a_job_goes_on_with_the_backend_that_it_was_begun_with(
    trained: Trained,
    graph: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(trained.checkpoint.read_bytes())
    beside = tmp_path / "model.onnx"
    beside.write_bytes(graph)
    record_graph(graph, hash_file(checkpoint))
    output = tmp_path / "s.csv"
    photos = tmp_path / "photos.txt"
    photos.write_text("".join(f"{p}\n" for p in sorted(trained.photos.rglob("*.png"))[:4]))
    line = [str(photos), "--checkpoint", str(checkpoint), "--output", str(output)]
    line += ["--batch-size", "2", "--workers", "0", "--device", "cpu", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.inference.outputs.write_stream", stop)
        assert cli.predict(line) == 130
    assert read_job(job_folder(output))["backend"] == "onnx"
    assert cli.predict([*line, "--backend", "torch"]) == 2
    assert "begun with backend='onnx', now it is 'torch'" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.inference.export.find_spec", lambda name: None)
        assert cli.predict(line) == 2
    assert "pip install 'deepfake[onnx]'" in capsys.readouterr().err
    beside.unlink()  # four photos alone would not be worth a graph
    monkeypatch.setattr("deepfake.inference.backend.make_graph", lambda checkpoint: graph)
    assert cli.predict(line) == 0


def test_machines_that_share_a_job_score_alike(
    trained: Trained, graph: bytes, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(trained.checkpoint.read_bytes())
    (tmp_path / "model.onnx").write_bytes(graph)  # this machine has a graph, another may not
    record_graph(graph, hash_file(checkpoint))
    photos = [str(path) for path in sorted(trained.photos.rglob("*.png"))[:2]]
    (tmp_path / "list.txt").write_text("\n".join(photos) + "\n")
    line = [str(tmp_path / "list.txt"), "--checkpoint", str(checkpoint), "--workers", "0"]
    output = tmp_path / "1.csv"
    assert cli.predict([*line, "--output", str(output), "--shard", "1/2", "--quiet"]) == 0
    assert read_job(job_folder(output))["backend"] == "torch"


def stop(path: Path, chunks: object) -> None:
    raise KeyboardInterrupt
