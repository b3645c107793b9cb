"""Parts of a prediction become the very tables of the undivided job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.dataset.parts import JobPart
from deepfake.errors import UsageError
from deepfake.inference.journal import Journal, journal_path
from deepfake.inference.merging import join_answers
from deepfake.media.discovery import list_sources
from deepfake.records import FaceScore, MediaScore, Source, Status
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.fakes import run_and_die

ROOT = Path(__file__).parents[2]
NAMES = [f"{number}.jpg" for number in range(30)]  # four blocks of eight
SETTINGS = {"checkpoint_sha256": "c", "prior": 0.25, "batch_size": 4, "versions": {}}


def answer(source: Source) -> MediaScore:
    number = int(Path(source.name).stem)
    if number % 5 == 4:
        return MediaScore(source.name, Status.NO_FACE, "no_face: none", None, None, 0.5, 0)
    box, p_fake = (0.0, 0.0, 9.5, 9.5), number / 30
    faces = tuple(FaceScore(frame, frame / 7, 0, box, 0.99, p_fake) for frame in range(number % 3))
    label = "fake" if p_fake >= 0.5 else "real"
    return MediaScore(source.name, Status.OK, "", p_fake, label, 0.5, 1, box, faces)


def write_part(folder: Path, part: str, names: list[str] = NAMES, **settings: Any) -> Path:
    """What ``predict --shard`` leaves, with made answers."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{part.replace('/', '-')}.csv"
    sources = list_sources(names, folder)
    journal = Journal(path, SETTINGS | settings, sources, JobPart.parse(part))
    journal.open()
    todo = [sources[index] for index in journal.inputs]
    for start in range(0, len(todo), 3):
        journal.append([answer(source) for source in todo[start : start + 3]])
    path.write_text("the part's own table\n")
    return path


def write_parts(folder: Path, of: int) -> list[Path]:
    return [write_part(folder, f"{number}/{of}") for number in range(1, of + 1)]


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_all_answers_in_order(tmp_path: Path, of: int) -> None:
    joined = join_answers(write_parts(tmp_path, of)[::-1])
    assert list(joined.scores()) == [answer(source) for source in list_sources(NAMES, tmp_path)]
    assert joined.prior == 0.25


def merge(output: Path, parts: list[Path], *more: object) -> int:
    words = [output, *parts, "--faces", output.with_name(f"faces-{output.name}"), *more]
    return cli.merge([str(word) for word in words])


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*m.csv")}


def test_killed_before_any_change_and_run_again_is_the_same(tmp_path: Path) -> None:
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
        event += 1
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
    assert [row["y"] for row in rows] == ["0.250000", "0.000000", "0.100000", "0.250000"]
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


def cut(path: Path) -> None:
    journal = journal_path(path)
    journal.write_bytes(journal.read_bytes()[:-5])


def edit_head(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        head, *lines = journal_path(path).read_text().splitlines(keepends=True)
        text = json.dumps(json.loads(head) | changes) + "\n"
        journal_path(path).write_text(text + "".join(lines))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            cut,
            r"part 2/3 in .*2-3\.csv is unfinished \(6 of 8 inputs\); go on with its own command: "
            r"deepfake predict INPUT --output .*2-3\.csv --shard 2/3",
        ),
        (Path.unlink, r"part 2/3 in .* is unfinished \(8 of 8 inputs\)"),
        (
            lambda path: journal_path(path).unlink(),
            r"is no part of a prediction: .*2-3\.csv\.partial does not lie beside it",
        ),
        (edit_head(part=None), "is a whole job that is unfinished, not a part"),
        (edit_head(part="1/3"), "are both part 1/3"),
        (edit_head(part="2/4"), "is part 1/3 and .* is part 2/4"),
        (edit_head(checkpoint_sha256="d"), "different jobs: checkpoint_sha256='c' and 'd'; parts"),
        (edit_head(inputs_sha256="d"), "different jobs: inputs_sha256="),
        (edit_head(versions={"torch": "9"}), "of different jobs: .*; parts of one job have the"),
        (edit_head(sampling={"frames": 3}), "of different jobs: sampling=None and {'frames': 3}"),
        (
            lambda path: journal_path(path).write_text("[]\n"),
            r"does not start like answers of predict; was it edited",
        ),
        (lambda path: journal_path(path).write_text("x"), "does not start like answers of predict"),
    ],
    ids=[
        *("unfinished", "no-table", "no-journal", "whole", "number", "of", "checkpoint", "inputs"),
        *("versions", "setting", "foreign", "no-json"),
    ],
)
def test_refuses_parts_that_do_not_fit(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    parts = write_parts(tmp_path, 3)
    damage(parts[1])
    with pytest.raises(UsageError, match=message):
        join_answers(parts)


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


@pytest.mark.parametrize("of", [2, 5])
def test_predicted_in_parts_is_predicted_at_once(
    trained: Trained, whole: dict[str, bytes], tmp_path: Path, of: int
) -> None:
    parts = [tmp_path / f"{number}.csv" for number in range(1, of + 1)]
    for number, part in enumerate(parts, 1):
        assert cli.predict(words(trained, part, "--shard", f"{number}/{of}")) == 0
    assert merge(tmp_path / "m.csv", parts) == 0
    assert tables(tmp_path) == whole
    # The parts' own tables, one below the other, are the same rows.
    bodies = [part.read_bytes().split(b"\n", 1) for part in parts]
    assert bodies[0][0] + b"\n" + b"".join(body for _, body in bodies) == whole["m.csv"]


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
    before = part.read_bytes(), journal_path(part).read_bytes()
    assert cli.predict(words(trained, part, "--shard", "1/5")) == 0
    assert (part.read_bytes(), journal_path(part).read_bytes()) == before


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
