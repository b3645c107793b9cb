"""The train command as a user runs it: shipped recipes, what a run leaves, what ends it."""

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import yaml
from tensorboard.backend.event_processing import event_accumulator

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import JobError
from deepfake.learning.checkpoint import load_checkpoint, read_info
from deepfake.learning.task import EmbeddingTask
from deepfake.records import Aggregation
from deepfake.training.presets import read_config
from deepfake.training.run import run_training
from tests.made_crops import COUNTS, write_crop_folder
from tests.training.made_runs import (
    EPOCHS,
    assert_same_state,
    logged,
    state_of,
    train,
)


@pytest.mark.parametrize("name", ["default", "dacon"])
def test_shipped_configurations_run_whole(crops: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    text = train(crops, run, base=["--config", name, "--config", "smoke"])
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
    assert settings["preset"] is True, "it would inherit from the recommended recipe"
    assert settings["model"]["backbone"] == "test_efficientnet"
    recipe = settings["data"]["augmentation"]["recipe"]
    assert recipe == ("dacon" if name == "dacon" else "light")
    loss = "train_triplet_loss" if name == "dacon" else "train_cross_entropy"
    for name in ("train_loss", loss, "val_loss", "val_auc"):
        assert len(logged(run, name)) == 1


SMALL = """
trainer: {accelerator: cpu, precision: 32-true, max_epochs: 1, enable_progress_bar: false}
data: {batch_size: 12, num_workers: 0}
model: {training: {chunk_size: 8}}
"""


def norms_of(backbone: torch.nn.Module) -> set[str]:
    """Names of the weights of normalisation layers, by timm's names of them."""
    names = (name for name, _ in backbone.named_parameters())
    return {name for name in names if ".norm" in f".{name}" or "fc_norm" in name}


def assert_only_norms_learnt(run: Path, weights: Path, norms: set[str]) -> None:
    state, start = state_of(run / "model.ckpt"), safetensors.torch.load_file(weights)
    del start["pos_embed"]  # resampled to the crops
    now = {name: state[f"embedder.backbone.{name}"] for name in start}
    changed = {name for name, value in start.items() if not torch.equal(now[name], value.float())}
    assert changed == norms & start.keys()
    assert changed


def test_foundation_with_a_small_network_of_its_family(tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", originals=True)
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=0)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), weights)
    (tmp_path / "small.yaml").write_text(SMALL)
    options = ["--model.backbone", "test_vit", "--model.image_size", "64"]
    base = ["--config", "foundation", "--config", str(tmp_path / "small.yaml")]
    run = tmp_path / "run"
    train(crops, run, *options, "--model.pretrained", str(weights), base=base)
    assert_only_norms_learnt(run, weights, norms_of(network))
    terms = {name: logged(run, f"train_{name}")[0] for name in ("alignment", "uniformity", "loss")}
    assert 0 < terms["alignment"] < 4
    assert -8 < terms["uniformity"] < 0
    total = logged(run, "train_cross_entropy")[0] + 0.1 * terms["alignment"]
    assert terms["loss"] == pytest.approx(total + 0.5 * terms["uniformity"], abs=1e-5)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["data"]["batches"]["self_blend"] == 0.5
    assert load_checkpoint(run / "model.ckpt").info["initial_weights"] == str(weights)


def test_the_network_of_foundation_is_one_that_timm_has_weights_of() -> None:
    model = read_config("foundation")["model"]
    config = timm.get_pretrained_cfg(model["backbone"], allow_unregistered=False)
    assert config.hf_hub_id
    assert config.input_size[-1] == model["image_size"]
    assert {"vit_pe_core_large_patch14_336.fb", "vit_large_patch16_dinov3.lvd1689m"} <= set(
        timm.list_pretrained("*large*")
    )


@pytest.mark.slow
@pytest.mark.data
def test_foundation_with_dinov2(shared_media: Path, tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", originals=True, size=98)
    (tmp_path / "small.yaml").write_text(SMALL)
    weights = shared_media / "weights" / "vit_small_patch14_dinov2_fp16.safetensors"
    options = ["--model.backbone", "vit_small_patch14_dinov2", "--model.image_size", "98"]
    base = ["--config", "foundation", "--config", str(tmp_path / "small.yaml")]
    run = tmp_path / "run"
    train(crops, run, *options, "--model.pretrained", str(weights), base=base)
    assert_only_norms_learnt(run, weights, norms_of(timm.create_model("vit_small_patch14_dinov2")))


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
    assert settings["seed_everything"] == 7
    assert settings["model"]["optimizer"]["init_args"]["lr"] == 0.002
    assert load_checkpoint(again / "model.ckpt").recipe.aggregation == Aggregation(
        "top", top_share=0.5
    )
    run_training(["--config", str(saved), "--weights", "last"], io.StringIO())
    assert (tmp_path / "runs" / "002" / "model.ckpt").is_file()


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
    options += ["--trainer.limit_train_batches", "1.0", "--data.split.find_look_alikes", "false"]
    train(crops, run, *options)
    losses = logged(run, "train_triplet_loss")
    assert losses[-1] < losses[0] - 0.2
    report = json.loads((run / "metrics.json").read_text())
    assert report["test"]["auc"] > 0.8
    assert report["test"]["accuracy"] > 0.7


@pytest.mark.slow
def test_workers_change_nothing(crops: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        train(crops, tmp_path / workers, "--data.num_workers", workers)
    assert_same_state(tmp_path / "0" / "model.ckpt", tmp_path / "2" / "model.ckpt")


@pytest.mark.parametrize("weights", ["best", pytest.param("last", marks=pytest.mark.slow)])
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
        train(crops, tmp_path / "run", "--model.optimizer", "SGD", "--model.optimizer.lr", "1e30")
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_the_run_folder_tells_the_whole_story(crops: Path, finished: Path) -> None:
    files = {path.name for path in finished.iterdir()}
    expected = {"config.yaml", "environment.json", "metrics.csv", "metrics.json", "curves.svg"}
    assert expected | {"model.ckpt", "checkpoints", "tensorboard"} <= files
    (start,) = json.loads((finished / "environment.json").read_text())["starts"]
    assert start["manifest_sha256"] == read_manifest(crops).sha256
    assert start["device"] == "cpu"
    assert start["precision"] == "32-true"
    assert start["versions"]["torch"] == version("torch")
    assert start["counts"]["train"] == {"real": 16, "fake": 16}
    assert (finished / "curves.svg").read_text().startswith("<svg")
    events = event_accumulator.EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert {"val_auc", "train_loss", "projection_norm"} <= set(events.Tags()["scalars"])
    for name in ("projection_norm", "train_active_share", "train_ap_distance", "train_an_distance"):
        assert len(logged(finished, name)) == 1


def test_an_epoch_without_a_figure_is_no_end(tmp_path: Path) -> None:
    # Two batches of 8 out of 40 reals and 2 fakes hold too few fakes for any figure.
    counts = {"train": (60, 2), "validation": (4, 4), "test": (4, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts)
    train(crops, tmp_path / "run", "--data.batches.balance", "false")
    assert (tmp_path / "run" / "model.ckpt").is_file()
