"""A run that was killed or told to stop goes on as if nothing had happened."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from deepfake.errors import UsageError
from deepfake.heads.linear import LinearSVM
from deepfake.learning.checkpoint import read_info
from deepfake.storage import LOCK_NAMES
from deepfake.training.run import run_training
from tests.training.made_runs import (
    EPOCHS,
    LONG,
    MIDWAY,
    REPO,
    SMOKE,
    TWO,
    assert_same_run,
    assert_same_state,
    logged,
    run_until_signal,
    start,
    state_of,
    train,
    wait,
    wait_until,
)


def kill_after(epoch: int, child: subprocess.Popen[bytes], run: Path) -> int:
    """SIGKILL as soon as the checkpoint of an epoch stands; returns that of the last one."""
    last = run / "checkpoints" / "last.ckpt"

    def reached() -> bool:
        return last.exists() and int(read_info(last)["epoch"]) >= epoch

    try:
        wait_until(child, reached, run.parent / f"{run.name}.log")
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return int(read_info(last)["epoch"])


@pytest.mark.parametrize(
    ("workers", "epoch"), [(0, 0), pytest.param(2, 1, marks=pytest.mark.slow)], ids="{}".format
)
def test_killed_and_resumed_is_as_if_nothing_had_happened(
    many_crops: Path, uninterrupted: Path, tmp_path: Path, workers: int, epoch: int
) -> None:
    options = [*LONG, "--data.num_workers", str(workers)]
    resumed = tmp_path / "resumed"
    # On a busy machine the run may be over before the signal is out: then it is started again.
    for attempt in range(5):
        killed = tmp_path / f"killed{attempt}"
        reached_epoch = kill_after(epoch, start(many_crops, killed, *options), killed)
        if not (killed / "model.ckpt").exists():
            break
    assert not (killed / "model.ckpt").exists()
    train(many_crops, resumed, *options, "--resume", str(killed))
    assert reached_epoch < 2
    assert_same_state(uninterrupted / "model.ckpt", resumed / "model.ckpt")
    assert_same_state(
        uninterrupted / "checkpoints" / "last.ckpt", resumed / "checkpoints" / "last.ckpt"
    )
    reports = [(run / "metrics.json").read_text() for run in (uninterrupted, resumed)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("step", "workers"),
    [
        pytest.param(6, 0, id="first-epoch", marks=pytest.mark.slow),
        pytest.param(27, 2, id="second-epoch-two-workers"),
        # The end of the epoch is what is kept then.
        pytest.param(19, 0, id="last-step-of-an-epoch", marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_mid_epoch_loses_nothing(
    many_crops: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: int,
    workers: int,
) -> None:
    options = [*MIDWAY, "--data.num_workers", str(workers)]
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    code = run_until_signal(many_crops, stopped, monkeypatch, step, *options)
    assert code == 143
    assert {number: signal.getsignal(number) for number in before} == before
    assert f"--resume {stopped}" in caplog.text
    assert not (stopped / "model.ckpt").exists()
    last = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step + 1
    train(many_crops, resumed, *options, "--resume", str(stopped))
    assert_same_run(straight, resumed)


FIRST = REPO / "experiments" / "gap" / "12-cross-entropy-first.yaml"
FROZEN_STOPS = [  # the frozen epoch has five steps
    pytest.param("OneCycle", 2),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("OneCycle", 7), ("null", 2), ("null", 7)]
    ),
]


@pytest.mark.parametrize(("schedule", "step"), FROZEN_STOPS)
def test_mini_epochs_blends_and_a_frozen_backbone_survive_a_stop(
    many_crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, step: int
) -> None:
    # The second epoch's batches go on in the first pass over the data.
    options = [
        *("--trainer.limit_train_batches", "1.0", "--trainer.max_epochs", "3"),
        *("--data.batches.steps_per_epoch", "5", "--data.batches.per_group", "2"),
        *("--data.augmentation.share", "1.0", "--data.batches.self_blend", "0.5"),
        *("--data.augmentation.extra", "[blind_face, pattern]"),
        *("--model.schedule", schedule, "--model.optimizer.lr", "0.01"),
        *("--freeze.epochs", "1", "--freeze.lr", "0.001"),
        *("--config", str(FIRST), "--head.name", "logistic", "--weights", "last"),
    ]
    straight, stopped, resumed = (tmp_path / name for name in ("straight", "stopped", "resumed"))
    train(many_crops, straight, *options)
    assert run_until_signal(many_crops, stopped, monkeypatch, step, *options) == 143
    train(many_crops, resumed, *options, "--resume", str(stopped))
    assert_same_run(straight, resumed)
    assert read_info(straight / "model.ckpt")["global_step"] == 15


@pytest.mark.slow
def test_a_signal_at_any_step_loses_nothing(
    many_crops: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (0, 1, 13, 18, 20, 21, 33, 38):
        stopped, resumed = tmp_path / f"stopped{step}", tmp_path / f"resumed{step}"
        assert run_until_signal(many_crops, stopped, monkeypatch, step, *MIDWAY) == 143
        train(many_crops, resumed, *MIDWAY, "--resume", str(stopped))
        assert_same_run(straight, resumed)


@pytest.mark.slow
def test_stopped_twice_in_its_own_folder(
    many_crops: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    auto = [*MIDWAY, "--resume", "auto"]
    for step in (4, 25):
        assert run_until_signal(many_crops, run, monkeypatch, step, *auto) == 143
    train(many_crops, run, *auto)
    assert_same_run(straight, run)
    assert logged(run, "epoch") == [0, 1], "the table has the epochs before the stop as well"
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["resumed_from"] is None for start in starts] == [True, False, False]
    history = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert [row["epoch"] for row in history["RunRecord"]["history"]] == [0, 1]
    assert "is finished" in train(many_crops, run, *auto)


def test_a_stop_before_the_head_is_made_up_for(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(crops, tmp_path / "whole")
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    fit = LinearSVM.fit_classifier

    def hit(self: LinearSVM, *args: object) -> LinearSVM:  # the probe of an epoch has its own way
        os.kill(os.getpid(), signal.SIGUSR1)
        return fit(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LinearSVM, "fit_classifier", hit)
        arguments = [*SMOKE, "--data.root", str(crops), "--run", str(stopped)]
        assert run_training(arguments, io.StringIO()) == 128 + signal.SIGUSR1
        patch.delenv("DEEPFAKE_RUN_FOLDER")
    assert not (stopped / "model.ckpt").exists()
    text = train(crops, resumed, "--resume", str(stopped))
    assert "checkpoint: " in text
    assert_same_state(tmp_path / "whole" / "model.ckpt", resumed / "model.ckpt")
    for name in ("metrics.csv", "curves.svg"):
        assert (resumed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (made_up,) = json.loads((resumed / "environment.json").read_text())["starts"]
    assert made_up["resumed_from"] == str(stopped / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def two_straight(many_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    child = start(many_crops, run, *MIDWAY, *TWO)
    assert wait(child, run.parent / "run.log") == 0, (run.parent / "run.log").read_text()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "told to stop"])
def test_two_processes_resume_to_the_same_bytes(
    many_crops: Path, two_straight: Path, tmp_path: Path, how: str
) -> None:
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    # So often that both have just kept a step when they end.
    often = ["--checkpoint_minutes", "0.001"]
    child = start(many_crops, stopped, *MIDWAY, *TWO, *often)
    last = stopped / "checkpoints" / "last.ckpt"
    try:
        wait_until(child, last.exists, tmp_path / "stopped.log")
        if how == "killed":
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        else:
            child.send_signal(signal.SIGTERM)  # to one of the two
            assert wait(child, tmp_path / "stopped.log") in (143, -signal.SIGTERM)
            assert "--resume" in (tmp_path / "stopped.log").read_text()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert not (stopped / "model.ckpt").exists()
    child = start(many_crops, resumed, *MIDWAY, *TWO, "--resume", str(stopped))
    log = tmp_path / "resumed.log"
    assert wait(child, log) == 0, log.read_text()
    assert_same_run(two_straight, resumed)


@pytest.mark.slow
def test_two_processes_in_chunks_do_what_they_do_at_once(crops: Path, tmp_path: Path) -> None:
    options = [
        *EPOCHS,
        "--model.backbone",
        "test_efficientnet_ln",
        "--model.network.dropout",
        "0.0",
    ]
    options += ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.05"]
    options += ["--model.schedule", "null", "--model.optimizer.weight_decay", "0"]
    options += ["--model.network.drop_path_rate", "null", "--trainer.gradient_clip_val", "0.5"]
    for name, chunk_size in (("whole", "null"), ("chunks", "3")):
        child = start(
            crops, tmp_path / name, *options, *TWO, "--model.training.chunk_size", chunk_size
        )
        log = tmp_path / f"{name}.log"
        assert wait(child, log) == 0, log.read_text()
    one, two = (state_of(tmp_path / name / "model.ckpt") for name in ("whole", "chunks"))
    for name in one:
        if name.startswith("embedder."):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-6, msg=name)


def test_another_recipe_is_refused_by_name_and_the_run_stays(crops: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(crops, run, "--model.schedule", "null", "--trainer.max_epochs", "1")
    for options, name in (
        (["--model.optimizer.lr", "0.5"], r"model\.optimizer\.init_args\.lr="),
        (["--seed_everything", "7"], "seed_everything=0, now it is 7"),
        (
            ["--model.objective", "deepfake.learning.losses.Uniformity"],
            r"model\.objective\.class_path=",
        ),
    ):
        more = ["--model.schedule", "null", "--trainer.max_epochs", "2", *options]
        with pytest.raises(UsageError, match=f"begun with {name}"):
            train(crops, tmp_path / "new", *more, "--resume", str(run))
        assert not (tmp_path / "new").exists()
    assert (run / "model.ckpt").exists()


def test_two_runs_of_one_folder_do_not_mix(many_crops: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = start(many_crops, run, *LONG, "--resume", "auto")
    try:
        wait_until(child, (run / "config.yaml").exists, tmp_path / "run.log")
        for more in (["--resume", "auto"], ["--resume", "auto", "--seed_everything", "2"]):
            with pytest.raises(UsageError, match=rf"run is in use by process {child.pid} on"):
                train(many_crops, run, *LONG, *more)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == 0
    # A dead owner's lock is void, also where nothing else was written yet.
    for path in [path for path in run.iterdir() if path.name not in LOCK_NAMES]:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert {path.name for path in run.iterdir()} == set(LOCK_NAMES)
    with pytest.raises(UsageError, match=r"trainer\.max_epochs=0"):
        train(many_crops, run, "--trainer.max_epochs", "0")
