"""The speed of light: what each stage must take at least on this machine, and what it takes.

    python benchmarks/limits.py [--photos FOLDER] [--limit 12] [--rounds 5]

One thread. A bound is what cannot be left out: entropy decoding and the inverse transform of a JPEG
(OpenCV's decoder alone), the multiply-adds of a network at the rate of a large matrix product, the
decoding of those packets of a video that its frames depend on. What a stage takes above it is
memory, small calls, Python, colour and rotation. For detection, the multiply-adds are those of
facenet-pytorch's own search of the same photos.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import timm
import torch
from facenet_pytorch import MTCNN as REFERENCE
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loader import drain, write_crops
from benchmarks.photos import collect, find_photos
from benchmarks.predict import write_checkpoint
from benchmarks.video import N_FRAMES, make_clip, ours_exact, wanted_frames
from deepfake.augment.recipes import AugmentationSettings
from deepfake.faces.detector import MTCNN
from deepfake.inference.export import export_checkpoint
from deepfake.inference.scoring import OnnxScorer, TorchScorer
from deepfake.learning.batches import SampleKey
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.learning.crops import CropDataset
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.loader import make_loader
from deepfake.media.images import read_image

_NETWORKS = {"tf_efficientnet_lite0": 224, "tf_efficientnet_b4": 380}
_SIDE = 2048  # of the matrices whose product is the peak


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=find_photos())
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = Table(options.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collect(options.photos, folder / "photos", options.limit)
        bound_photos(table, sorted((folder / "photos").iterdir()))
        bound_networks(table, folder)
        bound_loader(table, folder)
        bound_video(table, folder)
    print(
        f"\nPeaks of one thread: {table.peak[torch.float32] / 1e9:.0f} GFLOP/s in float32, "
        f"{table.peak[torch.bfloat16] / 1e9:.0f} in bfloat16."
    )


class Table:
    """Rows of bound and reality; both are timed in turns.

    Args:
        rounds: Turns of each row.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.peak = {kind: measure_peak(kind) for kind in (torch.float32, torch.bfloat16)}
        print("| stage | bound by | bound | reached | share of the bound |\n|---|---|---|---|---|")

    def add_timed(
        self, stage: str, by: str, bound: Callable[[], Any], ours: Callable[[], Any], count: int
    ) -> None:
        """A row whose bound is timed as well."""
        self._print(stage, by, self.median(bound) / count, self.median(ours) / count)

    def add_counted(
        self, stage: str, flops: float, kind: torch.dtype, ours: Callable[[], Any], count: int
    ) -> None:
        """A row whose bound is a number of floating-point operations."""
        by = f"{flops / count / 2e9:.2f} G multiply-adds"
        self._print(stage, by, flops / count / self.peak[kind], self.median(ours) / count)

    def median(self, work: Callable[[], Any]) -> float:
        """Seconds of processor time, after one run that warms up."""
        work()
        spent = []
        for _ in range(self.rounds):
            began_s = time.process_time()
            work()
            spent.append(time.process_time() - began_s)
        return statistics.median(spent)

    @staticmethod
    def _print(stage: str, by: str, bound_s: float, ours_s: float) -> None:
        times = f"{1e3 * bound_s:.2f} ms | {1e3 * ours_s:.2f} ms"
        print(f"| {stage} | {by} | {times} | {bound_s / ours_s:.0%} |", flush=True)


def measure_peak(kind: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    one = torch.randn(_SIDE, _SIDE).to(kind)
    best = float("inf")
    for _ in range(5):
        began_s = time.process_time()
        one @ one
        best = min(best, time.process_time() - began_s)
    return 2 * _SIDE**3 / best


def count_flops(work: Callable[[], Any]) -> float:
    """Floating-point operations of the networks in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def bound_photos(table: Table, paths: list[Path]) -> None:
    """Decoding, and the search for faces."""
    encoded = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
    table.add_timed(
        "photo to pixels",
        "the JPEG decoder",
        lambda: [cv2.imdecode(one, cv2.IMREAD_COLOR) for one in encoded],
        lambda: [read_image(path, path.name) for path in paths],
        len(paths),
    )
    images = [read_image(path, path.name).image for path in paths]
    for smallest in (20, 60):
        reference, ours = REFERENCE(min_face_size=smallest, keep_all=True), MTCNN(smallest)
        flops = count_flops(lambda: [reference.detect(image) for image in images])  # noqa: B023
        stage = f"all faces of {smallest} px and more, a photo"
        table.add_counted(
            stage,
            flops,
            torch.float32,
            lambda: [ours.detect([image]) for image in images],  # noqa: B023
            len(images),
        )
    main_face = MTCNN(20, mode="main")
    table.add_timed(
        "main face, a photo",
        "one pass over its pixels",
        lambda: [cv2.integral(image, sdepth=cv2.CV_32S) for image in images],
        lambda: [main_face.detect([image]) for image in images],
        len(images),
    )


def bound_networks(table: Table, folder: Path) -> None:
    """Scoring by torch and ONNX Runtime, and a training step."""
    for name, size in _NETWORKS.items():
        path = write_checkpoint(folder / f"{name}.ckpt", name, size)
        export_checkpoint(path, "onnx", path.with_suffix(".onnx"))
        crops = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
        scorer = TorchScorer(load_checkpoint(path), torch.device("cpu"), 4)
        graph = OnnxScorer(path.with_suffix(".onnx").read_bytes(), 4)
        flops = count_flops(lambda: scorer.run(crops))  # noqa: B023
        for words, run in (("torch", scorer.run), ("ONNX Runtime", graph.run)):
            stage = f"a face through {name} at {size} px, {words}"
            table.add_counted(stage, flops, torch.float32, lambda: run(crops), 4)  # noqa: B023
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    flops = 3 * count_flops(lambda: network(torch.zeros(48, 3, 224, 224)))
    embedder = EmbeddingModel("tf_efficientnet_lite0", 224)
    images = torch.randint(0, 256, (48, 3, 224, 224), dtype=torch.uint8)
    stage = "a face of a training step of 48, tf_efficientnet_lite0 at 224 px, bfloat16"
    table.add_counted(stage, flops, torch.bfloat16, lambda: train(embedder, images), 48)


def train(embedder: nn.Module, images: Tensor) -> None:
    """Forward and backward, without an optimizer."""
    embedder.train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = embedder(images).sum()
    loss.backward()


def bound_loader(table: Table, folder: Path) -> None:
    """Crops from disk to batches, without augmentation."""
    root = folder / "crops"
    root.mkdir()
    rows = write_crops(root, 224, 192)
    encoded = [np.fromfile(root / row.crop, np.uint8) for row in rows]
    dataset = CropDataset(root, rows, 224, 0, AugmentationSettings("light"))
    keys = [SampleKey(0, index, False) for index in range(len(rows))]
    batches = [keys[at : at + 48] for at in range(0, len(keys), 48)]
    table.add_timed(
        "a crop of 224 px, from disk to a batch",
        "the JPEG decoder",
        lambda: [cv2.imdecode(one, cv2.IMREAD_COLOR) for one in encoded],
        lambda: drain(make_loader(dataset, 0, False, batches=batches)),
        len(rows),
    )


def bound_video(table: Table, folder: Path) -> None:
    """Ten frames of a clip of 1080p, a keyframe every 12 and every 250 frames."""
    for gop in (12, 250):
        path = folder / f"{gop}.mp4"
        make_clip(path, gop, 1920, 1080)
        table.add_timed(
            f"10 of {N_FRAMES} frames of 1080p, keyframe every {gop}",
            "decoding the references that they need",
            lambda: decode_needed(path, gop),  # noqa: B023
            lambda: ours_exact(path, 10),  # noqa: B023
            10,
        )


def decode_needed(path: Path, gop: int) -> int:
    """Decode the reference frames from the last keyframe before each wanted frame on, each once.

    The wanted frame itself, and the last one that it refers to, are left to who takes it.
    """
    count = 0
    wanted = wanted_frames(10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONREF"
        for start in sorted({index // gop * gop for index in wanted}):
            last = max(index for index in wanted if index // gop * gop == start)
            container.seek(round(start / 30 / (stream.time_base or 1)), stream=stream)
            for frame in container.decode(stream):
                count += 1
                if frame.time is None or frame.time * 30 > last - 3.5:  # two B-frames in a row
                    break
    return count


if __name__ == "__main__":
    main()
