"""What leaves the house is equal to what is in it, says what it is, or does not leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from deepfake.errors import CheckpointError, JobError, UsageError
from deepfake.evaluation.embeddings import EmbedOptions
from deepfake.evaluation.refit import fit_new_head
from deepfake.faces.extraction import decode_crop
from deepfake.heads import HeadName, trees
from deepfake.inference import export
from deepfake.inference.export import (
    TOLERANCE,
    compare,
    export_checkpoint,
    make_crops,
    make_graph,
    require,
)
from deepfake.inference.predictor import Predictor
from deepfake.inference.scoring import OnnxScorer, TorchScorer
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint, read_info
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.made_crops import write_crop_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(trained: Trained) -> Checkpoint:
    return load_checkpoint(trained.checkpoint)


# ONNX


def test_the_written_graph_is_equal_on_made_and_on_real_crops(
    trained: Trained, checkpoint: Checkpoint, graph: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "model.onnx"
    report = export_checkpoint(trained.checkpoint, "onnx", output, trained.crops)
    figures = re.fullmatch(
        r"equal to torch: at most (\S+) in p_fake and (\S+) in the embedding on (\d+) crops", report
    )
    assert figures is not None
    assert float(figures[1]) <= TOLERANCE
    assert float(figures[2]) <= TOLERANCE
    assert 5 + 16 <= int(figures[3]) <= 5 + 32
    assert output.read_bytes() == graph  # made twice, the same bytes
    # Compared once more, on other crops than the command looked at.
    rows = read_csv(trained.crops / "manifest.csv", ["crop"])
    images = np.stack([decode_crop((trained.crops / row["crop"]).read_bytes()) for row in rows])
    found = OnnxScorer(output.read_bytes(), 1).run(images)
    expected = TorchScorer(checkpoint, torch.device("cpu"), 1).run(images)
    for output_number in (0, 1):
        np.testing.assert_allclose(found[output_number], expected[output_number], 0, 1e-5)


def test_a_graph_tells_how_it_must_be_fed(checkpoint: Checkpoint, graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    description = json.loads(entry.value)
    assert entry.key == "deepfake"
    assert description["checkpoint_sha256"] == checkpoint.sha256
    assert description["recipe"] == checkpoint.recipe.to_dict()
    assert description["limits"] == checkpoint.limits.to_dict()
    assert description["labels"] == {"0": "real", "1": "fake"}
    assert description["versions"]["torch"]
    assert {"deepfake", "torch", "onnx", "onnxscript"} <= set(description["export_versions"])
    (crops,) = model.graph.input
    batch, *rest = crops.type.tensor_type.shape.dim
    assert crops.name == "crops"
    assert batch.dim_param
    assert [dimension.dim_value for dimension in rest] == [3, 64, 64]
    assert [output.name for output in model.graph.output] == ["p_fake", "embedding"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["rbf", "gbm"])
def test_other_heads_are_exported_too(
    trained: Trained, head: HeadName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if head == "gbm":
        pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
        monkeypatch.setattr(trees, "N_TREES", 10)
    path = tmp_path / "model.ckpt"
    checkpoint = load_checkpoint(trained.checkpoint)
    fit_new_head(checkpoint, trained.crops, path, head=head, options=EmbedOptions(device="cpu"))
    report = export_checkpoint(path, "onnx", tmp_path / "model.onnx", trained.crops)
    assert report.startswith("equal to torch")
    images = make_crops(64)
    found = OnnxScorer((tmp_path / "model.onnx").read_bytes(), 1).run(images)
    with torch.inference_mode():
        expected = load_checkpoint(path).head(torch.from_numpy(found[1])).numpy()
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-9)


def test_a_graph_names_no_place_of_this_machine(graph: bytes) -> None:
    assert str(ROOT).encode() not in graph
    assert b"site-packages" not in graph


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_what_is_not_equal_is_not_written(
    trained: Trained, graph: bytes, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(graph)
    (head,) = [
        tensor for tensor in model.graph.initializer if tensor.name.endswith("projection.bias")
    ]
    values = onnx.numpy_helper.to_array(head) * factor
    head.CopyFrom(onnx.numpy_helper.from_array(values, head.name))
    monkeypatch.setattr(export, "make_graph", lambda checkpoint: model.SerializeToString())
    with pytest.raises(JobError, match=r"the graph is not equal to torch .*allowed: 1e-05"):
        export_checkpoint(trained.checkpoint, "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_another_width_is_not_equal(checkpoint: Checkpoint, graph: bytes) -> None:
    class Narrow:
        def run(self, images: np.ndarray[Any, Any]) -> tuple[object, object]:
            p_fake, embedding = OnnxScorer(graph, 1).run(images)
            return p_fake, embedding[:, :-1]

    with pytest.raises(JobError, match=r"the graph gives \(1,\) and \(1, \d+\); expected"):
        compare(Narrow(), checkpoint, make_crops(64))  # type: ignore[arg-type]


def test_a_network_that_torch_cannot_export_is_said(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Branching(export._Whole):
        def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(crops if crops.float().mean() > 3 else crops.flip(0))

    monkeypatch.setattr(export, "_Whole", Branching)
    with pytest.raises(JobError, match=r"cannot export this network to ONNX .*score it with"):
        make_graph(checkpoint)


def test_missing_packages_are_named(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UsageError, match=r"needs onnxscript, .*pip install 'deepfake\[onnx\]'"):
        make_graph(checkpoint)
    require("onnx")


def test_crops_must_fit_the_checkpoint(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    small = write_crop_folder(tmp_path / "small", {"train": (1, 1)}, size=32)
    with pytest.raises(UsageError, match="have 32 px, the checkpoint takes 64 px"):
        export_checkpoint(trained.checkpoint, "onnx", output, small)
    none = write_crop_folder(tmp_path / "none", {}, size=64)
    with pytest.raises(UsageError, match="holds no crops"):
        export_checkpoint(trained.checkpoint, "onnx", output, none)
    assert not output.exists()


def test_crops_in_a_tar_are_compared_too(tmp_path: Path) -> None:
    counts = {"train": (3, 3)}
    folder = write_crop_folder(tmp_path / "folder", counts, size=32)
    tar = write_crop_folder(tmp_path / "tar", counts, size=32, store="tar")
    crops = export._read_crops(tar, 32)
    assert crops.shape == (6, 32, 32, 3)
    assert np.array_equal(crops, export._read_crops(folder, 32))


def test_a_checkpoint_from_mid_training_is_not_exported(trained: Trained, tmp_path: Path) -> None:
    last = trained.run / "checkpoints" / "last.ckpt"
    for kind, suffix in (("onnx", ".onnx"), ("safetensors", ".safetensors")):
        with pytest.raises(CheckpointError, match="in mid-training"):
            export_checkpoint(last, kind, tmp_path / f"m{suffix}")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_snippet_of_the_docs_scores(
    trained: Trained, checkpoint: Checkpoint, graph: bytes, tmp_path: Path
) -> None:
    """Runs the very lines that people will copy."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n([^`]*onnxruntime[^`]*)```", text)
    (tmp_path / "model.onnx").write_bytes(graph)
    rows = read_csv(trained.crops / "manifest.csv", ["crop"])
    crop = trained.crops / rows[0]["crop"]
    (tmp_path / "crop.jpg").write_bytes(crop.read_bytes())
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(compile(snippet, "models.md", "exec"), namespace)
    image = decode_crop(crop.read_bytes())[None]
    (expected,) = TorchScorer(checkpoint, torch.device("cpu"), 1).score(image)
    assert float(namespace["p_fake"][0]) == pytest.approx(expected, abs=1e-5)
    assert namespace["about"]["limits"] == checkpoint.limits.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [("tf_efficientnet_b4", 380), ("mobilenetv2_100", 224), ("legacy_xception", 240)],
)
def test_graphs_of_real_backbones_equal_torch(backbone: str, size: int, tmp_path: Path) -> None:
    from benchmarks.predict import write_checkpoint

    path = write_checkpoint(tmp_path / "m.ckpt", backbone, size)
    assert "equal to torch" in export_checkpoint(path, "onnx", tmp_path / "m.onnx")


# safetensors


def test_safetensors_score_the_same_to_the_last_bit(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    export_checkpoint(trained.checkpoint, "safetensors", output)
    photos = sorted(trained.photos.rglob("*.png"))[:4]
    before = list(Predictor.from_checkpoint(trained.checkpoint, device="cpu").predict(photos))
    after = list(Predictor.from_checkpoint(output, device="cpu").predict(photos))
    assert before == after
    assert any(score.p_fake is not None for score in before)
    kept, given = read_info(trained.checkpoint), read_info(output)
    assert given == kept | {name: given[name] for name in ("n_parameters", "configuration")}
    assert given["n_parameters"] <= kept["n_parameters"]


def test_safetensors_must_be_named_so(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        export_checkpoint(trained.checkpoint, "safetensors", tmp_path / "model.bin")
