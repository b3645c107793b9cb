from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake import cli
from deepfake.errors import UsageError
from deepfake.inference.journal import Journal, journal_path, read_settings
from deepfake.inference.predictor import Predictor
from deepfake.media.discovery import list_sources
from deepfake.records import FaceScore, MediaScore, Source, Status
from deepfake.storage import no_space_is_an_error
from tests.conftest import Trained

ROOT = Path(__file__).parents[2]
FACE = FaceScore(3, 0.12, 0, (1.25, 2.0, 30.5, 40.0), 0.987654321, 0.1 + 0.2)
BATCHES = [
    [
        MediaScore(
            "a\udcff.jpg",
            Status.OK,
            "",
            0.1 + 0.2,
            "real",
            0.5,
            1,
            (1.25, 2.0, 30.5, 40.0),
            (FACE,),
        )
    ],
    [
        MediaScore("b\n.jpg", Status.NO_FACE, "no_face: none", None, None, 0.5, 0),
        MediaScore("c.jpg", Status.UNREADABLE, "io_error: gone", None, None, 0.5, 0),
    ],
]
ALL = [score for batch in BATCHES for score in batch]


def sources(folder: Path) -> tuple[Source, ...]:
    return list_sources(["a.jpg", "b.jpg", "c.jpg"], folder)


def journal(folder: Path, **settings: object) -> Journal:
    return Journal(folder / "s.csv", {"batch_size": 2, "prior": 0.5, **settings}, sources(folder))


def filled(folder: Path) -> Path:
    begun = journal(folder)
    assert begun.open() == 0
    for batch in BATCHES:
        begun.append(batch)
    return begun.path


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    assert filled(tmp_path) == journal_path(tmp_path / "s.csv") == tmp_path / "s.csv.partial"
    again = journal(tmp_path)
    assert again.open() == len(ALL)
    assert list(again.scores()) == ALL


def test_cut_off_anywhere_whole_batches_stand(tmp_path: Path) -> None:
    path = filled(tmp_path)
    content = path.read_bytes()
    ends = [end + shift for end in range(len(content)) if content[end] == 10 for shift in (0, 1)]
    for length in sorted({*range(0, len(content), 31), *ends} - {len(content)}):
        path.write_bytes(content[:length])
        answered = journal(tmp_path).open()
        assert answered in (0, 1)
        assert list(journal(tmp_path).scores()) == ALL[:answered]
        journal(tmp_path).append(ALL[answered:])
        assert journal(tmp_path).open() == len(ALL)
        assert list(journal(tmp_path).scores()) == ALL


def test_a_hole_that_a_power_cut_left_ends_what_stands(tmp_path: Path) -> None:
    path = filled(tmp_path)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + bytes(len(last) - 1) + b"\n")
    assert journal(tmp_path).open() == 1
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3}, "begun with batch_size=2, now it is 3"),
        ({"checkpoint_sha256": "f"}, "begun with checkpoint_sha256=None, now it is 'f'"),
    ],
    ids=["changed", "new"],
)
def test_another_jobs_answers_are_refused(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    filled(tmp_path)
    with pytest.raises(UsageError, match=message):
        journal(tmp_path, **settings).open()


def test_changed_inputs_are_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"now it is there")
    with pytest.raises(UsageError, match="is of another job: it was begun with inputs_sha256"):
        journal(tmp_path).open()


def test_tells_what_a_job_was_begun_with(tmp_path: Path) -> None:
    output = tmp_path / "s.csv"
    assert read_settings(output) == {}
    path = filled(tmp_path)
    assert read_settings(output)["batch_size"] == 2
    head = path.read_bytes().split(b"\n")[0]
    path.write_bytes(head)  # cut off before its line break: it never counted
    assert read_settings(output) == {}


def test_removed_when_all_is_written(tmp_path: Path) -> None:
    filled(tmp_path)
    journal(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_predict_killed_and_started_again_gives_the_same_bytes(
    trained: Trained, tmp_path: Path
) -> None:
    """A real process, SIGKILL as soon as some answers are kept, then the same command again."""

    def words(name: str) -> list[str]:
        options = ["--checkpoint", str(trained.checkpoint), "--output", str(tmp_path / name)]
        options += ["--faces", str(tmp_path / f"faces-{name}"), "--batch-size", "2"]
        return [str(trained.photos), *options, "--workers", "1", "--device", "cpu", "--quiet"]

    assert cli.predict(words("clean.csv")) == 0
    command = [sys.executable, str(ROOT / "predict.py"), *words("killed.csv")]
    partial = journal_path(tmp_path / "killed.csv")
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.csv").exists()
    kept = sum(len(json.loads(line)) for line in partial.read_text().splitlines()[1:-1])
    assert 0 < kept < 48
    assert cli.predict(words("killed.csv")) == 0
    assert not partial.exists()
    for name in ("", "faces-"):
        clean, killed = tmp_path / f"{name}clean.csv", tmp_path / f"{name}killed.csv"
        assert killed.read_bytes() == clean.read_bytes()


def test_answers_do_not_pile_up(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the list of inputs may grow: twenty faces an input would be some six kilobytes more."""

    def score(self: Predictor, sources: Sequence[Source], *rest: int) -> Iterator[list[MediaScore]]:
        for source in sources:
            faces = tuple(replace(FACE, frame_index=frame) for frame in range(20))
            yield [MediaScore(source.name, Status.OK, "", 0.5, "real", 0.6, 20, None, faces)]

    monkeypatch.setattr(Predictor, "score_batches", score)
    peaks = []
    for number in (100, 1100):
        listing = tmp_path / f"{number}.txt"
        listing.write_text("".join(f"{index:06d}.jpg\n" for index in range(number)))
        outputs = ["--output", str(tmp_path / f"{number}.csv"), "--quiet", "--backend", "torch"]
        outputs += ["--faces", str(tmp_path / f"f{number}.csv"), "--workers", "0"]
        tracemalloc.start()
        assert cli.predict([str(listing), "--checkpoint", str(trained.checkpoint), *outputs]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (tmp_path / f"f{number}.csv").read_text().count("\n") == 20 * number + 1
    assert peaks[1] - peaks[0] < 2000 * 1000


# A full disk


def predict_to(trained: Trained, folder: Path) -> int:
    options = ["--checkpoint", str(trained.checkpoint), "--output", str(folder / "s.csv")]
    options += ["--faces", str(folder / "f.csv"), "--batch-size", "4", "--workers", "0"]
    return cli.predict([str(trained.photos), *options, "--device", "cpu", "--quiet"])


def read_tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def clean_tables(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clean")
    assert predict_to(trained, folder) == 0
    return read_tables(folder)


@pytest.mark.parametrize("room_kb", [8, 24])  # the journal does not fit; the tables do not
def test_a_full_disk_is_survived(
    trained: Trained,
    clean_tables: dict[str, bytes],
    small_disk: Path,
    room_kb: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((512 - room_kb) * 1024))
    for _ in range(2):  # nor does it help to try again
        assert predict_to(trained, small_disk) == 1
        error = capsys.readouterr().err
        assert "no space left while writing" in error
        assert "free some space and run the same command again to go on" in error
    kept = journal_path(small_disk / "s.csv").read_bytes()
    assert kept.count(b"\n") > 1
    ballast.unlink()
    assert predict_to(trained, small_disk) == 0
    assert read_tables(small_disk) == clean_tables


def test_no_space_in_the_middle_of_a_line_is_survived(
    trained: Trained,
    clean_tables: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, calls = Journal._write, 0

    def write(self: Journal, content: object, mode: str) -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            return real(self, content, mode)
        with no_space_is_an_error(self.path), self.path.open(mode) as file:
            file.write(json.dumps(content)[:40])
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Journal, "_write", write)
    assert predict_to(trained, tmp_path) == 1
    assert "free some space and run the same command again to go on" in capsys.readouterr().err
    monkeypatch.undo()
    seen: list[int] = []
    real_score = Predictor.score_batches

    def count(self: Predictor, sources: Sequence[Source], *rest: int) -> Iterator[list[MediaScore]]:
        seen.append(len(sources))
        return real_score(self, sources, *rest)

    monkeypatch.setattr(Predictor, "score_batches", count)
    assert predict_to(trained, tmp_path) == 0
    assert seen == [48 - 8]  # two batches of four were finished, and are not done again
    assert read_tables(tmp_path) == clean_tables


def test_a_job_that_goes_on_replaces_no_file_but_its_own(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(next(trained.photos.rglob("*.png")))
    output, precious = tmp_path / "s.csv", tmp_path / "precious.csv"
    words = [photo, "--checkpoint", str(trained.checkpoint), "--output", str(output)]
    words += ["--workers", "0", "--device", "cpu", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.storage.write_stream", stop)
        assert cli.predict(words) == 130
    assert journal_path(output).exists()
    precious.write_text("precious")
    assert cli.predict([*words, "--faces", str(precious)]) == 2
    assert "is of another job: it was begun with faces=None" in capsys.readouterr().err
    assert precious.read_text() == "precious"
    assert cli.predict(words) == 0


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
    photos = tmp_path / "photos.txt"
    photos.write_text("".join(f"{p}\n" for p in sorted(trained.photos.rglob("*.png"))[:4]))
    output = tmp_path / "s.csv"
    words = [str(photos), "--checkpoint", str(checkpoint), "--output", str(output)]
    words += ["--batch-size", "2", "--workers", "0", "--device", "cpu", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.storage.write_stream", stop)
        assert cli.predict(words) == 130
    assert read_settings(output)["backend"] == "onnx"
    assert cli.predict([*words, "--backend", "torch"]) == 2
    assert "begun with backend='onnx', now it is 'torch'" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.inference.export.find_spec", lambda name: None)
        assert cli.predict(words) == 2
    assert "pip install 'deepfake[onnx]'" in capsys.readouterr().err
    lines = journal_path(output).read_bytes().splitlines(keepends=True)
    journal_path(output).write_bytes(b"".join(lines[:2]))
    beside.unlink()  # four photos alone would not be worth a graph
    monkeypatch.setattr("deepfake.inference.backend.make_graph", lambda checkpoint: graph)
    assert cli.predict(words) == 0
    resumed = output.read_bytes()
    beside.write_bytes(graph)
    assert cli.predict([*words, "--overwrite"]) == 0
    assert output.read_bytes() == resumed


def stop(path: Path, chunks: object) -> None:
    raise KeyboardInterrupt
