"""The checkpoint file: everything is in it, nothing is trusted, every damage has its message."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepfake.error_rates import ErrorRates
from deepfake.errors import CheckpointError
from deepfake.learning.checkpoint import (
    FORMAT,
    KEY,
    describe_versions,
    load_checkpoint,
    read_info,
)
from deepfake.records import Aggregation, CropSpec, Limits, Recipe
from tests.learning.made_checkpoints import (
    Content,
    Run,
    altered,
    change_recipe,
    drop,
    images,
    make_run,
    put,
    put_limits,
    remove,
)
from tests.made_crops import COUNTS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("checkpoint"))


def test_scores_are_the_same_after_a_round_trip(run: Run) -> None:
    loaded = load_checkpoint(run.model)
    expected = run.task.embedder(images())
    assert torch.equal(loaded.embedder(images()), expected)
    assert run.task.head is not None
    assert torch.equal(loaded.head(expected), run.task.head(expected))
    assert not loaded.embedder.training
    assert not loaded.head.training
    assert loaded.path == run.model
    assert loaded.sha256 == hashlib.sha256(run.model.read_bytes()).hexdigest()


def test_holds_everything_that_a_prediction_needs(run: Run) -> None:
    content = torch.load(run.model, weights_only=True)
    manifest = (run.crops / "manifest.csv").read_bytes()
    ours = content[KEY]
    names = set(content["state_dict"])
    assert {"embedder.projection.weight", "embedder.mean", "embedder.std"} <= names
    parts = ("weight_", "intercept_", "slope_", "offset_", "fitted_")
    assert {f"head.{part}" for part in parts} <= names
    assert ours["format"] == FORMAT
    assert Recipe.from_dict(ours["recipe"]) == Recipe(CropSpec(size=32))
    assert ours["normalisation"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert ours["normalisation"]["std"] == pytest.approx([0.229, 0.224, 0.225])
    limits = Limits.from_dict(ours["limits"])
    assert 0 <= limits.real <= limits.of_fake() <= 1
    assert ErrorRates.from_dict(ours["error_rates"]).origin == "the validation split"
    assert set(ours["chosen_for"]) == {"sampling", "aggregation", "tta"}
    assert ours["labels"] == {0: "real", 1: "fake"}
    assert ours["counts"] == {
        split: {"real": real, "fake": fake} for split, (real, fake) in COUNTS.items()
    }
    assert ours["versions"] == describe_versions()
    assert ours["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert ours["crop_versions"] == {"deepfake": "0"}
    assert ours["backbone"] == "test_efficientnet.r160_in1k"
    assert (ours["seed"], ours["configuration"]) == (5, "seed_everything: 5\n")
    assert set(ours["metrics"]) == {"train", "validation", "test"}
    assert "last" in ours["weights"] or "best" in ours["weights"]


def test_versions_name_every_package_that_shapes_a_result() -> None:
    versions = describe_versions()
    assert {"deepfake", "torch", "timm", "scikit-learn", "facenet-pytorch"} <= set(versions)
    assert all(isinstance(version, str) and version for version in versions.values())


def test_reads_what_it_remembers_without_building_a_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.learning.checkpoint.EmbeddingModel", None)
    info = read_info(run.model)
    assert info["hyper_parameters"]["embedding_dim"] == 16
    assert info["limits"] == torch.load(run.model, weights_only=True)[KEY]["limits"]
    assert info["global_step"] == 4
    assert run.task.head is not None
    parts: list[nn.Module] = [run.task, run.task.head]
    state = [value for part in parts for value in part.state_dict().values()]
    assert info["quality"]["n_faces"] > 2
    assert info["n_parameters"] == sum(value.numel() for value in state)


def test_loading_needs_no_weights_from_elsewhere(run: Run, tmp_path: Path) -> None:
    def ask_for_weights(content: Content) -> None:
        content["hyper_parameters"]["pretrained"] = True

    loaded = load_checkpoint(altered(run, tmp_path / "m.ckpt", ask_for_weights))
    assert torch.equal(loaded.embedder(images()), run.task.embedder(images()))


# Files that are no checkpoint


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("read", [read_info, load_checkpoint])
def test_code_in_a_checkpoint_does_not_run(
    run: Run, tmp_path: Path, read: Callable[[Path], object]
) -> None:
    trap = tmp_path / "executed"
    path = altered(
        run, tmp_path / "m.ckpt", lambda content: content.update(x=Malicious(f"touch {trap}"))
    )
    with pytest.raises(CheckpointError, match="was not opened, because it could run code"):
        read(path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap was a real one


def test_refuses_a_bare_pickle(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    path = tmp_path / "svm.pkl"
    path.write_bytes(pickle.dumps(Malicious(f"touch {trap}")))
    with pytest.raises(CheckpointError, match=r"svm\.pkl"):
        read_info(path)
    assert not trap.exists()


def stored(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("read", [read_info, load_checkpoint])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "there is no such file", id="missing"),
        pytest.param(b"", r"m\.ckpt is damaged", id="empty"),
        pytest.param(b"no checkpoint at all\n", r"m\.ckpt", id="text"),
        pytest.param(b"PK\x03\x04 and then nothing", r"m\.ckpt is damaged", id="broken-archive"),
        pytest.param(stored({"state_dict": {}}), "was not written by deepfake", id="foreign"),
        pytest.param(stored(torch.zeros(3)), "was not written by deepfake", id="tensor"),
        pytest.param(stored({KEY: 3}), "was not written by deepfake", id="foreign-key"),
    ],
)
def test_refuses_files_that_are_no_checkpoint(
    tmp_path: Path, content: bytes | None, problem: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "m.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        read(path)


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_refuses_a_truncated_file(run: Run, tmp_path: Path, share: float) -> None:
    data = run.model.read_bytes()
    path = tmp_path / "m.ckpt"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"m\.ckpt is damaged"):
        load_checkpoint(path)


def test_flipped_bytes_never_escape_as_another_error(run: Run, tmp_path: Path) -> None:
    data = run.model.read_bytes()
    start = data.index(b"data.pkl")
    end = start + data[start:].index(b"PK\x03\x04")  # where the pickle of names ends
    rng = np.random.default_rng(0)
    path = tmp_path / "m.ckpt"
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(start, end, 3):
            broken[place] = int(rng.integers(0, 256))
        path.write_bytes(broken)
        try:
            read_info(path)
        except CheckpointError:
            refused += 1
    assert refused > 50


# Files that are nearly one


def test_flipped_bits_are_never_accepted(run: Run, tmp_path: Path) -> None:
    data = run.model.read_bytes()
    expected = torch.load(run.model, weights_only=True)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(data), 60).tolist():
        path = tmp_path / "m.ckpt"
        flipped = bytes([data[place] ^ 1 << int(rng.integers(8))])
        path.write_bytes(data[:place] + flipped + data[place + 1 :])
        try:
            read_info(path)
        except CheckpointError:
            refused += 1
            continue
        # What the archive does not need (padding, times) may change.
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(state[name], v) for name, v in expected["state_dict"].items())
    assert refused > 40


def test_settings_beside_the_tensors_are_sealed_too(run: Run, tmp_path: Path) -> None:
    content = torch.load(run.model, weights_only=True)
    content[KEY]["limits"]["real"] /= 2
    torch.save(content, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="its checksum is another one"):
        load_checkpoint(tmp_path / "m.ckpt")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(put(KEY, "format", 99), "has format 99, this version .* reads 4", id="format"),
        pytest.param(put(KEY, "format", 3), "has format 3, this version", id="older-format"),
        pytest.param(remove(KEY, "format"), "has format None", id="no-format"),
        pytest.param(drop("state_dict"), "it has no state_dict", id="no-weights"),
        pytest.param(drop("hyper_parameters"), "it has no hyper_parameters", id="no-settings"),
        pytest.param(drop(KEY), "was not written by deepfake", id="no-part-of-ours"),
        pytest.param(put(KEY, "limits", None), "in mid-training; use the model.ckpt", id="mid"),
        pytest.param(remove(KEY, "recipe"), "does not fit this version", id="no-recipe"),
        pytest.param(put(KEY, "recipe", {"crop": {}}), "has the parts crop, sampling", id="parts"),
        pytest.param(change_recipe("crop", {"size": 32}), "CropSpec settings do not", id="crop"),
        pytest.param(
            change_recipe("aggregation", {"policy": "mean"}), "Aggregation settings", id="numbers"
        ),
        pytest.param(
            change_recipe("aggregation", Aggregation().to_dict() | {"policy": "mode"}),
            "no aggregation 'mode'",
            id="policy",
        ),
        pytest.param(put(KEY, "recipe", 7), "has the parts crop, sampling", id="recipe-of-no-kind"),
        pytest.param(change_recipe("crop", 7), "CropSpec settings do not", id="crop-of-no-kind"),
        pytest.param(put_limits(0.2, [1.5]), "limit 1.5 is no probability", id="limit"),
        pytest.param(put_limits(float("nan"), [0.5]), "limit nan is no probability", id="nan"),
        pytest.param(put_limits(0.6, [0.5]), "the limits cross: real up to 0.6", id="crossed"),
        pytest.param(put_limits(0.1, [0.5, 0.4]), "expected rising numbers", id="falling"),
        pytest.param(put_limits(0.1, []), "need a limit for fakes", id="no-limit"),
        pytest.param(put_limits("0.1", [0.5]), "limit '0.1' is no number", id="text"),
        pytest.param(put_limits(0.1, 0.5), "expected real and fake, a list", id="no-list"),
        pytest.param(put(KEY, "limits", [0.1]), "expected real and fake", id="limits-of-no-kind"),
        pytest.param(put(KEY, "error_rates", None), "error rates do not fit", id="no-rates"),
        pytest.param(put(KEY, "chosen_for", {}), "has the parts crop, sampling", id="chosen"),
        pytest.param(put(KEY, "chosen_for", 7), "does not fit this version", id="chosen-kind"),
        pytest.param(put(KEY, "chosen_for", {"tta": "no"}), "tta='no'; expected", id="looks"),
        pytest.param(
            put(KEY, "counts", {"train": {"real": -1, "fake": 2}}), "counts of crops", id="counts"
        ),
        pytest.param(
            put(KEY, "counts", {"train": {"real": 0, "fake": 0}}), "trained on no crops", id="none"
        ),
        pytest.param(
            put("state_dict", "embedder.projection.bias", torch.full((512,), torch.nan)),
            "embedder.projection.bias holds NaN or infinite numbers",
            id="nan-weight",
        ),
        pytest.param(
            put("hyper_parameters", "image_size", 64), "takes 64 px, its crops have 32", id="size"
        ),
        pytest.param(
            put("hyper_parameters", "embedding_dim", 10**9), "embedding_dim=1000000000", id="huge"
        ),
        pytest.param(
            put("hyper_parameters", "embedding_dim", 17), "the embedder does not fit", id="width"
        ),
        pytest.param(
            remove("hyper_parameters", "embedding_dim"), "does not fit this version", id="no-width"
        ),
        pytest.param(
            put("hyper_parameters", "backbone", "resnet5O"), "did you mean resnet50", id="backbone"
        ),
        pytest.param(
            put("hyper_parameters", "backbone", 5), "does not fit this version", id="number"
        ),
        pytest.param(
            put("hyper_parameters", "backbone", "test_resnet"),
            "the embedder does not fit",
            id="other-network",
        ),
        pytest.param(put("hyper_parameters", "dropout", 7.0), "dropout=7.0", id="dropout"),
        pytest.param(
            put("hyper_parameters", "dropout", float("nan")), "dropout=nan", id="nan-dropout"
        ),
        pytest.param(
            put("hyper_parameters", "embedding_dim", True), "embedding_dim=True", id="bool"
        ),
        pytest.param(
            put("hyper_parameters", "image_size", 32.0), "image_size=32.0; expected", id="float"
        ),
        pytest.param(
            put("hyper_parameters", "embedding_dim", 10**400), "is out of range", id="endless"
        ),
        pytest.param(put("hyper_parameters", "levels", "3"), "levels='3'; expected", id="levels"),
        pytest.param(remove(KEY, "quality"), "does not fit this version .*quality", id="no-ranges"),
        pytest.param(put(KEY, "quality", [1]), "its training faces is", id="ranges-of-no-kind"),
        pytest.param(
            put("state_dict", "quality.rest", torch.tensor([torch.nan])),
            "quality.rest holds NaN or infinite",
            id="nan-face-space",
        ),
        pytest.param(
            put("state_dict", "quality.scale", torch.ones(192, dtype=torch.float16)),
            "quality.scale .* float16",
            id="half-face-space",
        ),
        pytest.param(
            put("state_dict", "quality.mean", torch.ones(192, dtype=torch.bfloat16)),
            "does not fit this version",
            id="face-space-of-no-kind",
        ),
        pytest.param(
            remove("state_dict", "quality.variances"), "its face space has", id="no-face-space"
        ),
        pytest.param(
            remove("state_dict", "head.weight_"),
            "the head does not fit its description: .*weight_",
            id="no-head",
        ),
        pytest.param(
            remove("state_dict", "embedder.projection.bias"),
            r"embedder does not .*projection\.bias",
            id="bias",
        ),
        pytest.param(
            put("state_dict", "embedder.projection.weight", torch.zeros(3)),
            "the embedder does not fit its description: .*projection.weight",
            id="shape",
        ),
        pytest.param(
            put("state_dict", "embedder.surplus", torch.zeros(3)), "surplus", id="surplus-layer"
        ),
        pytest.param(
            put("state_dict", "embedder.projection.weight", "text"),
            r"embedder\.projection\.weight is no tensor",
            id="no-tensor",
        ),
    ],
)
def test_refuses_parts_that_do_not_fit(
    run: Run, tmp_path: Path, change: Callable[[Content], object], problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(altered(run, tmp_path / "m.ckpt", change))


def test_a_checkpoint_from_mid_training_still_tells_what_it_is(run: Run, tmp_path: Path) -> None:
    path = altered(run, tmp_path / "m.ckpt", put(KEY, "limits", None))
    assert read_info(path)["counts"]["train"] == {"real": 16, "fake": 16}
