"""Settings of Lightning's Trainer, loggers and devices, as a user may give them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Callback
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss

from deepfake.errors import UsageError
from deepfake.learning.checkpoint import read_info
from deepfake.learning.task import EmbeddingTask
from deepfake.training.callbacks.averaging import AverageWeights
from deepfake.training.callbacks.freezing import FreezeBackbone
from deepfake.training.callbacks.head import FitHead
from deepfake.training.lightning_cli import TrainCLI
from tests.training.made_runs import EPOCHS, SMOKE, logged, train


def make_callbacks(crops: Path, run: Path, *options: str) -> list[Callback]:
    cli = TrainCLI([*SMOKE, "--data.root", str(crops), "--run", str(run), *options])
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def test_settings_of_callbacks_are_options(crops: Path, tmp_path: Path) -> None:
    options = ["--freeze.epochs", "2", "--freeze.lr", "0.1", "--average.decay", "0.9"]
    options += ["--head.name", "rbf", "--head.C", "3"]
    callbacks = {type(one): one for one in make_callbacks(crops, tmp_path / "run", *options)}
    head, freeze = callbacks[FitHead], callbacks[FreezeBackbone]
    average = callbacks[AverageWeights]
    assert isinstance(head, FitHead)
    assert isinstance(freeze, FreezeBackbone)
    assert isinstance(average, AverageWeights)
    assert (head.name, head.C, freeze.epochs, freeze.lr) == ("rbf", 3.0, 2, 0.1)
    assert average.decay == 0.9


@pytest.mark.parametrize(
    ("loss", "library"),
    [
        pytest.param("TripletMarginLoss", TripletMarginLoss(margin=0.2), id="batch-all"),
        pytest.param("SupConLoss", SupConLoss(), id="supcon"),
    ],
)
def test_a_loss_of_the_library_is_chosen_by_its_class_path(
    loss: str, library: torch.nn.Module, crops: Path, tmp_path: Path
) -> None:
    settings = "\n              init_args: {margin: 0.2}" if loss == "TripletMarginLoss" else ""
    (tmp_path / "loss.yaml").write_text(f"""
model:
  objective:
    class_path: deepfake.learning.losses.WeightedSum
    init_args:
      terms:
      - loss: {{class_path: deepfake.learning.losses.CrossEntropyOnEmbedding}}
      - weight: 0.5
        loss:
          class_path: deepfake.learning.losses.MetricLearningLoss
          init_args:
            loss:
              class_path: pytorch_metric_learning.losses.{loss}{settings}
""")
    options = ["--config", str(tmp_path / "loss.yaml"), "--data.root", str(crops)]
    cli = TrainCLI([*SMOKE, *options, "--run", str(tmp_path / "run")])
    objective = cli.model.objective
    rows = torch.nn.functional.normalize(torch.randn(12, 512))
    labels = torch.arange(12) % 2
    total, metrics = objective.measure(rows, labels)
    expected = metrics["cross_entropy"][0] + 0.5 * library(rows, labels)
    assert float(total) == pytest.approx(float(expected), abs=1e-6)


def test_what_is_watched_can_be_switched_off(crops: Path, tmp_path: Path) -> None:
    off = {
        "RefuseNonFinite": ["--watch.finite", "false"],
        "CollapseWatch": ["--watch.collapse_steps", "0"],
        "EpochLog": ["--watch.log_s", "null"],
        "RunRecord": ["--watch.record", "false"],
    }
    options = [word for words in off.values() for word in words]
    everything, few = (
        [type(one).__name__ for one in make_callbacks(crops, tmp_path / str(len(words)), *words)]
        for words in ([], options)
    )
    assert [name for name in everything if name not in off] == few
    assert off.keys() <= set(everything)
    own = [name for name in everything if "Checkpoint" not in name]
    assert own[-1] == "FitHead"  # it scores with what the others have left


def test_a_run_leaves_its_record_beside_its_model(crops: Path, tmp_path: Path) -> None:
    train(crops, tmp_path / "run", "--average.decay", "0.9", "--trainer.logger", "false")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints",
        "config.yaml",
        "curves.svg",
        "environment.json",
        "metrics.csv",
        "metrics.json",
        "model.ckpt",
    }


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
    monkeypatch.setattr("deepfake.training.lightning_cli.find_spec", lambda name: None)
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

    monkeypatch.setattr("deepfake.training.lightning_cli.choose_precision", choose)
    for name, options in (("chosen", []), ("given", ["--trainer.precision", "32-true"])):
        train(crops, tmp_path / name, *options)
    starts = [
        json.loads((tmp_path / name / "environment.json").read_text())["starts"][0]["precision"]
        for name in ("chosen", "given")
    ]
    assert starts == ["bf16-mixed", "32-true"]
    assert asked == ["cpu"]
    for name in ("bf16-true", "64-true", "64"):
        with pytest.raises(
            UsageError, match=rf"precision={name}; expected 32-true, 16-mixed, bf16"
        ):
            train(crops, tmp_path / "other", "--trainer.precision", name)


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


@pytest.mark.parametrize(
    ("option", "value", "missing", "weights"),
    [
        pytest.param("enable_checkpointing", "false", "checkpoints", "last", id="no-checkpoints"),
        pytest.param("barebones", "true", "tensorboard", "last", id="barebones"),
        pytest.param("fast_dev_run", "true", "checkpoints", "last", id="fast-dev-run"),
        pytest.param("limit_val_batches", "0", "none", "last", id="no-validation"),
        pytest.param("logger", "false", "tensorboard", "best", id="no-logger"),
    ],
)
def test_what_lightning_can_leave_out_may_be_left_out(
    crops: Path, tmp_path: Path, option: str, value: str, missing: str, weights: str
) -> None:
    run = tmp_path / "run"
    train(crops, run, f"--trainer.{option}", value)
    for name in ("model.ckpt", "metrics.json", "metrics.csv", "environment.json"):
        assert (run / name).exists(), name
    assert not (run / missing).exists()
    assert read_info(run / "model.ckpt")["weights"] == f"epoch 0 ({weights})"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(["--trainer.accelerator", "gpu"], "trainer: .*gpu", id="no-gpu"),
        pytest.param(
            ["--trainer.logger", "CometLogger"],
            "CometLogger: .*comet-ml",
            id="logger-that-is-not-installed",
        ),
        pytest.param(["--trainer.devices", "7x"], "trainer: .*devices", id="devices"),
        pytest.param(["--trainer.strategy", "dpp"], "trainer: .*strategy", id="strategy"),
        pytest.param(["--trainer.max_epochs", "-1"], "has no end: set trainer", id="no-end"),
        pytest.param(["--trainer.max_epochs", "0"], "nothing would be trained", id="no-epoch"),
        pytest.param(["--trainer.limit_train_batches", "0"], "nothing would be", id="no-batch"),
        pytest.param(["--trainer.accumulate_grad_batches", "0"], "=0; expected 1", id="sum"),
        pytest.param(["--trainer.gradient_clip_val", "-1"], "=-1; expected 0 or", id="clip"),
        pytest.param(["--checkpoint_minutes", "-1"], "=-1; expected 0 or more, or n", id="minutes"),
        pytest.param(["--watch.log_s", "-1"], r"watch\.log_s=-1; expected 0", id="log"),
        pytest.param(["--watch.collapse_steps", "-1"], "steps=-1; expected 1 or", id="collapse"),
        pytest.param(
            ["--model.schedule=StepLR", "--model.schedule.step_size=0"],
            "model.schedule: .*by zero",
            id="schedule",
        ),
        pytest.param(["--model.optimizer.lr", "-1"], "model.optimizer: Invalid learning", id="lr"),
        # Said before the training, not by the fit after it.
        pytest.param(["--head.C", "-1"], "C=-1; expected an inverse strength", id="head"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    crops: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    if "gpu" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=problem) as caught:
        train(crops, tmp_path / "run", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_exactly_five_steps_with_one_cycle(crops: Path, tmp_path: Path) -> None:
    # Four steps an epoch: the schedule ends within the second one.
    options = [*EPOCHS, "--trainer.max_steps", "5", "--trainer.max_epochs", "9"]
    train(crops, tmp_path / "run", *options)
    assert read_info(tmp_path / "run" / "model.ckpt")["global_step"] == 5
