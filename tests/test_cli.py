from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from deepfake import __version__, cli
from deepfake.dataset.layouts import LAYOUTS
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.splits import assign_splits
from deepfake.errors import DeepfakeError, UsageError
from deepfake.media.tables import read_csv
from deepfake.records import Aggregation
from tests.conftest import Trained
from tests.fakes import portrait

ROOT = Path(__file__).parents[1]


def run(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "command",
    [
        *("", "crop", "doctor", "train", "predict", "explain", "evaluate", "calibrate", "fit-head"),
        *("merge", "info", "export", "demo", "show-augmentations"),
    ],
)
def test_help_has_examples_and_imports_nothing_heavy(command: str) -> None:
    words = [command] if command else []
    code = (
        "import sys\nfrom deepfake.cli import main\n"
        f"try:\n    code = main({[*words, '--help']!r})\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'pytorch_lightning'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)\n"
    )
    done = run("-c", code)
    assert "HEAVY [] CODE 0" in done.stdout.replace("CODE None", "CODE 0")
    assert f"deepfake {command}".strip() in done.stdout
    assert "example" in done.stdout


@pytest.mark.parametrize("script", ["crop.py", "train.py", "predict.py"])
def test_scripts_are_a_docstring_an_import_and_a_guard(script: str) -> None:
    assert len((ROOT / script).read_text().splitlines()) <= 8
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"deepfake {script.removesuffix('.py')}" in done.stdout


def test_version_and_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deepfake {__version__}\n"
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "did you mean train"),
        (["crop", "a", "b", "--presett", "dacon"], "did you mean --preset"),
        (["predict", "a", "--chekpoint", "b"], "--checkpoint"),
        (["merge", "a", "b", "--face", "c"], "did you mean --faces"),
        (["info", "a", "--jsn"], "did you mean --json"),
        (["demo", "--outptu", "x"], "did you mean --output"),
        (["train", "--data.rot", "x"], r"did you mean --data\.root"),
        (["train", "--data.root", "x", "--model.lrr", "1"], r"did you mean --model\.lr"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_misspelt_words_are_understood(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert re.search(hint, error)
    assert len(error.splitlines()) <= 3


def test_a_wrong_value_is_not_called_a_misspelling(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--data.root", "x", "--model.lr", "abc"]) == 2
    error = capsys.readouterr().err
    assert "model.lr" in error
    assert "abc" in error
    assert "did you mean" not in error


# --- crop ---------------------------------------------------------------------------------------


def test_crop_ends_with_counts_that_add_up(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:2]):
        (photos / f"{number}.png").write_bytes(path.read_bytes())
    (photos / "bad.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("not a photo")
    words = [str(photos), str(tmp_path / "crops"), "--size", "64", "--workers", "1", "--quiet"]
    assert cli.crop(words) == 0
    line = capsys.readouterr().out
    assert "3 inputs = 2 ok + 0 no_face + 0 too_small + 1 unreadable -> 2 crops" in line
    assert "1 files of other kinds skipped (1 .txt)" in line
    assert cli.crop([*words, "--strict"]) == 3


def test_crop_takes_its_preset_from_a_configuration(trained: Trained, tmp_path: Path) -> None:
    photo = str(next(trained.photos.rglob("*.png")))
    words = ["--workers", "1", "--quiet"]
    config = ["--config", str(ROOT / "configs/dacon.yaml")]
    assert cli.crop([photo, str(tmp_path / "a"), *config, *words]) == 0
    spec = json.loads((tmp_path / "a" / "job.json").read_text())["crop_spec"]
    assert (spec["preset"], spec["margins"], spec["size"]) == ("dacon", [0.135, 0.1], 380)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "dakon"], "no crop preset 'dakon'; there are square, dacon, dacon-train"),
        (["--preset", "dacon", "--margin", "0.3"], "--margin is for squares"),
        (["--preset", "dacon", "--config", "configs/dacon.yaml"], "both name a recipe"),
        (["--config", "configs/default.yaml"], "has no data.crop_preset"),
        (["--config", "configs/none.yaml"], "No such file"),
        (["--size", "3"], "size=3; expected 16 to 2048"),
        (["--jpeg-quality", "101"], "jpeg_quality=101"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_crop_refuses(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert cli.crop([str(tmp_path / "a.png"), str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_crop_without_a_single_face_says_so_by_its_code(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), str(tmp_path / "out"), "--workers", "1", "--quiet"]
    assert cli.crop(words) == 4


def test_crop_says_how_the_folder_was_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Celeb-real/id0_0000", "Celeb-synthesis/id0_id1_0000"):
        (tmp_path / "cdf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cdf" / f"{name}.mp4").touch()
    words = [str(tmp_path / "cdf"), str(tmp_path / "out"), "--workers", "0", "--quiet"]
    with caplog.at_level("INFO", "deepfake"):
        assert cli.crop(words) == 4  # empty files
    assert (
        "layout celeb-df: 2 inputs in 1 groups\n"
        "label  method           no split  all\n"
        "real   -                       1    1\n"
        "fake   Celeb-synthesis         1    1\n"
    ) in caplog.text
    assert "no official split: there is no List_of_testing_videos.txt" in caplog.text


def test_every_layout_is_in_the_help_and_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.crop(["--help"])
    told = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for text in (told, (ROOT / "README.md").read_text(), (ROOT / "docs/datasets.md").read_text()):
        assert [name for name in LAYOUTS if name not in text] == []


def test_crop_refuses_a_layout_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for layout, message in (("dfdc", "do not fit the layout dfdc"), ("x", "no layout 'x'; there")):
        words = [str(tmp_path), str(tmp_path.parent / "out"), "--layout", layout]
        assert cli.crop(words) == 2
        assert message in capsys.readouterr().err


# --- doctor -------------------------------------------------------------------------------------


def test_doctor_examines_real_crops(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.doctor([str(trained.crops), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("verdict: fit for training")
    assert cli.doctor([str(trained.crops), "--quiet", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["leak"] is False


def test_doctor_exits_with_one_on_a_leak(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = tmp_path / "crops"
    shutil.copytree(trained.crops, crops)
    rows = read_manifest(crops).rows
    splits = assign_splits(
        [row.group for row in rows], [row.label or 0 for row in rows], [row.split for row in rows]
    )
    one, other = (rows[splits.index(split)].crop for split in ("train", "test"))
    (crops / other).write_bytes((crops / one).read_bytes())
    assert cli.doctor([str(crops), "--quiet"]) == 1
    assert "verdict: LEAK" in capsys.readouterr().out
    assert cli.doctor([str(crops), "--quiet", "--allow-leak"]) == 0
    assert "warning: a leak was let pass by --allow-leak" in capsys.readouterr().err
    (crops / one).unlink()
    assert cli.doctor([str(crops), "--quiet", "--allow-leak"]) == 1
    assert "verdict: damaged" in capsys.readouterr().out


def test_doctor_needs_a_crop_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.doctor([str(tmp_path)]) == 2
    assert "is not a crop folder" in capsys.readouterr().err


# --- show-augmentations -------------------------------------------------------------------------


def test_show_augmentations_draws_a_sheet(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, config = tmp_path / "sheet.png", ROOT / "configs" / "default.yaml"
    words = [str(config), "--data.root", str(trained.crops), "--output", str(sheet)]
    assert cli.show_augmentations([*words, "--crops", "3"]) == 0
    assert capsys.readouterr().out == f"{sheet}\n"
    with Image.open(sheet) as picture:
        assert picture.size[1] > picture.size[0]
    (tmp_path / "bad.yaml").write_text("data:\n  augmentation: heavy\n")
    assert cli.show_augmentations([words[0], str(tmp_path / "bad.yaml"), *words[1:]]) == 2
    assert "heavy" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("- a list\n")
    assert cli.show_augmentations([str(tmp_path / "bad.yaml"), *words[1:]]) == 2
    assert "no settings, or none under data" in capsys.readouterr().err
    assert cli.show_augmentations([str(tmp_path / "none.yaml"), *words[1:]]) == 2
    assert "No such file" in capsys.readouterr().err
    assert cli.show_augmentations([*words, "--rows", "crop", "glow"]) == 2
    assert "no augmentation 'glow'; there are crop, landmarks, entry" in capsys.readouterr().err


# --- predict ------------------------------------------------------------------------------------


@pytest.fixture
def inbox(trained: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:3]):
        (folder / f"p{number}.png").write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"nothing")
    return folder


def predict(inbox: Path, trained: Trained, *more: object) -> int:
    words = [inbox, "--checkpoint", trained.checkpoint, "--workers", "0", "--quiet", *more]
    return cli.predict([str(word) for word in words])


def test_predict_writes_a_row_per_input_and_per_face(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, faces = tmp_path / "scores.csv", tmp_path / "faces.csv"
    assert predict(inbox, trained, "--output", output, "--faces", faces) == 0
    rows = read_csv(output, ["path", "status", "reason", "p_fake", "label", "threshold", "n_faces"])
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
    assert output.read_text().startswith("path,status,reason,p_fake,label,threshold")


def test_predict_to_standard_output_is_only_the_table(
    inbox: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(inbox, trained, "--output", "-") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert "4 inputs" in captured.err


def test_predict_exit_codes(inbox: Path, trained: Trained, tmp_path: Path) -> None:
    assert predict(inbox, trained, "--output", tmp_path / "a.csv", "--strict") == 3
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
    assert "rows without a score got 0.25" in line
    assert sample.read_text().startswith("path,y\n./p2.png,0\n")


def test_submission_default_is_the_prior_of_the_training_crops(
    inbox: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,y\nbroken,0\n")
    assert predict(inbox, trained, "--output", tmp_path / "s.csv", "--submission", sample) == 0
    counts = json.loads(_info(trained, capsys))["counts"]["train"]
    prior = counts["fake"] / (counts["fake"] + counts["real"])
    (row,) = read_csv(tmp_path / "submission.csv", ["id", "y"])
    assert float(row["y"]) == pytest.approx(prior, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "no/such/folder.csv"], "there is no folder"),
        (["--output", "same.csv", "--faces", "same.csv"], "two outputs have the same name"),
        (["--output", "a.csv", "--submission-output", "b.csv"], "needs --submission"),
        (["--output", "a.csv", "--device", "cuda:99"], "is not usable here"),
        (["--output", "a.csv", "--batch-size", "0"], "batch_size=0"),
        (["--output", "a.csv", "--devices", "64"], "CUDA devices"),
    ],
    ids=["folder", "same", "sample", "device", "batch", "devices"],
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
    assert predict(inbox, trained, "--output", one, "--backend", "torch", "--device", "cpu") == 0
    words = ["--devices", "cpu,cpu", "--batch-size", "1"]
    assert predict(inbox, trained, "--output", two, *words) == 0
    said = [line for line in caplog.messages if "scores on" in line]
    assert [line.split(" scores on ")[1] for line in said] == ["cpu", "cpu, cpu"]
    columns = ["path", "status", "label"]
    first, second = read_csv(one, [*columns, "p_fake"]), read_csv(two, [*columns, "p_fake"])
    assert [[row[c] for c in columns] for row in first] == [
        [row[c] for c in columns] for row in second
    ]
    for a, b in zip(first, second, strict=True):
        assert float(a["p_fake"] or 0) == pytest.approx(float(b["p_fake"] or 0), abs=2e-6)
    with pytest.raises(SystemExit):
        predict(inbox, trained, "--output", one, "--device", "cpu", "--devices", "2")
    assert "not allowed with" in capsys.readouterr().err


# --- export -------------------------------------------------------------------------------------


def test_export_writes_beside_the_checkpoint_what_the_other_commands_take(
    inbox: Path,
    trained: Trained,
    graph: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(trained.checkpoint.read_bytes())
    monkeypatch.setattr("deepfake.inference.export.make_graph", lambda checkpoint: graph)
    assert cli.main(["export", str(checkpoint), "--format", "onnx"]) == 0
    assert (tmp_path / "model.onnx").read_bytes() == graph
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path / 'model.onnx'}: equal to torch: at most ")
    assert cli.export([str(checkpoint), "--format", "safetensors"]) == 0
    copy = tmp_path / "model.safetensors"
    capsys.readouterr()
    assert cli.info([str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["crop_spec"]["size"] == 64
    scores = []
    for path in (checkpoint, copy):
        words = ["--checkpoint", str(path), "--output", "-", "--workers", "0", "--device", "cpu"]
        assert cli.predict([str(inbox), *words, "--backend", "torch", "--quiet"]) == 0
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1]
    assert "ok" in scores[0]


def test_export_refuses_before_it_works(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"untouched")
    there = tmp_path / "there.onnx"
    there.write_bytes(b"untouched")
    for words, message in (
        (["--format", "safetensors"], "is the checkpoint itself"),
        (["--format", "safetensors", "--crops", "c"], "--crops is for --format onnx"),
        (["--format", "onnx", "--output", str(there)], "exists; name another file or pass"),
        (["--format", "onnx", "--output", str(tmp_path / "no" / "m.onnx")], "there is no folder"),
        (["--format", "onnx"], "is damaged"),
    ):
        assert cli.export([str(checkpoint), *words]) == 2
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [checkpoint, there]
    assert checkpoint.read_bytes() == there.read_bytes() == b"untouched"


# --- info, train, interruption ------------------------------------------------------------------


def _info(trained: Trained, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.info([str(trained.checkpoint), "--json"]) == 0
    return capsys.readouterr().out


def test_info_tells_where_everything_comes_from(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(_info(trained, capsys))
    assert content["crop_spec"]["size"] == 64
    assert content["labels"] == {"0": "real", "1": "fake"}
    assert content["aggregation"] == Aggregation().to_dict()
    assert content["threshold_origin"].endswith("validation split")
    assert content["versions"]["deepfake"] == __version__
    assert cli.info([str(trained.checkpoint)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["backbone"].startswith("test_efficientnet")
    assert cli.info([str(trained.run / "config.yaml")]) == 2


def test_train_without_crops_fails_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/default.yaml")
    assert cli.train(["--config", config, "--data.root", str(tmp_path / "none")]) == 2
    assert "is not a crop folder (no job.json)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (UsageError("u"), 2),
        (DeepfakeError("d"), 1),
        (OSError("o"), 1),
    ],
    ids=["ctrl-c", "usage", "job", "system"],
)
def test_failures_are_one_line_and_a_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert cli._run(fail, "advice") == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_default_workers_are_the_cores_we_may_use() -> None:
    assert cli._default_workers() >= 1


def test_frames_of_a_video_are_chosen_by_options_and_kept_with_the_crops(
    trained: Trained, tmp_path: Path
) -> None:
    pictures = [Image.open(path) for path in sorted(trained.photos.rglob("*.png"))[:4]]
    clip = tmp_path / "clip.gif"
    pictures[0].save(clip, save_all=True, append_images=pictures[1:], duration=100)
    words = [str(clip), str(tmp_path / "crops"), "--size", "64", "--workers", "0", "--quiet"]
    assert cli.crop([*words, "--every", "2", "--max-frames", "9", "--keyframes"]) == 0
    sampling = json.loads((tmp_path / "crops" / "job.json").read_text())["sampling"]
    expected = {"frames": None, "fps": None, "every": 2, "mode": "keyframes", "max_frames": 9}
    assert sampling == expected | {"detect_every": 1}
    faces = tmp_path / "faces.csv"
    outputs = ["--output", tmp_path / "s.csv", "--faces", faces]
    assert predict(clip, trained, *outputs, "--frames", "3", "--aggregate", "max") == 0
    frames = read_csv(faces, ["frame", "p_fake"])
    assert len(frames) == 3
    (row,) = read_csv(tmp_path / "s.csv", ["p_fake", "reason"])
    assert row["p_fake"] == max(frame["p_fake"] for frame in frames)


def test_boxes_between_are_part_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, crops = tmp_path / "clip.gif", tmp_path / "crops"
    pictures = [Image.fromarray(np.roll(portrait(1, 0), shift, axis=1)) for shift in range(6)]
    pictures[0].save(clip, save_all=True, append_images=pictures[1:], duration=100)
    words = [str(clip), str(crops), "--size", "64", "--workers", "0", "--quiet", "--every", "1"]
    assert cli.crop([*words, "--detect-every", "5"]) == 0
    assert json.loads((crops / "job.json").read_text())["sampling"]["detect_every"] == 5
    (row,) = read_csv(crops / "sources.csv", ["reason"])
    assert row["reason"] == "faces in 6 of 6 frames; boxes of 4 of 6 frames interpolated"
    capsys.readouterr()
    assert cli.crop(words) == 2
    assert "was begun with detect_every=5, now it is 1" in capsys.readouterr().err
    assert cli.crop([*words, "--detect-every", "31"]) == 2
    assert "detect_every=31; expected 1 (every frame) to 30" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:99", "mps", "cpu:0"])
def test_an_absent_detect_device_is_refused_before_any_work(
    device: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, crops, scores = trained.photos, tmp_path / "crops", tmp_path / "s.csv"
    assert cli.crop([str(photos), str(crops), "--detect-device", device]) == 2
    assert predict(photos, trained, "--output", scores, "--detect-device", device) == 2
    errors = capsys.readouterr().err
    assert errors.count(f"error: detect device '{device}'") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--frames", "3", "--fps", "2"], ["--every", "0"], ["--frames", "-1"]], ids=" ".join
)
def test_frames_are_chosen_in_one_way(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    try:
        code = cli.crop([str(tmp_path / "a.png"), str(tmp_path / "out"), *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert re.search("not allowed with|exactly one of", capsys.readouterr().err)
