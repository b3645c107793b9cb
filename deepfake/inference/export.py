"""A finished checkpoint as a file for elsewhere: an ONNX graph, or safetensors.

The graph takes crops as they are stored and holds everything that follows: normalisation, backbone,
projection, unit norm, head and its calibration. It tells in its metadata how crops must be
cut for it, and no graph leaves this room that was not compared with torch. Knows no media.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfake import __version__
from deepfake.dataset.crop_store import CropStore
from deepfake.dataset.manifest import read_manifest
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import decode_crop
from deepfake.inference.graphs import record_graph
from deepfake.inference.scoring import CROPS, EMBEDDING, P_FAKE, OnnxScorer, TorchScorer
from deepfake.learning.checkpoint import (
    KEY,
    SAFETENSORS_SUFFIX,
    Checkpoint,
)
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.ensemble import load_detector
from deepfake.storage import write_atomic

ExportFormat = Literal["onnx", "safetensors"]
GRAPH_FORMAT = 2  # 1 had one threshold
TOLERANCE = 1e-5
"""Largest difference from torch, in ``p_fake`` and in every number of the embedding."""
_REAL_CROPS = 32
_MAKERS = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a graph is from torch: largest absolute differences over some crops."""

    p_fake: float
    embedding: float
    crops: int

    def __str__(self) -> str:
        return (
            f"at most {self.p_fake:.1e} in p_fake and {self.embedding:.1e} in the embedding on "
            f"{self.crops} crops"
        )


def export_checkpoint(
    path: Path,
    export_format: ExportFormat,
    output: Path,
    crops: Path | None = None,
    half: bool = False,
) -> str:
    """Write a finished checkpoint in another format; nothing is written that is not equal.

    Args:
        path: ``model.ckpt`` of a run, or its ``.safetensors``.
        export_format: ``onnx`` to score elsewhere, ``safetensors`` to pass the checkpoint on.
        output: File to write.
        crops: Crop folder; some of its crops are compared, too (``onnx``).
        half: Weights in half precision (``safetensors``).

    Returns:
        A line about what was compared.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, not ours or unfinished.
        UsageError: If packages are missing, or the crops do not fit.
        JobError: If the network cannot be exported, or the result is not equal.
    """
    checkpoint = load_detector(path)
    if export_format == "safetensors":
        if output.suffix.lower() != SAFETENSORS_SUFFIX:
            raise UsageError(f"{output}: the name must end in {SAFETENSORS_SUFFIX} to be read back")
        write_atomic(output, to_safetensors(path, half))
        same = "the same tensors and values, without what only training needs"
        return f"{same}; weights in half precision" if half else same
    size = checkpoint.recipe.crop.size
    images = make_crops(size)
    if crops is not None:
        images = np.concatenate([images, _read_crops(crops, size)])
    graph = make_graph(checkpoint)
    difference = compare(OnnxScorer(graph, batch_size=1), checkpoint, images)
    write_atomic(output, graph)
    record_graph(graph, checkpoint.sha256)
    return f"equal to torch: {difference}"


def make_graph(checkpoint: Checkpoint) -> bytes:
    """The bytes of an ``.onnx`` file of the whole way from crops to ``p_fake``.

    Input ``crops`` is ``(B, 3, S, S)`` uint8 RGB with any B; outputs are ``p_fake``, ``(B,)``
    float64, and ``embedding``, ``(B, D)`` float32.

    Raises:
        UsageError: If the packages that this needs are not installed.
        JobError: If torch cannot export the network.
    """
    require("onnx", "onnxscript", "onnxruntime")
    size = checkpoint.recipe.crop.size
    network = _Whole(checkpoint).eval()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[CROPS],
                output_names=[P_FAKE, EMBEDDING],
                dynamic_shapes={CROPS: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise JobError(
                f"torch cannot export this network to ONNX ({type(error).__name__}: {first}); "
                "score it with torch"
            ) from error
    model = program.model_proto
    graph = model.graph
    # The exporter notes where in whose source every node was born; nobody needs that elsewhere.
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:], model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(_describe(checkpoint)))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def compare(scorer: OnnxScorer, checkpoint: Checkpoint, crops: NDArray[np.uint8]) -> Difference:
    """How far a graph is from the checkpoint in torch.

    ``p_fake`` of a piecewise head is compared on the graph's own embeddings.

    Args:
        scorer: The graph.
        checkpoint: What it was made from.
        crops: To compare on, ``(N, S, S, 3)``.

    Raises:
        JobError: If it is further than ``TOLERANCE``, or does not run.
    """
    reference = TorchScorer(checkpoint, torch.device("cpu"), batch_size=1)
    worst = np.zeros(2)
    # In batches of one and of several: the size of a batch must be free.
    for part in (crops[:1], *np.split(crops[1:], range(4, len(crops) - 1, 4))):
        p_fake, embedding = scorer.run(part)
        true_p_fake, true_embedding = reference.run(part)
        if checkpoint.head.piecewise and embedding.shape == true_embedding.shape:
            # Its answer may jump where two embeddings differ in their last digits.
            true_p_fake = checkpoint.head(torch.from_numpy(embedding)).numpy()
        if embedding.shape != true_embedding.shape or p_fake.shape != true_p_fake.shape:
            raise JobError(
                f"the graph gives {p_fake.shape} and {embedding.shape}; expected "
                f"{true_p_fake.shape} and {true_embedding.shape}"
            )
        distances = [np.abs(p_fake - true_p_fake).max(), np.abs(embedding - true_embedding).max()]
        worst = np.maximum(worst, distances)  # keeps a NaN, as max() would not
    difference = Difference(float(worst[0]), float(worst[1]), len(crops))
    if not (worst <= TOLERANCE).all():
        raise JobError(f"the graph is not equal to torch ({difference}; allowed: {TOLERANCE:g})")
    return difference


def require(*packages: str) -> None:
    """Refuse what needs packages that are not installed.

    Raises:
        UsageError: If one is missing; it says how to get it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {', '.join(missing)}, not installed here: pip install 'deepfake[onnx]'"
        )


class _Whole(nn.Module):
    """Everything from stored crops to ``p_fake``, without checks of values."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.embedder, self.head = checkpoint.embedder, checkpoint.head

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embedder(crops)
        return self.head.to_probability(embedding), embedding


def _describe(checkpoint: Checkpoint) -> dict[str, object]:
    """What somebody with the graph alone must know, in plain types."""
    size, info = checkpoint.recipe.crop.size, checkpoint.info
    return {
        "format": GRAPH_FORMAT,
        "checkpoint_sha256": checkpoint.sha256,
        "input": f"{CROPS}: (B, 3, {size}, {size}) uint8 RGB, cut as recipe says",
        "outputs": f"{P_FAKE}: (B,), {EMBEDDING}: (B, D); "
        f"verdict: fake where {P_FAKE} >= limits.fake[people - 1], real where <= limits.real",
        "limits": checkpoint.limits.to_dict(),
        "error_rates": info["error_rates"],
        "chosen_for": info["chosen_for"],
        "labels": info["labels"],
        "recipe": checkpoint.recipe.to_dict(),
        "backbone": info["backbone"],
        "normalisation": info["normalisation"],
        "manifest_sha256": info["manifest_sha256"],
        "versions": info["versions"],
        "export_versions": export_versions(),
    }


def export_versions() -> dict[str, str]:
    """Versions of everything that shapes a graph."""
    return {"deepfake": __version__} | {name: version(name) for name in _MAKERS}


def make_crops(size: int) -> NDArray[np.uint8]:
    """Crops to compare on: noise twice, black, white and a ramp, ``(5, size, size, 3)``."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    crops[2], crops[3] = 0, 255
    crops[4] = np.linspace(0, 255, size).astype(np.uint8)[:, None]
    return crops


def _read_crops(folder: Path, size: int) -> NDArray[np.uint8]:
    """Some crops of a crop folder, evenly over its manifest."""
    manifest = read_manifest(folder)
    if manifest.spec.size != size:
        raise UsageError(
            f"the crops in {folder} have {manifest.spec.size} px, the checkpoint takes {size} px"
        )
    if not manifest.rows:
        raise UsageError(f"{folder} holds no crops")
    crops = [row.crop for row in manifest.rows[:: -(-len(manifest.rows) // _REAL_CROPS)]]
    store = CropStore(folder, crops)
    return np.stack([decode_crop(store.read(crop)) for crop in crops])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about its own insides to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
