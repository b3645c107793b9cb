"""A checkpoint by path, by the name of a model in the box, or by an address on a hub."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from deepfake.errors import CheckpointError, UsageError
from deepfake.inference.predictor import Predictor
from deepfake.learning import checkpoint_names
from deepfake.learning.checkpoint import load_checkpoint, read_info
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.checkpoint_names import NamedCheckpoint, find_checkpoint, list_shipped
from deepfake.learning.embedder import EmbeddingModel
from tests.conftest import Trained
from tests.stores.made_stores import empty_memory


@pytest.fixture
def box(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box with two models, and weights that are none."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(checkpoint_names, "SHIPPED", folder)
    for name in ("default", "free"):
        (folder / f"{name}.safetensors").write_bytes(to_safetensors(trained.checkpoint, half=True))
    weights = safetensors.torch.save({"w": torch.zeros(3)})
    (folder / "face_mesh.safetensors").write_bytes(weights)
    return folder


def test_a_name_is_a_model_in_the_box_and_a_path_is_a_path(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(list_shipped()) == {"default", "free"}
    assert find_checkpoint("default") == NamedCheckpoint(box / "default.safetensors", "default")
    assert find_checkpoint("free").path == box / "free.safetensors"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("default").write_bytes(b"of the user")
    Path("mine").write_bytes(b"of the user")
    assert find_checkpoint("default").path == box / "default.safetensors"
    for own in ("./default", "mine", "runs/001/model.ckpt", "model.safetensors"):
        assert find_checkpoint(own) == NamedCheckpoint(Path(own), own)
        assert find_checkpoint(own).is_own_file
    assert find_checkpoint(Path("default")) == NamedCheckpoint(Path("default"), "default")
    assert find_checkpoint(find_checkpoint("free")).name == "free"


def test_an_unknown_name_says_what_there_is(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"defualt: this build .* ships default, free;"):
        find_checkpoint("defualt")
    with pytest.raises(CheckpointError, match="there is no checkpoint face_mesh"):
        find_checkpoint("face_mesh")
    monkeypatch.setattr(checkpoint_names, "SHIPPED", box / "empty")
    with pytest.raises(CheckpointError, match=r"no checkpoint default: this .* ships none; name"):
        load_checkpoint()
    with pytest.raises(UsageError, match="is no address"):
        find_checkpoint("hf://nobody")


def test_who_speaks_is_said_in_one_line(
    box: Path, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_checkpoint(trained.checkpoint)
    assert not caplog.records
    named = load_checkpoint("free")
    assert (named.name, named.path) == ("free", box / "free.safetensors")
    by_itself = load_checkpoint()
    assert by_itself.name == "default"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    for record, checkpoint in zip(caplog.records, (named, by_itself), strict=True):
        told = record.getMessage()
        assert told.startswith(f"model {checkpoint.name}: test_efficientnet")
        assert told.endswith(f"on faces of 64 px, sha256 {checkpoint.sha256}")
        assert "\n" not in told


def test_a_predictor_takes_the_name_along_to_where_the_box_lies_elsewhere(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickle.dumps(Predictor.from_checkpoint("free", device="cpu"))
    monkeypatch.setattr(checkpoint_names, "SHIPPED", box.rename(tmp_path / "elsewhere"))
    arrived = pickle.loads(sent).checkpoint
    assert (arrived.name, arrived.path) == ("free", tmp_path / "elsewhere" / "free.safetensors")


def test_what_is_made_of_a_model_in_the_box_lies_in_the_working_folder() -> None:
    assert find_checkpoint("a/model.ckpt").suggest_output(".onnx") == Path("a/model.onnx")
    boxed = NamedCheckpoint(Path("/box/default.safetensors"), "default")
    assert boxed.suggest_output(".onnx") == Path("default.onnx")
    fetched = NamedCheckpoint(Path("/cache/x/model.safetensors"), "hf://ann/de.tector@0123")
    assert fetched.suggest_output(".onnx") == Path("de.tector.onnx")


def test_a_checkpoint_in_a_store_is_copied_once_and_read_like_a_file(trained: Trained) -> None:
    with empty_memory() as memory:
        memory.pipe_file("/models/some.ckpt", trained.checkpoint.read_bytes())
        found = find_checkpoint("memory://models/some.ckpt")
        assert find_checkpoint("memory://models/some.ckpt") == found
        assert found.name == "memory://models/some.ckpt"
        assert not found.is_own_file
        assert found.suggest_output(".onnx") == Path("some.onnx")
        loaded = load_checkpoint(found)
        assert loaded.sha256 == load_checkpoint(trained.checkpoint).sha256
        memory.pipe_file("/models/code.ckpt", pickle.dumps(print, 2))
        with pytest.raises(CheckpointError, match="it was not opened, because it could run code"):
            load_checkpoint("memory://models/code.ckpt")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("memory://models/gone.ckpt", "memory://models/gone.ckpt: no such object"),
        ("memory://models/model.onnx", "is a graph for programs without this package"),
        ("https://h/a.ckpt?sig=secret", r"https://h/a.ckpt\?sig=\.\.\. is signed, and .* fetch"),
        ("ftp://host/a.ckpt", "no address that is read here"),
    ],
)
def test_an_address_that_leads_to_no_checkpoint_is_refused(address: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        find_checkpoint(address)


def test_a_training_starts_from_a_model_in_the_box(box: Path) -> None:
    hyper = read_info("default")["hyper_parameters"]
    size, width = hyper["image_size"], hyper["embedding_dim"]
    model = EmbeddingModel(hyper["backbone"], size, width, pretrained="default").eval()
    assert model.initial_weights == "default"
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert torch.equal(model(images), load_checkpoint("default").embedder(images))
    with pytest.raises(CheckpointError, match="has backbone 'test_efficientnet"):
        EmbeddingModel("test_resnet", size, width, pretrained="default")
