"""The train command as a user runs it: shipped configurations, kills, resumes, two processes."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing import event_accumulator
from torch import Tensor

from deepfake import cli
from deepfake.dataset.manifest import CropRow, read_manifest
from deepfake.errors import CheckpointError, JobError, UsageError
from deepfake.heads.linear import LinearSVM
from deepfake.learning import validation as validation_module
from deepfake.learning.checkpoint import KEY, load_checkpoint, read_info
from deepfake.learning.data import Sample
from deepfake.learning.task import EmbeddingTask
from deepfake.records import Aggregation
from deepfake.training.run import run_training
from tests.made_crops import COUNTS, write_crop_folder, write_tables

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"


def config(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


BOTH = """[{"loss": {"class_path": "SemiHardTripletLoss"}, "from_epoch": %d},
 {"loss": {"class_path": "CrossEntropyOnEmbedding"}}]"""
OBJECTIVE = ["--model.objective", "WeightedSum", "--model.objective.terms"]
SMOKE = [*config("default", "smoke"), *OBJECTIVE, BOTH % 0]
EPOCHS = ["--trainer.limit_train_batches", "1.0", "--model.network.drop_path_rate", "0.1"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without --run go to the test's folder; what a run tells its children is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPFAKE_RUN_FOLDER", "")
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("train") / "crops")


def train(crops: Path, run: Path | None, *options: str, base: list[str] = SMOKE) -> str:
    output = io.StringIO()
    where = [] if run is None else ["--run", str(run)]
    assert run_training([*base, "--data.root", str(crops), *where, *options], output) == 0
    return output.getvalue()


def state_of(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def logged(run: Path, name: str) -> list[float]:
    """One figure of ``metrics.csv``, epoch by epoch."""
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def assert_same_state(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, two = state_of(first), state_of(second)
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=tolerance, msg=name)


# The shipped configurations


@pytest.mark.parametrize("name", ["default", "dacon"])
def test_shipped_configurations_run_whole(crops: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    text = train(crops, run, base=config(name, "smoke"))
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.json", "metrics.csv", "model.ckpt"} <= files
    assert "checkpoints/last.ckpt" in files
    report = json.loads((run / "metrics.json").read_text())
    lines = text.splitlines()
    assert lines[0].split() == ["split", "real", "fake", "AUC", "EER", "accuracy"]
    for line, split in zip(lines[1:4], COUNTS, strict=True):
        figures = report[split]
        expected = [split, str(figures["n_real"]), str(figures["n_fake"])]
        expected += [f"{figures[key]:.4f}" for key in ("auc", "eer", "accuracy")]
        assert line.split() == expected
    assert f"checkpoint: {run / 'model.ckpt'}" in lines
    assert lines[-1].startswith(f"next: deepfake predict YOUR_PHOTOS --checkpoint {run}")
    model = load_checkpoint(run / "model.ckpt")
    assert model.info["weights"] == ("epoch 0 (last)" if name == "dacon" else "epoch 0 (best)")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings == yaml.safe_load(model.info["configuration"])
    assert settings["model"]["backbone"] == "test_efficientnet"
    assert settings["data"]["augmentation"] == ("entry" if name == "dacon" else "light")
    loss = (
        "train_triplet_loss"
        if settings["data"]["augmentation"] == "entry"
        else "train_cross_entropy"
    )
    for name in ("train_loss", loss, "val_loss", "val_auc"):
        assert len(logged(run, name)) == 1


def test_the_saved_configuration_runs_again_as_it_is(crops: Path, tmp_path: Path) -> None:
    aggregation = ["--aggregation.policy", "top", "--aggregation.top_share", "0.5"]
    train(
        crops,
        tmp_path / "first",
        "--seed_everything",
        "7",
        "--model.optimizer.lr",
        "0.002",
        *aggregation,
    )
    saved = tmp_path / "first" / "config.yaml"
    output = io.StringIO()
    run_training(["--config", str(saved)], output)  # data.root is in it, the run folder is not
    assert "checkpoint: runs/001/model.ckpt" in output.getvalue()
    again = tmp_path / "runs" / "001"
    assert (again / "config.yaml").read_text() == saved.read_text()
    assert_same_state(tmp_path / "first" / "model.ckpt", again / "model.ckpt")
    settings = yaml.safe_load(saved.read_text())
    assert (settings["seed_everything"], settings["model"]["optimizer"]["init_args"]["lr"]) == (
        7,
        0.002,
    )
    assert load_checkpoint(again / "model.ckpt").aggregation == Aggregation("top", top_share=0.5)
    run_training(["--config", str(saved), "--weights", "last"], io.StringIO())
    assert (tmp_path / "runs" / "002" / "model.ckpt").is_file()


def test_a_count_of_batches_is_no_share_whatever_was_imported_first(
    crops: Path, tmp_path: Path
) -> None:
    code = (
        "import sklearn.metrics, io, sys; from deepfake.training.run import run_training; "
        "sys.exit(run_training(sys.argv[1:], io.StringIO()))"
    )
    words = [*SMOKE, "--data.root", str(crops), "--run", str(tmp_path / "run")]
    command = [sys.executable, "-c", code, *words, "--trainer.limit_train_batches", "1"]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1


def test_one_seed_for_everything(crops: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        train(crops, tmp_path / name, "--seed_everything", seed)
    first, second = (state_of(tmp_path / name / "model.ckpt") for name in "ab")
    assert not torch.equal(
        first["embedder.projection.weight"], second["embedder.projection.weight"]
    )
    assert read_info(tmp_path / "b" / "model.ckpt")["seed"] == 2


def test_learns_what_can_be_seen(tmp_path: Path) -> None:
    counts = {"train": (64, 64), "validation": (16, 16), "test": (32, 32)}
    crops = write_crop_folder(tmp_path / "crops", counts)
    run = tmp_path / "run"
    options = [
        "--trainer.max_epochs",
        "5",
        "--data.batch_size",
        "16",
        "--model.optimizer.lr",
        "3e-3",
    ]
    # Of so many drawn portraits some are nearly the same.
    options += ["--trainer.limit_train_batches", "1.0", "--data.find_look_alikes", "false"]
    train(crops, run, *options)
    losses = logged(run, "train_triplet_loss")
    assert losses[-1] < losses[0] - 0.2
    report = json.loads((run / "metrics.json").read_text())
    assert report["test"]["auc"] > 0.8
    assert report["test"]["accuracy"] > 0.7


def test_workers_change_nothing(crops: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        train(crops, tmp_path / workers, "--data.num_workers", workers)
    assert_same_state(tmp_path / "0" / "model.ckpt", tmp_path / "2" / "model.ckpt")


# Refusals


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(["--model.bakbone", "x"], r"did you mean --model\.backbone\?", id="option"),
        pytest.param(["--data.batchsize", "8"], r"did you mean --data\.batch_size\?", id="data"),
        pytest.param(["--wieghts", "last"], r"did you mean --weights\?", id="top-level"),
        pytest.param(["--model.optimizer.lr", "fast"], r"lr.*float", id="type"),
        pytest.param(["--model.optimizer", "adam"], r"optimizer.*adam", id="choice"),
        pytest.param(["--config", "none.yaml"], r"none\.yaml", id="no-config"),
        pytest.param(
            ["--model.backbone", "test_eficientnet"],
            "did you mean test_efficientnet",
            id="backbone",
        ),
        pytest.param(["--data.batch_size", "1"], "triplets need 2 or more", id="batch"),
        pytest.param(["--data.root", "none"], "none is not a crop folder", id="no-crops"),
        pytest.param(["--data.crop_preset", "dacon"], "cut with crop preset 'square'", id="preset"),
        pytest.param(["--model.image_size", "32"], r"pass --model\.image_size 64", id="size"),
        pytest.param(["--model.pretrained", "none.pth"], "there is no such file", id="weights"),
        pytest.param(["--resume", "none"], "--resume none: there is no checkpoint", id="resume"),
    ],
)
def test_refuses_options_that_are_not_right(
    crops: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        train(crops, tmp_path / "run", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "the same --run could not be given again"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "model:\n  bakbone: x\n", r"bakbone.*did you mean --model\.backbone\?", id="unknown-key"
        ),
        pytest.param("modle:\n  backbone: x\n", "did you mean --model", id="unknown-section"),
        pytest.param("model: [\n", "Problems parsing config: .*line 2", id="broken"),
    ],
)
def test_refuses_a_configuration_that_is_not_right(
    crops: Path, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=problem):
        train(crops, tmp_path / "run", "--config", "bad.yaml")


def test_refuses_a_run_folder_in_use(crops: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty; name a new one"):
        train(crops, run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="exists and is not empty"):
        train(crops, run / "notes.txt")


@pytest.mark.parametrize("weights", ["best", "last"])
def test_a_loss_that_is_no_number_keeps_the_last_good_epoch(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    start = EmbeddingTask.on_train_epoch_start

    def break_second_epoch(task: EmbeddingTask) -> None:
        start(task)
        if task.current_epoch == 1:
            with torch.no_grad():
                task.embedder.projection.weight.fill_(torch.nan)

    monkeypatch.setattr(EmbeddingTask, "on_train_epoch_start", break_second_epoch)
    run = tmp_path / "run"
    with pytest.raises(JobError, match=r"became nan in epoch 1, .*last good checkpoint is .*last"):
        train(crops, run, *EPOCHS, "--trainer.max_epochs", "3", "--weights", weights)
    last = run / "checkpoints" / "last.ckpt"
    assert read_info(last)["epoch"] == 0
    assert all(
        bool(torch.isfinite(v).all()) for v in state_of(last).values() if v.is_floating_point()
    )
    assert not (run / "model.ckpt").exists()
    assert not (run / "metrics.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    train(crops, tmp_path / "next", *EPOCHS, "--trainer.max_epochs", "3", "--resume", str(run))


def test_a_learning_rate_that_explodes_is_said(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"became (nan|NaN|inf) .*; try a smaller model\.optimizer\.lr"
    ):
        train(
            crops,
            tmp_path / "run",
            "--model.optimizer.lr",
            "1e30",
            "--model.optimizer",
            "torch.optim.SGD",
        )
    assert not (tmp_path / "run" / "model.ckpt").exists()


# Leaks


def plant_identity(crops: Path, rows: list[CropRow]) -> None:
    """A person of the training split in the test split, under the same name."""
    leaking = find_row(rows, "test", 0)
    rows[rows.index(leaking)] = replace(leaking, group=find_row(rows, "train", 0).group)


def plant_copy(crops: Path, rows: list[CropRow]) -> None:
    """A training picture in the test split, compressed once more."""
    picture = cv2.imread(str(crops / find_row(rows, "train", 0).crop))
    target = str(crops / find_row(rows, "test", 0).crop)
    assert picture is not None
    assert cv2.imwrite(target, picture, [cv2.IMWRITE_JPEG_QUALITY, 60])


def plant_parting(crops: Path, rows: list[CropRow]) -> None:
    """A fake in the test split, of an original of the training split; their groups differ."""
    leaking = find_row(rows, "test", 1)
    rows[rows.index(leaking)] = replace(leaking, original=find_row(rows, "train", 0).source)


def find_row(rows: list[CropRow], split: str, label: int) -> CropRow:
    return next(row for row in rows if (row.split, row.label) == (split, label))


@pytest.mark.parametrize(
    ("plant", "topic", "problem"),
    [
        (plant_identity, "groups", "1 groups stand in more than one split.*: train-0"),
        (
            plant_copy,
            "look-alikes",
            r"1 pairs of crops in two splits look alike.*: train \S+ and te",
        ),
        (plant_parting, "originals", "1 fake crops stand in another split than their original: te"),
    ],
    ids=["identity", "recompressed", "original-and-fake"],
)
def test_a_planted_leak_is_found_by_doctor_and_training(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[Path, list[CropRow]], None],
    topic: str,
    problem: str,
) -> None:
    crops = write_crop_folder(tmp_path / "crops", originals=True)
    assert cli.doctor([str(crops), "--quiet"]) == 0
    rows = list(read_manifest(crops).rows)
    plant(crops, rows)
    write_tables(crops, rows)
    capsys.readouterr()
    assert cli.doctor([str(crops), "--quiet"]) == 1
    assert re.findall(r"^LEAK +(\S+)", capsys.readouterr().out, re.MULTILINE) == [topic]
    with pytest.raises(UsageError, match=problem + ".*; .*data.allow_leak true"):
        train(crops, tmp_path / "run")
    assert not (tmp_path / "run" / "model.ckpt").exists()


# Going on


def start(crops: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPO / "train.py"), *SMOKE, "--data.root", str(crops)]
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--run", str(run), *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_until(child: subprocess.Popen[bytes], happened: Callable[[], bool], log: Path) -> None:
    while not happened():
        assert child.poll() is None, log.read_text()
        time.sleep(0.005)


LONG = [*EPOCHS, "--trainer.max_epochs", "3", "--data.augment_share", "0.5"]


@pytest.fixture(scope="module")
def many_crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (80, 60), "validation": (8, 8), "test": (8, 8)}
    return write_crop_folder(tmp_path_factory.mktemp("many") / "crops", counts)


@pytest.fixture(scope="module")
def uninterrupted(many_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(many_crops, run, *LONG)
    return run


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


@pytest.mark.parametrize(("workers", "epoch"), [(0, 0), (2, 1)], ids="{}".format)
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


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM
) -> None:
    """Let the next run get a signal in the middle of one of its steps."""
    original = EmbeddingTask.training_step

    def hit(task: EmbeddingTask, batch: Sample, batch_idx: int) -> Tensor:
        loss = original(task, batch, batch_idx)
        if task.global_step == step:
            os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(EmbeddingTask, "training_step", hit)


def run_until_signal(
    crops: Path, run: Path, monkeypatch: pytest.MonkeyPatch, step: int, *options: str
) -> int:
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        patch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
        return run_training(
            [*SMOKE, "--data.root", str(crops), "--run", str(run), *options], io.StringIO()
        )


MIDWAY = [*LONG, "--trainer.max_epochs", "2", "--average.decay", "0.9"]


@pytest.fixture(scope="module")
def straight(many_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 20 steps with everything that has a state, and no stop."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(many_crops, run, *MIDWAY)
    return run


def assert_same_run(first: Path, second: Path) -> None:
    assert_same_state(first / "model.ckpt", second / "model.ckpt")
    for name in ("train_loss", "train_ap_distance", "val_loss", "val_auc", "projection_norm"):
        assert logged(first, name)[-1:] == logged(second, name)[-1:], name
    reports = [(run / "metrics.json").read_text() for run in (first, second)]
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
        *("--data.steps_per_epoch", "5", "--data.augment_share", "1.0", "--data.per_group", "2"),
        *("--data.extra", "[blind_face, pattern]", "--data.self_blend", "0.5"),
        *("--model.schedule", schedule, "--model.optimizer.lr", "0.01"),
        *("--freeze.epochs", "1", "--freeze.lr", "0.001"),
        *("--model.objective.terms", BOTH % 2, "--head.name", "logistic", "--weights", "last"),
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


def test_stopped_twice_in_its_own_folder(
    many_crops: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    auto = [*MIDWAY, "--resume", "auto"]
    for step in (4, 25):
        assert run_until_signal(many_crops, run, monkeypatch, step, *auto) == 143
    train(many_crops, run, *auto)
    assert_same_run(straight, run)
    assert (run / "metrics.1.csv").is_file()  # of the first epoch
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["resumed_from"] is None for start in starts] == [True, False, False]
    history = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert [row["epoch"] for row in history["RunRecord"]["history"]] == [0, 1]
    with pytest.raises(UsageError, match=r"the run in .* is finished"):
        train(many_crops, run, *auto)


def test_going_on_by_itself_needs_a_folder(crops: Path) -> None:
    with pytest.raises(UsageError, match="--resume auto goes on in the folder of --run"):
        train(crops, None, "--resume", "auto")


def test_a_stop_before_the_head_is_made_up_for(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(crops, tmp_path / "whole")
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    fit = LinearSVM.fit

    def hit(self: LinearSVM, *args: object) -> LinearSVM:
        if len(args) > 2:  # the final one, which knows groups
            os.kill(os.getpid(), signal.SIGUSR1)
        return fit(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LinearSVM, "fit", hit)
        arguments = [*SMOKE, "--data.root", str(crops), "--run", str(stopped)]
        assert run_training(arguments, io.StringIO()) == 128 + signal.SIGUSR1
        patch.delenv("DEEPFAKE_RUN_FOLDER")
    assert not (stopped / "model.ckpt").exists()
    text = train(crops, resumed, "--resume", str(stopped))
    assert "checkpoint: " in text
    assert_same_state(tmp_path / "whole" / "model.ckpt", resumed / "model.ckpt")


def test_checkpoints_in_mid_epoch_come_by_the_clock(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    original = Trainer.save_checkpoint

    def note(trainer: Trainer, *args: object, **options: object) -> None:
        kept.append(trainer.global_step)
        original(trainer, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "save_checkpoint", note)
    train(crops, tmp_path / "often", *EPOCHS, "--checkpoint_minutes", "0")
    train(crops, tmp_path / "never", *EPOCHS, "--checkpoint_minutes", "null")
    # Four steps: three in mid-epoch, then best and last, then the model.
    assert kept == [1, 2, 3, 4, 4, 4, *[4, 4, 4]]
    assert_same_state(tmp_path / "often" / "model.ckpt", tmp_path / "never" / "model.ckpt")


def test_a_full_disk_names_the_last_good_checkpoint(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    original = os.fsync

    def fail(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and (run / "checkpoints" / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr("deepfake.storage.os.fsync", fail)
    with pytest.raises(JobError, match=r"no space left for .*MB\); the last good .*last\.ckpt: "):
        train(crops, run, *EPOCHS, "--trainer.max_epochs", "2")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sorted(path.suffix for path in (run / "checkpoints").iterdir()) == [".ckpt", ".ckpt"]
    assert read_info(run / "checkpoints" / "last.ckpt")["epoch"] == 0


# Watching


def test_the_run_folder_tells_the_whole_story(crops: Path, finished: Path) -> None:
    files = {path.name for path in finished.iterdir()}
    expected = {"config.yaml", "environment.json", "metrics.csv", "metrics.json", "curves.png"}
    assert expected | {"model.ckpt", "checkpoints", "tensorboard"} <= files
    (start,) = json.loads((finished / "environment.json").read_text())["starts"]
    assert start["manifest_sha256"] == read_manifest(crops).sha256
    assert start["device"] == "cpu"
    assert start["precision"] == "32-true"
    assert start["versions"]["torch"] == version("torch")
    assert start["counts"]["train"] == {"real": 16, "fake": 16}
    assert (finished / "curves.png").read_bytes()[1:4] == b"PNG"
    events = event_accumulator.EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert {"val_auc", "train_loss", "projection_norm"} <= set(events.Tags()["scalars"])
    for name in ("projection_norm", "train_active_share", "train_ap_distance", "train_an_distance"):
        assert len(logged(finished, name)) == 1


def test_other_loggers_come_from_the_configuration(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "logger.yaml").write_text(
        "trainer:\n  logger:\n    class_path: pytorch_lightning.loggers.CSVLogger\n"
        "    init_args:\n      save_dir: elsewhere\n      name: mine\n      version: ''\n"
    )
    train(crops, tmp_path / "run", "--config", "logger.yaml")
    assert logged(tmp_path / "elsewhere" / "mine", "val_loss") == logged(
        tmp_path / "run", "val_loss"
    )
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_without_tensorboard_there_is_a_table(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.training.run.find_spec", lambda name: None)
    train(crops, tmp_path / "run")
    assert len(logged(tmp_path / "run", "val_loss")) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_precision_is_chosen_unless_it_is_given(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def choose(accelerator: str) -> str:
        asked.append(accelerator)
        return "bf16-mixed"

    monkeypatch.setattr("deepfake.training.run.choose_precision", choose)
    for name, options in (("chosen", []), ("given", ["--trainer.precision", "32-true"])):
        train(crops, tmp_path / name, *options)
    starts = [
        json.loads((tmp_path / name / "environment.json").read_text())["starts"][0]["precision"]
        for name in ("chosen", "given")
    ]
    assert starts == ["bf16-mixed", "32-true"]
    assert asked == ["cpu"]


def test_slurms_signal_is_ours(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def note(task: EmbeddingTask) -> None:
        seen.append(task.trainer._accelerator_connector.cluster_environment)
        seen.append(signal.getsignal(signal.SIGUSR1))

    monkeypatch.setattr(EmbeddingTask, "on_train_start", note)
    for name, value in {"NTASKS": "1", "JOB_NAME": "x", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    train(crops, tmp_path / "run")
    environment, handler = seen[:2]
    assert isinstance(environment, SLURMEnvironment)
    assert environment.auto_requeue is False
    assert "StopOnSignal" in repr(handler)


def rig_auc(monkeypatch: pytest.MonkeyPatch, figures: list[float]) -> None:
    """Let the epochs of the next runs have these validation figures."""
    remaining = iter(figures)
    monkeypatch.setattr(validation_module, "compute_auc", lambda labels, scores: next(remaining))


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        pytest.param([0.9, 0.5, 0.7], 0, id="before-the-break"),
        pytest.param([0.6, 0.5, 0.7], 2, id="after-the-break"),
    ],
)
def test_a_resumed_run_remembers_its_best_epoch(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[float], best: int
) -> None:
    options = [*EPOCHS, "--model.schedule", "null"]
    rig_auc(monkeypatch, figures)
    train(crops, tmp_path / "whole", *options, "--trainer.max_epochs", "3")
    rig_auc(monkeypatch, figures)
    train(crops, tmp_path / "first", *options, "--trainer.max_epochs", "2")
    kept = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*.ckpt")}
    resume = ["--resume", str(tmp_path / "first"), "--trainer.max_epochs", "3"]
    train(crops, tmp_path / "second", *options, *resume)
    assert read_info(tmp_path / "whole" / "model.ckpt")["weights"] == f"epoch {best} (best)"
    assert read_info(tmp_path / "second" / "model.ckpt")["weights"] == f"epoch {best} (best)"
    assert_same_state(tmp_path / "whole" / "model.ckpt", tmp_path / "second" / "model.ckpt")
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*.ckpt")} == kept


@pytest.fixture(scope="module")
def finished(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train(crops, run)
    return run


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
        pytest.param([], "schedule to resume was planned for 2 steps.* 4", id="longer-one-cycle"),
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
    assert content[KEY]["threshold"] is None


def test_an_epoch_without_a_figure_is_no_end(tmp_path: Path) -> None:
    # Two batches of 8 out of 40 reals and 2 fakes hold too few fakes for any figure.
    counts = {"train": (60, 2), "validation": (4, 4), "test": (4, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts)
    train(crops, tmp_path / "run", "--data.balance", "false")
    assert (tmp_path / "run" / "model.ckpt").is_file()


# Two processes

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


def wait(child: subprocess.Popen[bytes], log: Path) -> int:
    try:
        return child.wait(timeout=300)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


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
    options += [
        "--model.optimizer",
        "torch.optim.SGD",
        "--model.schedule",
        "null",
        "--model.optimizer.lr",
        "0.05",
    ]
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
