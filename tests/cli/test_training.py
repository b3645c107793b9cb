from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepfake import cli
from deepfake.dataset import crop_mirror
from tests.conftest import Trained
from tests.stores.made_stores import empty_memory

ROOT = Path(__file__).parents[2]


def test_show_augmentations_draws_a_sheet(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, config = tmp_path / "sheet.png", ROOT / "configs" / "default.yaml"
    words = ["--config", str(config), "--data", str(trained.crops), "--output", str(sheet)]
    assert cli.show_augmentations([*words, "--columns", "3"]) == 0
    assert capsys.readouterr().out == f"{sheet}\n"
    with Image.open(sheet) as picture:
        assert picture.size[1] > picture.size[0]
    (tmp_path / "bad.yaml").write_text("data:\n  augmentation: {recipe: heavy}\n")
    bad = ["--config", str(tmp_path / "bad.yaml")]
    assert cli.show_augmentations([*words, *bad]) == 2
    assert "heavy" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("- a list\n")
    assert cli.show_augmentations([*bad, *words[2:]]) == 2
    assert "holds no settings" in capsys.readouterr().err
    assert cli.show_augmentations(["--config", str(tmp_path / "none.yaml"), *words[2:]]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert cli.show_augmentations([*words[:4], "--output", "sheet.jpg"]) == 2
    assert "sheet.jpg: a PNG is written; name it .png" in capsys.readouterr().err
    assert cli.show_augmentations([*words, "--rows", "crop", "glow"]) == 2
    assert "no augmentation 'glow'; there are crop, landmarks, dacon" in capsys.readouterr().err


def test_show_augmentations_of_another_presets_configuration(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As --help has it; the crops are square, the configuration is for those of the entry.
    configs = [ROOT / "configs" / "dacon.yaml", ROOT / "experiments/ablations/12-blind-face.yaml"]
    sheet = tmp_path / "blind.png"
    words = [word for config in configs for word in ("--config", config)]
    words += ["--data", trained.crops, "--rows", "crop", "as configured"]
    assert cli.show_augmentations([str(word) for word in [*words, "--output", sheet]]) == 0
    assert capsys.readouterr().out == f"{sheet}\n"
    assert sheet.exists()


def test_train_without_crops_fails_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/default.yaml")
    assert cli.train(["--config", config, "--data.root", str(tmp_path / "none")]) == 2
    assert "is not a crop folder (no job.json)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--data", "s3://b/crops"], "s3://b/crops lies in a store: name a folder of this disk"),
        (["--data.root=https://b/c", "--cache", "x"], "https://b/c: a web server has no folders"),
        (["--data", "x", "--config=gs://b"], "and train reads it from a disk: copy"),
    ],
)
def test_train_does_not_look_for_an_address_on_the_disk(
    words: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(crop_mirror, "copy_object_to", lambda *words: asked.append(words))
    assert cli.train(words) == 2
    assert problem in capsys.readouterr().err
    assert not asked  # nor in a store that it will not read from


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_run_in_a_store_is_made_in_the_job_and_uploaded_by_the_first_process(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    codes = iter([143, 0])

    def train(words: Sequence[str], output: Any, publish: Any) -> int:
        given.append(list(words))
        assert (publish is None) == (rank == "1")
        run = Path(words[words.index("--run") + 1])
        run.mkdir(parents=True, exist_ok=True)
        (run / "model.ckpt").write_text("weights")
        return next(codes)

    monkeypatch.setattr("deepfake.training.run.run_training", train)
    monkeypatch.setenv("RANK", rank)
    words = ["--data", "crops", "--run", "memory://runs/001", "--trainer.max_epochs", "2"]
    words += ["--job", str(tmp_path / "job"), "--resume", "auto"]
    with empty_memory() as memory:
        assert cli.train(words) == 143  # stopped
        assert not memory.find("/runs")
        assert cli.train(words) == 0
        assert memory.find("/runs") == (["/runs/001/model.ckpt"] if rank == "0" else [])
    passed = ["--data.root", "crops", "--trainer.max_epochs", "2"]
    passed += ["--run", str(tmp_path / "job" / "001"), "--resume", "auto"]
    assert given == [passed] * 2


@pytest.mark.parametrize("run", ["runs/002", "memory://runs/002"])
def test_a_run_goes_on_from_one_in_a_store(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def train(words: Sequence[str], output: Any, publish: Any) -> int:
        given.extend(words)
        return 143

    monkeypatch.setattr("deepfake.training.run.run_training", train)
    job = tmp_path / "job"
    words = ["--data", "crops", "--resume", "memory://runs/001/", "--run", run, "--job", str(job)]
    with empty_memory() as memory:
        memory.pipe_file("/runs/001/checkpoints/last.ckpt", b"state")
        assert cli.train(words) == 143
    folder = Path(given[given.index("--resume") + 1])
    assert folder.parent == job
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == b"state"
    here = str(job / "002") if "://" in run else run
    assert given[given.index("--run") + 1] == here


def test_a_run_to_go_on_from_in_a_store_needs_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--data", "crops", "--resume", "gs://b/runs/001"]) == 2
    assert "--resume gs://b/runs/001 lies in a store: name a folder" in capsys.readouterr().err


def test_a_run_in_a_store_needs_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--data", "crops", "--run", "s3://b/runs/001"]) == 2
    assert "--run s3://b/runs/001 lies in a store: name a folder" in capsys.readouterr().err


def test_a_wrong_value_is_not_called_a_misspelling(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--data.root", "x", "--model.image_size", "abc"]) == 2
    error = capsys.readouterr().err
    assert "model.image_size" in error
    assert "abc" in error
    assert "did you mean" not in error
