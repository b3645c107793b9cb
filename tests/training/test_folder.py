"""The folder of a run: in use, finished, gone on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import CheckpointError, UsageError
from deepfake.learning.checkpoint import KEY, load_checkpoint
from tests.made_crops import write_crop_folder, write_tables
from tests.training.made_runs import assert_same_run, logged, train


def test_refuses_a_run_folder_in_use(crops: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty; name a new one"):
        train(crops, run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="exists and is not empty"):
        train(crops, run / "notes.txt")


def test_nobody_else_s_folder_is_gone_on_with(crops: Path, tmp_path: Path) -> None:
    run = tmp_path / "project"
    (run / "sub").mkdir(parents=True)
    (run / "config.yaml").write_text("trainer: mine\n")
    (run / "sub" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty; name a new one"):
        train(crops, run, "--resume", "auto")
    assert (run / "config.yaml").read_text() == "trainer: mine\n"
    assert (run / "sub" / "notes.txt").is_file()


def test_a_run_that_is_refused_when_it_goes_on_keeps_its_folder(tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", {"train": (8, 0), "validation": (4, 4)}, size=32)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{trainer: {}, model: {}, data: {}, head: {}}\n")
    (run / "slurm.log").write_text("mine")
    with pytest.raises(UsageError, match="real"):
        train(crops, run, "--resume", "auto")
    assert (run / "slurm.log").is_file()


def test_going_on_by_itself_needs_a_folder(crops: Path) -> None:
    with pytest.raises(UsageError, match="--resume auto goes on in the folder of --run"):
        train(crops, None, "--resume", "auto")


def test_a_finished_run_says_so_and_is_no_failure(
    crops: Path, finished: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in finished.iterdir())
    for run, resume in ((tmp_path / "next", str(finished)), (finished, "auto")):
        lines = train(crops, run, "--resume", resume).splitlines()
        assert lines[0] == f"the run in {finished} is finished: {finished / 'model.ckpt'}"
        assert f"--resume {finished} --trainer.max_epochs MORE --run NEW" in lines[1]
        assert f"--model.pretrained {finished / 'model.ckpt'}" in lines[2]
    assert not (tmp_path / "next").exists()
    assert sorted(path.name for path in finished.iterdir()) == before


def test_a_finished_run_is_trained_longer_where_the_schedule_allows_it(
    crops: Path, tmp_path: Path
) -> None:
    constant = ["--model.schedule", "null"]
    train(crops, tmp_path / "short", *constant)
    longer = [*constant, "--trainer.max_epochs", "2"]
    train(crops, tmp_path / "longer", *longer, "--resume", str(tmp_path / "short"))
    train(crops, tmp_path / "whole", *longer)
    assert_same_run(tmp_path / "whole", tmp_path / "longer")
    assert logged(tmp_path / "longer", "epoch") == [0, 1]


def test_refuses_to_go_on_with_other_crops(finished: Path, tmp_path: Path) -> None:
    other = write_crop_folder(tmp_path / "other", seed=9)
    with pytest.raises(UsageError, match="was trained on other crops"):
        train(other, tmp_path / "next", "--resume", str(finished), "--trainer.max_epochs", "2")


def test_refuses_to_go_on_with_an_edited_table(crops: Path, finished: Path, tmp_path: Path) -> None:
    same = write_crop_folder(tmp_path / "same")
    assert read_manifest(same).sha256 == read_manifest(crops).sha256
    rows = list(read_manifest(same).rows)
    write_tables(same, [replace(rows[0], method="other"), *rows[1:]])
    with pytest.raises(UsageError, match="was trained on other crops"):
        train(same, tmp_path / "next", "--resume", str(finished), "--trainer.max_epochs", "2")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(
            ["--model.network.embedding_dim", "64"], "embedding_dim=512, now it is 64", id="width"
        ),
        pytest.param(
            ["--model.backbone", "test_efficientnet_ln"],
            "backbone='test_efficientnet'",
            id="backbone",
        ),
        pytest.param([], r"planned for 2 steps.* 4.*--model\.pretrained", id="longer-one-cycle"),
    ],
)
def test_refuses_to_go_on_as_another_training(
    crops: Path, finished: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    resume = ["--resume", str(finished), "--trainer.max_epochs", "2"]
    with pytest.raises(UsageError, match=problem):
        train(crops, tmp_path / "next", *resume, *options)


def write_text(path: Path, finished: Path) -> Path:
    path.write_text("no checkpoint")
    return path


def write_foreign(path: Path, finished: Path) -> Path:
    torch.save({"state_dict": {}}, path)
    return path


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(write_text, "no checkpoint|is damaged", id="text"),
        pytest.param(write_foreign, "was not written by deepfake", id="foreign"),
        pytest.param(lambda path, run: run / "model.ckpt", "is finished", id="model.ckpt"),
    ],
)
def test_refuses_to_go_on_from_other_files(
    crops: Path,
    finished: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Path],
    problem: str,
) -> None:
    source = make(tmp_path / "x.ckpt", finished)
    with pytest.raises(UsageError, match=problem):
        train(crops, tmp_path / "next", "--resume", str(source))


def test_a_checkpoint_from_mid_training_says_so(finished: Path) -> None:
    with pytest.raises(CheckpointError, match="in mid-training"):
        load_checkpoint(finished / "checkpoints" / "last.ckpt")
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert content[KEY]["limits"] is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("resume", ["folder", "auto"])
@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("checkpoints/last.ckpt", "../../outside"),
        ("checkpoints/last.ckpt", "/dev/zero"),
        ("checkpoints", "../outside.d"),
        ("metrics.csv", "../outside"),
        ("environment.json", None),
        ("tensorboard", "../outside.d"),
    ],
)
def test_a_run_folder_that_leads_out_of_itself_is_refused(
    crops: Path, tmp_path: Path, place: str, target: str | None, resume: str
) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "outside.d").mkdir()
    (tmp_path / "outside.d" / "last.ckpt").write_text("precious")
    run = tmp_path / "stranger"
    (run / place).parent.mkdir(parents=True)
    if place != "checkpoints":
        (run / "checkpoints").mkdir(exist_ok=True)
        if not place.startswith("checkpoints"):
            (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").touch()
    if target is None:
        os.mkfifo(run / place)
    else:
        (run / place).symlink_to(target)
    words = ["--resume", str(run)] if resume == "folder" else ["--resume", "auto"]
    with pytest.raises(UsageError, match=rf"names '{place}', which (leads out of|is no regular)"):
        train(crops, tmp_path / "next" if resume == "folder" else run, *words)
    assert (tmp_path / "outside").read_text() == "precious"
    assert [path.name for path in (tmp_path / "outside.d").iterdir()] == ["last.ckpt"]
