from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import deepfake
from deepfake import cli
from deepfake.errors import UsageError
from deepfake.inference.results import describe_results
from deepfake.learning import checkpoint_names
from deepfake.learning.checkpoint import read_info
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.embedder import EmbeddingModel
from deepfake.tables import CsvRow, read_csv
from tests.cli.conftest import predict
from tests.conftest import Trained
from tests.evaluation.made_checkpoint import DIM, write_checkpoint


def test_predict_writes_a_row_per_input_and_per_face(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, faces = tmp_path / "scores.csv", tmp_path / "faces.csv"
    assert predict(inbox, trained, "--output", output, "--faces", faces) == 0
    limits = ["real_limit", "fake_limit"]
    rows = read_csv(output, ["path", "status", "reason", "p_fake", "verdict", *limits, "n_faces"])
    assert [row["path"] for row in rows] == ["broken.jpg", "p0.png", "p1.png", "p2.png"]
    assert [row["status"] for row in rows] == ["unreadable", "ok", "ok", "ok"]
    assert [bool(row["p_fake"]) for row in rows] == [False, True, True, True]
    assert len(read_csv(faces, ["path", "p_fake"])) == 3
    assert "4 inputs = 3 ok + 0 no_face + 0 too_small + 1 unreadable" in capsys.readouterr().out


def test_predict_never_overwrites_unasked(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.csv"
    output.write_text("precious")
    assert predict(inbox, trained, "--output", output) == 2
    assert "exists; name another file or pass --overwrite" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert predict(inbox, trained, "--output", output, "--overwrite") == 0
    assert output.read_text().startswith("path,status,reason,remarks,p_fake,verdict,real_limit")


def test_predict_to_standard_output_is_only_the_table(
    inbox: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(inbox, trained, "--output", "-") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert "4 inputs" in captured.err


def test_predict_without_output_says_a_line_for_each_input_and_writes_nothing(
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert predict(inbox, trained) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["broken.jpg", "p0.png", "p1.png", "p2.png"]
    assert all(", p_fake 0." in line and "fake from" in line for line in lines[1:])
    assert "4 inputs = 3 ok" in shown.err
    assert predict(inbox / "p0.png", trained) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{inbox}/{lines[1]}\n"
    assert "inputs =" not in shown.err
    assert predict(inbox / "broken.jpg", trained) == 4
    assert predict(inbox, trained, "--shard", "1/2") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_the_model_in_the_box_answers_where_none_is_named(
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoint_names, "SHIPPED", tmp_path)
    (tmp_path / "default.safetensors").write_bytes(to_safetensors(trained.checkpoint))
    photo = inbox / "p0.png"
    assert cli.predict([str(photo), "--device", "cpu", "--quiet", "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    caplog.clear()
    (answer,) = deepfake.predict(photo, device="cpu")
    assert "model default: test_efficientnet" in caplog.text
    assert shown == next(describe_results([answer]))
    (same,) = deepfake.predict([str(photo)], trained.checkpoint, device="cpu")
    assert same == replace(answer, path=same.path)


def test_predict_exit_codes(inbox: Path, trained: Trained, tmp_path: Path) -> None:
    assert predict(inbox, trained, "--output", tmp_path / "a.csv", "--strict") == 3
    only = tmp_path / "only"
    only.mkdir()
    photo = (inbox / "p0.png").read_bytes()
    for name, code in (("a.png", 0), ("b.download", 3)):
        (only / name).write_bytes(photo)
        assert predict(only, trained, "--output", tmp_path / f"{name}.csv", "--strict") == code
    for path in inbox.glob("*.png"):
        path.unlink()
    assert predict(inbox, trained, "--output", tmp_path / "b.csv") == 4
    assert len(read_csv(tmp_path / "b.csv", ["path"])) == 1


def test_submission_fills_the_samples_own_rows(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("path,y\n./p2.png,0\np0.png,0\nbroken.jpg,0\nunknown.png,0\n")
    output = tmp_path / "scores.csv"
    words = ["--output", output, "--submission", sample]
    assert predict(inbox, trained, *words, "--no-answer", "0.25") == 0
    scores = {row["path"]: row["p_fake"] for row in read_csv(output, ["path", "p_fake"])}
    filled = read_csv(tmp_path / "submission.csv", ["path", "y"])
    assert [row["path"] for row in filled] == ["./p2.png", "p0.png", "broken.jpg", "unknown.png"]
    expected = [scores["p2.png"], scores["p0.png"], "0.250000", "0.250000"]
    assert [row["y"] for row in filled] == expected
    line = capsys.readouterr().out
    assert "4 submission rows = 2 scored + 1 without an answer + 1 that name no input" in line
    assert "rows without a score got 0.250000" in line
    assert sample.read_text().startswith("path,y\n./p2.png,0\n")


def test_submission_default_is_the_prior_of_the_training_crops(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,y\nbroken,0\n")
    assert predict(inbox, trained, "--output", tmp_path / "s.csv", "--submission", sample) == 0
    counts = read_info(trained.checkpoint)["counts"]["train"]
    prior = counts["fake"] / (counts["fake"] + counts["real"])
    (row,) = read_csv(tmp_path / "submission.csv", ["id", "y"])
    assert float(row["y"]) == pytest.approx(prior, abs=1e-6)


def test_several_checkpoints_and_a_mirror_make_one_score(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = read_info(trained.checkpoint)["recipe"]["crop"]["size"]
    other = EmbeddingModel("test_resnet", size, DIM, dropout=0.0)
    second = write_checkpoint(tmp_path / "b.ckpt", trained.crops, embedder=other)

    def table(name: str, *words: object) -> list[CsvRow]:
        base = [inbox, "--workers", "0", "--quiet", "--device", "cpu", *words]
        assert cli.predict([*map(str, base), "--output", str(tmp_path / f"{name}.csv")]) == 0
        return read_csv(tmp_path / f"{name}.csv", ["path", "p_fake", "remarks"])

    one, two = (table(p.stem, "--checkpoint", p) for p in (trained.checkpoint, second))
    page = tmp_path / "both.html"
    both = table("both", "--checkpoint", trained.checkpoint, second, "--report", page)
    text = page.read_text()
    assert "nobody has measured what they reach so" in text
    for path in (trained.checkpoint, second):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert table("again", "--checkpoint", trained.checkpoint, "--checkpoint", second) == both
    for row, first, last in zip(both[1:], one[1:], two[1:], strict=True):
        expected = (float(first["p_fake"]) + float(last["p_fake"])) / 2
        assert float(row["p_fake"]) == pytest.approx(expected, abs=2e-6)
        assert "averaged over 2 checkpoints" in row["remarks"]
    assert "averaged over" in capsys.readouterr().out
    mirrored = table("mirrored", "--checkpoint", trained.checkpoint, "--tta", "flip")
    assert [row["p_fake"] for row in mirrored] != [row["p_fake"] for row in one]
    assert "averaged over a mirrored look" in mirrored[1]["remarks"]

    # A table goes on with what it was begun with, not with another detector.
    again = [inbox, "--checkpoint", trained.checkpoint, "--output", tmp_path / "mirrored.csv"]
    assert cli.predict([*map(str, again), "--workers", "0", "--device", "cpu", "--quiet"]) == 2
    assert "begun with tta='flip', now it is 'none'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.predict(["--checkpoint", str(second), str(inbox), "--output", "x.csv"])
    told = "--input is missing; --checkpoint takes all words behind it: put INPUT before it"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "no/such/folder.csv"], "there is no folder"),
        (["--output", "same.csv", "--faces", "same.csv"], "two outputs have the same name"),
        (["--output", "a.csv", "--submission-output", "b.csv"], "-output needs --submission"),
        (["--output", "a.csv", "--no-answer", "1"], "--no-answer needs --submission"),
        (["--output", "a.csv", "--submission-value", "label"], "-value needs --submission"),
        (["--output", "a.csv", "--device", "cuda:99"], "is not usable here"),
        (["--output", "a.csv", "--report", "a.pdf"], "a page is written; name it .html or .htm"),
        (["--output", "a.csv", "--devices", "64"], "CUDA devices"),
    ],
    ids=["folder", "same", "sample", "fallback", "value", "device", "page", "devices"],
)
def test_predict_refuses_before_it_works(
    words: list[str],
    message: str,
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(inbox, trained, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.csv"))


def test_a_sample_is_checked_before_anything_is_scored(
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("media were opened")

    sample = tmp_path / "sample.csv"
    sample.write_text("who,y\np0.png,0\n")
    words = ["--output", tmp_path / "s.csv", "--submission", sample]
    monkeypatch.setattr("deepfake.inference.predictor.iter_extractions", refuse)
    assert predict(inbox, trained, *words) == 2
    assert "name both with --submission-columns FILE VALUE" in capsys.readouterr().err
    for value, word in (("label", "0.5"), ("p_fake", "2")):
        more = ["--submission-value", value, "--no-answer", word]
        assert predict(inbox, trained, *words, "--submission-columns", "who", "y", *more) == 2
        assert f"would get {word}" in capsys.readouterr().err
    monkeypatch.undo()
    assert predict(inbox, trained, *words, "--submission-columns", "who", "y") == 0
    assert read_csv(tmp_path / "submission.csv", ["who", "y"])[0]["y"] != "0"


def test_submission_never_replaces_its_sample(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "submission.csv"
    sample.write_text("path,y\np0.png,0\n")
    words = ["--output", tmp_path / "s.csv", "--submission", sample, "--overwrite"]
    assert predict(inbox, trained, *words) == 2
    assert "would replace its sample" in capsys.readouterr().err


def test_a_list_gets_a_row_per_line(inbox: Path, trained: Trained, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(f"{inbox / 'p1.png'}\n{inbox / 'p1.png'}\nmissing.png\n")
    assert predict(listing, trained, "--output", tmp_path / "s.csv") == 0
    statuses = [row["status"] for row in read_csv(tmp_path / "s.csv", ["status"])]
    assert statuses == ["ok", "ok", "unreadable"]


def test_predict_says_what_scores_and_shares_the_work(
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    for words in (
        ["--output", one, "--backend", "torch", "--device", "cpu"],
        ["--output", two, "--devices", "cpu,cpu", "--batch-size", "1"],
    ):
        words += [inbox, "--workers", "0"]
        assert cli.predict(["--checkpoint", *map(str, [trained.checkpoint, *words])]) == 0
    said = [line for line in caplog.messages if "scores on" in line]
    assert [line.split(" scores on ")[1] for line in said] == ["cpu", "cpu, cpu"]
    caplog.clear()
    assert predict(inbox, trained, "--output", one) == 0  # the same again, with --quiet
    assert [record for record in caplog.records if record.levelname == "INFO"] == []
    columns = ["path", "status", "verdict"]
    first, second = read_csv(one, [*columns, "p_fake"]), read_csv(two, [*columns, "p_fake"])
    assert [[row[c] for c in columns] for row in first] == [
        [row[c] for c in columns] for row in second
    ]
    for a, b in zip(first, second, strict=True):
        assert float(a["p_fake"] or 0) == pytest.approx(float(b["p_fake"] or 0), abs=2e-6)
    with pytest.raises(SystemExit):
        predict(inbox, trained, "--output", one, "--device", "cpu", "--devices", "2")
    assert "not allowed with" in capsys.readouterr().err


def test_a_score_imports_nothing_that_only_training_needs(
    inbox: Path, trained: Trained, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom deepfake.cli import main\n"
        f"code = main({['predict', str(inbox), '--checkpoint', str(trained.checkpoint)]!r}"
        f" + ['--output', {str(tmp_path / 's.csv')!r}, '--workers', '0', '--quiet'])\n"
        "heavy = {'pytorch_lightning', 'albumentations', 'pandas', 'sklearn', 'matplotlib',\n"
        "         'scipy', 'torchmetrics', 'pytorch_metric_learning', 'lightgbm', 'tensorboard',\n"
        "         'jsonargparse', 'jinja2', 'pyarrow', 'onnx', 'onnxscript', 'c2pa', 'starlette',\n"
        "         'uvicorn', 'deepfake.reports', 'deepfake.web', 'deepfake.training',\n"
        "         'deepfake.augment'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert "HEAVY [] CODE 0" in done.stdout, done.stderr


def test_the_first_worker_starts_before_the_model_is_loaded(
    inbox: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def load(*_: object) -> None:
        started.extend(multiprocessing.active_children())
        raise UsageError("that was seen")

    monkeypatch.setattr("deepfake.learning.ensemble.load_detector", load)
    assert predict(inbox, trained, "--workers", "1") == 2
    assert [process.name for process in started] == ["deepfake-read"]
    assert not started[0].is_alive()
    assert predict(inbox, trained, "--workers", "0") == 2
    assert len(started) == 1


def test_many_inputs_without_output_are_a_line_each_and_nothing_is_written(
    inbox: Path,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("p0.png", "-dash.png"):
        (other / name).write_bytes((inbox / "p0.png").read_bytes())
    (tmp_path / "-here.png").write_bytes((inbox / "p1.png").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    more = ["inbox/p1.png", "other/", "other/*.png", "--device", "cpu", "--workers", "0"]
    assert predict(inbox, trained, *more, "--", "-here.png") == 0
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    names = ["inbox/broken.jpg", "inbox/p0.png", "inbox/p1.png", "inbox/p2.png", "inbox/p1.png"]
    names += ["other/-dash.png", "other/p0.png"] * 2 + ["-here.png"]
    names[:4] = [f"{inbox}/{Path(name).name}" for name in names[:4]]
    found = [line.split(": ", 1) for line in lines]
    assert [name for name, _ in found] == names
    assert found[0][1].startswith("decode_error")
    answers = [answer for _, answer in found]
    assert all(", p_fake 0." in answer for answer in answers[1:])
    assert answers[2] == answers[4] == answers[9]
    assert answers[1] == answers[5] == answers[6] == answers[7] == answers[8]


def test_the_first_line_comes_before_anything_heavy(inbox: Path, trained: Trained) -> None:
    code = (
        "import sys\nfrom deepfake.cli import main\n"
        "class Stop(Exception): pass\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'torchvision', 'timm', 'av', 'pandas'):\n"
        "            raise Stop(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"main({['predict', str(inbox / 'p0.png'), '--checkpoint', str(trained.checkpoint)]!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    said = f"scoring {inbox / 'p0.png'} with {trained.checkpoint} ..."
    assert done.stderr.splitlines()[0] == said
    assert "Stop: torch" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "--frames: '0'; expected a whole number above 0"),
        (["--fps", "nan"], "--fps: 'nan'; expected a number above 0"),
        (["--batch-size", "0"], "--batch-size: '0'; expected"),
        (["--max-frames", "x"], "--max-frames: 'x'; expected"),
        (["--timeout", "-1"], "--timeout: '-1'; expected"),
    ],
)
def test_numbers_that_nobody_can_mean_are_refused_at_once(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.predict(["nothing.jpg", "--checkpoint", "none.ckpt", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_what_several_inputs_cannot_be(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(inbox, trained, trained.crops) == 2
    assert f"{trained.crops} is a crop folder: score it by itself" in capsys.readouterr().err
    assert predict(inbox, trained, "gone.jpg") == 2
    assert "'gone.jpg': no such file or folder" in capsys.readouterr().err
    assert predict(inbox, trained, "--shard", "1/2") == 2
    assert "--shard needs a file as --output" in capsys.readouterr().err
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"")
    assert cli.predict([str(inbox), "--checkpoint", str(graph), "--quiet"]) == 2
    assert "model.onnx is a graph for programs without this package" in capsys.readouterr().err


def test_a_page_alone_needs_no_table(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert predict(inbox, trained, "--report", page) == 0
    assert page.exists()
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_what_was_passed_over_is_said_beside_a_single_answer(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = next(trained.photos.rglob("*.png")).read_bytes()
    (photos / "a.png").write_bytes(photo)
    words = [str(photos), "--checkpoint", str(trained.checkpoint), "--device", "cpu"]
    words += ["--workers", "0", "--quiet", "--frames", "8"]
    assert cli.predict(words) == 0
    said = capsys.readouterr()
    assert "files of other kinds" not in said.out + said.err
    assert "frames 8 instead of" not in said.out + said.err, "a photo is one frame"
    (photos / "b.download").write_bytes(photo)
    assert cli.predict(words) == 0
    said = capsys.readouterr()
    assert "1 files of other kinds skipped (1 .download (media))" in said.out + said.err


def test_a_time_limit_that_was_too_short_is_mended_by_the_same_command(
    trained: Trained, tmp_path: Path
) -> None:
    photo = next(trained.photos.rglob("*.png"))
    words = [str(photo), "--checkpoint", str(trained.checkpoint), "--device", "cpu", "--quiet"]
    words += ["--output", str(tmp_path / "scores.csv"), "--workers", "1"]
    assert cli.predict([*words, "--timeout", "0.0001"]) == 4
    assert ",unreadable,timeout: " in (tmp_path / "scores.csv").read_text()
    assert cli.predict([*words, "--timeout", "120"]) == 0
    assert ",ok," in (tmp_path / "scores.csv").read_text()


def test_the_page_of_a_crop_folder_tells_no_hash_of_crops(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = [str(trained.crops), "--checkpoint", str(trained.checkpoint), "--device", "cpu"]
    assert cli.predict([*words, "--output", str(tmp_path / "a.csv"), "--report", str(page)]) == 0
    assert "About the file" not in page.read_text()
