"""Fewer bits for the network on a CPU: what they gain, and whether the scores stay what they are.

    python benchmarks/precision.py [--checkpoint NAME] [--limit 400] [--rounds 7]

The rows of a checkpoint (by default the shipped one) are scored on real crops: faces of the test
split of ``dfdc224``, cut as the checkpoint says. A row is accepted where AUC moves by less than
0.002 and ``p_fake`` by less than 0.02 at the 99th percentile, from float32 by torch. ``as trained``
is torch without what ``learning.folding`` does for it. int8 is ONNX
Runtime's static quantisation, calibrated on faces of the training split, in the way that kept the
scores best of those tried: filters by channel, all activations between them, the squeeze-and-excite
branches left out. The rows of an EfficientNet-B4 with random weights tell of speed alone. One
thread, four faces at once, processor time; all rows take turns. What this CPU has no instructions
for is left out, and so is OpenVINO where it is not installed.
"""

from __future__ import annotations

import argparse
import csv
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.photos import find_photos
from benchmarks.predict import write_checkpoint
from deepfake.faces.extraction import FaceExtractor, decode_crop
from deepfake.inference.export import make_graph
from deepfake.inference.scoring import CPU_FACES, CROPS, P_FAKE, OnnxScorer, TorchScorer
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.folding import copy_for_scoring
from deepfake.media.images import read_image
from deepfake.records import CropSpec

AUC_MOVES, P_FAKE_MOVES = 0.002, 0.02
_SPEED_ONLY = ("tf_efficientnet_b4", 380)
_CALIBRATION_FACES = 64
_QUANTISED = ["Conv", "Add", "Mul", "Sigmoid", "Clip"]
_HALF = {torch.bfloat16: "avx512_bf16", torch.float16: "avx512_fp16"}

Crops = NDArray[np.uint8]
Run = Callable[[Crops], NDArray[np.float64]]
"""Crops ``(N, S, S, 3)`` to ``p_fake``, ``(N,)``."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--faces", type=Path, default=find_photos().parent / "labelled/dfdc224.csv")
    parser.add_argument("--checkpoint", help="by default the shipped one")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.disable(logging.WARNING)  # the quantiser recommends another preparation
    checkpoint = load_checkpoint(options.checkpoint)
    spec = checkpoint.recipe.crop.for_scoring("largest")
    known, _ = cut_faces(options.faces, "train", _CALIBRATION_FACES, spec)
    crops, labels = cut_faces(options.faces, "test", options.limit, spec)
    print("| network, numbers and what runs it | a face | speed | AUC | moved | p_fake moved | |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        name_of = f"{checkpoint.info['backbone'].split('.')[0]} at {spec.size} px"
        runs = list_runs(checkpoint, known, Path(name))
        spent = time_runs(runs, crops[:CPU_FACES], options.rounds)
        answers = {words: score_all(run, crops) for words, run in runs.items()}
        print_rows(name_of, spent, answers, labels)
        backbone, size = _SPEED_ONLY
        checkpoint = load_checkpoint(write_checkpoint(Path(name) / "b4.ckpt", backbone, size))
        known = np.stack([cv2.resize(crop, (size, size)) for crop in known[:8]]).astype(np.uint8)
        runs = list_runs(checkpoint, known, Path(name))
        print_rows(f"{backbone} at {size} px", time_runs(runs, known[:CPU_FACES], options.rounds))
    print(f"\n{len(crops)} faces, {labels.mean():.0%} of them fake.")
    if find_spec("openvino") is None:
        print("OpenVINO is not installed: its rows are left out.")


def cut_faces(
    table: Path, split: str, limit: int, spec: CropSpec
) -> tuple[Crops, NDArray[np.int64]]:
    """Crops of about as many faces of a split, evenly chosen, and their labels (1 = fake)."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    extractor = FaceExtractor(spec)
    crops, labels = [], []
    for row in rows[:: -(-len(rows) // limit)]:
        path = table.parent / row["path"]
        for found in extractor.extract_frame(read_image(path, path.name)).crops:
            crops.append(decode_crop(found.encoded))
            labels.append(int(row["label"] == "fake"))
    return np.stack(crops), np.array(labels)


def list_runs(checkpoint: Checkpoint, known: Crops, folder: Path) -> dict[str, Run]:
    """All ways to score, by their names; the first is the reference."""
    scorer = TorchScorer(checkpoint, torch.device("cpu"), CPU_FACES)
    whole, quantised = folder / "float32.onnx", folder / "int8.onnx"
    whole.write_bytes(make_graph(checkpoint))
    quantise(whole, quantised, known)
    runs: dict[str, Run] = {"float32, torch": lambda crops: scorer.run(crops)[0]}
    embedder = deepcopy(checkpoint.embedder)
    runs["float32, torch, as trained"] = run_torch(embedder, checkpoint)
    embedder = deepcopy(embedder).to(memory_format=torch.channels_last)
    runs["float32, torch, as trained, channels last"] = run_torch(embedder, checkpoint)
    folded = copy_for_scoring(checkpoint.embedder, torch.device("cpu"))
    abilities = torch.cpu.get_capabilities()
    for dtype, instructions in _HALF.items():
        if abilities.get(instructions):
            runs[f"{str(dtype).split('.')[1]}, torch"] = run_torch(folded, checkpoint, dtype)
    runs["float32, ONNX Runtime"] = run_graph(whole)
    runs["int8, ONNX Runtime"] = run_graph(quantised)
    if find_spec("openvino") is not None:
        runs["float32, OpenVINO"] = run_openvino(whole, "f32")
        if abilities.get("avx512_bf16"):
            runs["bfloat16, OpenVINO"] = run_openvino(whole, "bf16")
        runs["int8, OpenVINO"] = run_openvino(quantised, "f32")
    return runs


def run_torch(embedder: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> Run:
    """Torch, with its convolutions and products in half precision where one is named."""

    @torch.inference_mode()
    def run(crops: Crops) -> NDArray[np.float64]:
        batch = torch.from_numpy(crops).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            embeddings = embedder(batch)
        p_fake: NDArray[np.float64] = checkpoint.head(embeddings).numpy()
        return p_fake

    return run


def run_graph(path: Path) -> Run:
    """ONNX Runtime."""
    # A quantised graph keeps what the graph says of itself.
    scorer = OnnxScorer(path.read_bytes(), CPU_FACES)
    return lambda crops: scorer.run(crops)[0]


def run_openvino(path: Path, precision: str) -> Run:
    """OpenVINO, which takes the same files."""
    import openvino

    limits = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(str(path), "CPU", limits)
    request = model.create_infer_request()

    def run(crops: Crops) -> NDArray[np.float64]:
        found = request.infer({CROPS: np.ascontiguousarray(crops.transpose(0, 3, 1, 2))})
        return np.array(found[P_FAKE], np.float64)

    return run


def quantise(source: Path, target: Path, known: Crops) -> None:
    """Write the graph in int8, its ranges from some crops."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Crops] = iter(np.split(known, range(4, len(known), 4)))

        def get_next(self) -> dict[str, Crops] | None:
            batch = next(self._batches, None)
            return None if batch is None else {CROPS: batch.transpose(0, 3, 1, 2).copy()}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    quantization.quantize_static(
        prepared,
        target,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=_QUANTISED,
        nodes_to_exclude=[node.name for node in nodes if any(".se." in one for one in node.input)],
    )


def time_runs(runs: dict[str, Run], crops: Crops, rounds: int) -> dict[str, float]:
    """Seconds of processor time a face, medians of turns after one that warms up."""
    spent: dict[str, list[float]] = {words: [] for words in runs}
    for number in range(rounds + 1):
        for words, run in runs.items():
            began_s = time.process_time()
            run(crops)
            if number:
                spent[words].append(time.process_time() - began_s)
    return {words: statistics.median(times_s) / len(crops) for words, times_s in spent.items()}


def score_all(run: Run, crops: Crops) -> NDArray[np.float64]:
    """``p_fake`` of all crops, in the batches of a CPU."""
    return np.concatenate(
        [run(part) for part in np.split(crops, range(CPU_FACES, len(crops), CPU_FACES))]
    )


def print_rows(
    network: str,
    spent: dict[str, float],
    answers: dict[str, NDArray[np.float64]] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> None:
    """A row for each way; all are compared with the first."""
    first = next(iter(spent))
    for words, took_s in spent.items():
        cells = [f"{network}, {words}", f"{1e3 * took_s:.1f} ms", f"x{spent[first] / took_s:.2f}"]
        if answers is not None:
            auc, before = (roc_auc_score(labels, answers[key]) for key in (words, first))
            moved = float(np.quantile(np.abs(answers[words] - answers[first]), 0.99))
            accepted = abs(auc - before) < AUC_MOVES and moved < P_FAKE_MOVES
            cells += [f"{auc:.4f}", f"{auc - before:+.4f}", f"{moved:.4f}"]
            cells.append("accepted" if accepted else "**refused**")
        else:
            cells += [""] * 4
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
