"""Several processes against one with the whole batch: real ones, through the real command."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfake.dataset.manifest import read_manifest
from deepfake.heads import LinearSVM
from deepfake.inference.export import make_graph
from deepfake.learning.batches import EpochBatches, EpochOrder
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.learning.crops import CropDataset
from deepfake.training.run import run_training
from tests.made_crops import write_crop_folder

REPO = Path(__file__).resolve().parents[1]
CONFIGS = [
    word
    for name in ("default", "smoke")
    for word in ("--config", str(REPO / "configs" / f"{name}.yaml"))
]
# Batches hold many reals and few fakes. Seven samples cannot be divided, nor can 31.
COUNTS = {"train": (24, 7), "validation": (4, 3), "test": (3, 4)}
BATCH_SIZE, STEPS, EPOCHS = 12, 3, 2
GROUP_SIZE, PER_GROUP = 3, 2
BOTH = """[{"loss": {"class_path": "SemiHardTripletLoss"}},
 {"loss": {"class_path": "CrossEntropyOnEmbedding"}}]"""
OPTIONS = [
    *("--trainer.max_epochs", str(EPOCHS), "--trainer.limit_train_batches", "1.0"),
    *("--data.batch_size", str(BATCH_SIZE), "--data.batches.balance", "false"),
    # The third batch of an epoch goes on into the next pass over the data.
    *("--data.batches.steps_per_epoch", str(STEPS), "--data.batches.per_group", str(PER_GROUP)),
    *("--data.batches.paired", "false"),
    *("--model.objective", "WeightedSum", "--model.objective.terms", BOTH),
    *("--model.network.dropout", "0.0", "--model.optimizer", "torch.optim.SGD"),
    *("--model.optimizer.lr", "0.05", "--model.optimizer.weight_decay", "0"),
    *("--model.schedule", "null", "--model.training.projection_l2", "0.01", "--weights", "last"),
]
# Layer norm looks at one sample only: N processes must do what one does.
LAYER_NORM = ["--model.backbone", "test_efficientnet_ln"]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "crops"
    return write_crop_folder(folder, COUNTS, group_size=GROUP_SIZE, originals=True)


@pytest.fixture(scope="module")
def alone(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFAKE_RUN_FOLDER", "")
        run_training(arguments(crops, run, *LAYER_NORM), io.StringIO())
    return run


def arguments(crops: Path, run: Path, *options: str) -> list[str]:
    return [*CONFIGS, *OPTIONS, "--data.root", str(crops), "--run", str(run), *options]


@contextmanager
def started(
    commands: Sequence[Sequence[str]],
    log: Path,
    settings: Sequence[dict[str, str]] | None = None,
    codes: AbstractSet[int] = frozenset({0}),
) -> Iterator[None]:
    """Run programs side by side; leaves none behind, and fails with their words if one fails.

    ``settings`` has the environment variables of each, ``codes`` the ends that are welcome.
    """
    base = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    with log.open("wb") as output:
        children = [
            subprocess.Popen(
                command, stdout=output, stderr=output, env=base | own, start_new_session=True
            )
            for command, own in zip(commands, settings or [{}] * len(commands), strict=True)
        ]
    try:
        ends = {child.wait(timeout=400) for child in children}
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    assert ends <= codes, log.read_text()
    yield


def train_together(
    crops: Path,
    run: Path,
    n_processes: int,
    *options: str,
    script: Path = REPO / "train.py",
    codes: AbstractSet[int] = frozenset({0}),
) -> str:
    words = ["--trainer.devices", str(n_processes), "--trainer.strategy", "ddp"]
    command = [sys.executable, str(script), *arguments(crops, run, *words, *options)]
    log = run.parent / "log.txt"
    with started([command], log, codes=codes):
        return log.read_text()


def logged(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def weights_of(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "model.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, logged figures and final figures."""
    expected, found = weights_of(one), weights_of(other)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
    for name in (
        *("train_loss", "train_triplet_loss", "train_triplets", "train_active_share", "val_loss"),
        *("train_ap_distance", "train_an_distance"),
    ):
        # Some are above 1, where float32 has no millionths.
        assert logged(other, name) == pytest.approx(logged(one, name), rel=1e-6, abs=1e-6), name
    # These come from a fitted machine, whose solver stops at a tolerance of its own.
    for name in ("val_auc", "val_eer", "val_accuracy"):
        assert logged(other, name) == pytest.approx(logged(one, name), abs=1e-4), name
    reports = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    for split, (n_real, n_fake) in COUNTS.items():
        for report in reports:
            assert (report[split]["n_real"], report[split]["n_fake"]) == (n_real, n_fake)
        assert reports[1][split] == pytest.approx(reports[0][split], abs=1e-4)
    queries = torch.nn.functional.normalize(torch.randn(50, 512))
    first, second = (load_checkpoint(run / "model.ckpt").head(queries) for run in (one, other))
    torch.testing.assert_close(second, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_as_one_process_with_the_whole_batch(
    crops: Path, alone: Path, tmp_path: Path, n_processes: int
) -> None:
    run = tmp_path / "run"
    text = train_together(crops, run, n_processes, *LAYER_NORM)
    assert text.count("checkpoint: ") == 1
    assert (run / "config.yaml").is_file()
    assert_same_run(alone, run)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_the_batches_of_that_test_are_uneven(n_processes: int) -> None:
    labels = [label for label in (0, 1) for _ in range(COUNTS["train"][label])]
    groups = [str(i // GROUP_SIZE) for label in (0, 1) for i in range(COUNTS["train"][label])]
    counts = []
    for epoch in range(EPOCHS):
        order = EpochOrder(labels, seed=0, groups=groups, per_group=PER_GROUP)
        batches = [
            EpochBatches(order, BATCH_SIZE, 1.0, rank, n_processes, STEPS)
            for rank in range(n_processes)
        ]
        for own in batches:
            own.set_epoch(epoch)
        parts = [list(own) for own in batches]
        counts += [
            [sum(labels[key.row] for key in part[step]) for part in parts]
            for step in range(len(parts[0]))
        ]
    assert any(len(set(step)) > 1 for step in counts), counts
    assert any(0 in step and sum(step) for step in counts), counts


# Beside the mini-epochs and groups that all runs here have.
SAMPLINGS = {
    "paired": ["--data.batches.paired", "true"],
    "balanced": ["--data.batches.balance", "true"],
}
STOPPING = """\
import os, signal, sys

from deepfake.cli import train
from deepfake.learning.task import EmbeddingTask

step = EmbeddingTask.training_step


def hit(task, batch, batch_idx):
    if task.global_step == 3 and task.global_rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(task, batch, batch_idx)


EmbeddingTask.training_step = hit
sys.exit(train())
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampling", list(SAMPLINGS))
def test_pairs_and_balance_too_and_a_stop_in_mid_epoch(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    # At the rate of the other runs a rounding of 1e-7 in the first step grows until it chooses
    # another negative in the sixth, in one process as well.
    options = [*LAYER_NORM, *SAMPLINGS[sampling], "--model.optimizer.lr", "0.005"]
    options += ["--data.augmentation.share", "0.5"]
    alone, together, stopped, resumed = (
        tmp_path / name / "run" for name in ("alone", "together", "stopped", "resumed")
    )
    for run in (alone, together, stopped, resumed):
        run.parent.mkdir()
    monkeypatch.setenv("DEEPFAKE_RUN_FOLDER", "")
    run_training(arguments(crops, alone, *options), io.StringIO())
    train_together(crops, together, 2, *options)
    assert_same_run(alone, together)
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    train_together(crops, stopped, 2, *options, script=script, codes={143, -signal.SIGTERM})
    state = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["CropDataModule"] == {"epoch": 1, "batch": 2}
    train_together(crops, resumed, 2, *options, "--resume", str(stopped))
    expected, found = weights_of(together), weights_of(resumed)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


PROXIES = """\
model:
  objective:
    class_path: deepfake.learning.losses.MetricLearningLoss
    init_args:
      loss:
        class_path: pytorch_metric_learning.losses.ProxyAnchorLoss
        init_args: {num_classes: 2, embedding_size: 512}
  optimizer:
    class_path: torch.optim.SGD
    init_args: {lr: 0.05, momentum: 0.9}
average:
  decay: 0.9
"""


@pytest.mark.slow
def test_proxies_train_resume_and_export_on_two_processes(crops: Path, tmp_path: Path) -> None:
    # Weights that a loss learns itself are in the optimiser, in the average and in checkpoints.
    (tmp_path / "proxies.yaml").write_text(PROXIES)
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    words = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    base = [*CONFIGS, *OPTIONS[:10], "--config", str(tmp_path / "proxies.yaml"), *LAYER_NORM]
    together, stopped, resumed = (tmp_path / name for name in ("together", "stopped", "resumed"))
    for run, program, more in (
        (together, REPO / "train.py", []),
        (stopped, script, []),
        (resumed, REPO / "train.py", ["--resume", str(stopped)]),
    ):
        command = [sys.executable, str(program), *base, "--model.schedule", "null", *words]
        command += ["--data.root", str(crops), "--run", str(run), "--weights", "last", *more]
        with started([command], tmp_path / "log.txt", codes={0, 143, -signal.SIGTERM}):
            pass
    content = torch.load(together / "checkpoints" / "last.ckpt", weights_only=True)
    moments = content["optimizer_states"][0]["state"]
    assert (2, 512) in [tuple(state["momentum_buffer"].shape) for state in moments.values()]
    proxies = content["current_model_state"]["objective.loss.proxies"]
    assert not torch.equal(proxies, content["state_dict"]["objective.loss.proxies"])
    assert not (stopped / "model.ckpt").exists()
    expected, found = weights_of(together), weights_of(resumed)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert make_graph(load_checkpoint(resumed / "model.ckpt"))


@pytest.mark.slow
def test_a_leak_that_one_process_finds_ends_them_all(tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", COUNTS)
    files = [row.crop for row in read_manifest(crops).rows if row.label == 0]
    (crops / files[-1]).write_bytes((crops / files[0]).read_bytes())
    text = train_together(crops, tmp_path / "run", 2, *LAYER_NORM, codes={2})
    assert "1 pairs of crops in two splits look alike" in text


@pytest.mark.slow
def test_batch_norm_ends_with_one_network(crops: Path, tmp_path: Path) -> None:
    # Statistics are those of each process's part; the head must fit what was saved.
    run = tmp_path / "run"
    train_together(crops, run, 2, "--trainer.check_val_every_n_epoch", "5")
    model = load_checkpoint(run / "model.ckpt")
    everything = read_manifest(crops).rows

    def embed(split: str) -> tuple[Tensor, NDArray[np.int64]]:
        rows = CropDataset(crops, [row for row in everything if row.split == split], 64)
        with torch.inference_mode():
            images = torch.stack([rows[i]["image"] for i in range(len(rows))])
            return model.embedder(images), rows.labels

    embeddings, labels = embed("train")
    fitted = LinearSVM(512).fit_classifier(embeddings, labels).calibrate(*embed("validation"))
    torch.testing.assert_close(model.head(embeddings), fitted(embeddings), rtol=0, atol=1e-4)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The recipes of docs/distributed.md; both machines are this one.
TWO_MACHINES = [
    *("--config", str(REPO / "configs" / "ddp.yaml"), "--trainer.accelerator", "cpu"),
    *("--trainer.devices", "2", "--trainer.num_nodes", "2", "--trainer.sync_batchnorm", "false"),
]


@pytest.mark.slow
def test_two_machines_by_torchrun(crops: Path, alone: Path, tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    commands = [
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
            *("--node_rank", str(node), "--nproc_per_node", "2"),
            *("--master_addr", "127.0.0.1", "--master_port", str(port)),
            # Without the dashes torchrun takes --run for a misspelt option of its own.
            *("--", str(REPO / "train.py"), *arguments(crops, run, *LAYER_NORM, *TWO_MACHINES)),
        ]
        for node in range(2)
    ]
    with started(commands, tmp_path / "log.txt"):
        assert_same_run(alone, run)


@pytest.mark.slow
def test_two_machines_by_the_variables_of_slurm(crops: Path, alone: Path, tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    command = [sys.executable, str(REPO / "train.py")]
    command += arguments(crops, run, *LAYER_NORM, *TWO_MACHINES)
    settings = [
        {
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NAME": "train",
            "SLURM_NNODES": "2",
            "SLURM_NTASKS": "4",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_NODEID": str(task // 2),
            "SLURM_LOCALID": str(task % 2),
            "SLURM_PROCID": str(task),
            "SLURM_NODELIST": "127.0.0.1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for task in range(4)
    ]
    with started([command] * 4, tmp_path / "log.txt", settings):
        assert_same_run(alone, run)
