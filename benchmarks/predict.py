"""Prediction on photos, on a CPU, against the loop that people write.

    python benchmarks/predict.py [--photos FOLDER] [--limit 16] [--rounds 3] [--side 1920]

Theirs, photo by photo: Pillow, ``facenet_pytorch.MTCNN.detect``, a square around each face (or the
largest alone), a timm network in torch's eager mode, scikit-learn's ``predict_proba``. Ours:
``Predictor`` with ONNX Runtime, everything in this process. Both sides have the same (random)
weights, the same fitted machine, one thread, and look for faces of 20 pixels or more; they take
turns. Gated on the same main face, and on as many faces, in 99 % of the photos, and on an equal
``p_fake`` (1e-5) of equal crops. The graph is made before the clock runs; how long that takes is
printed. The clock is this process's processor time, which on one thread is the time itself, but
does not count what other jobs of a busy machine take. The first network is the shipped model's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN as REFERENCE
from numpy.typing import NDArray
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch import nn

from benchmarks.photos import Box, collect, cut_faces, find_photos, open_photo
from deepfake.dataset.manifest import Manifest
from deepfake.dataset.rows import pack_crops
from deepfake.error_rates import ErrorRates
from deepfake.evaluation.calibration import Calibration
from deepfake.faces.extraction import FaceExtractor, decode_crop
from deepfake.faces.geometry import measure_box
from deepfake.faces.quality import TrainingFaces
from deepfake.heads.linear import LinearSVM
from deepfake.inference.export import export_checkpoint
from deepfake.inference.predictor import Predictor
from deepfake.inference.scoring import OnnxScorer
from deepfake.learning.checkpoint import load_checkpoint, make_info
from deepfake.learning.task import EmbeddingTask, NetworkSettings
from deepfake.media.images import read_image
from deepfake.metrics import Estimate
from deepfake.records import CropSpec, FacesPerFrame, Limits, Recipe, Result, Sampling

BACKBONES = {"tf_efficientnet_lite0": 224, "tf_efficientnet_b4": 380, "mobilenetv2_100": 224}
FACES: tuple[FacesPerFrame, ...] = ("all", "largest")
T = TypeVar("T")


def main() -> None:
    """Print ratios, spreads and stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=find_photos())
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1920, help="longer side of the second row")
    parser.add_argument("--backbone", choices=[*BACKBONES], help="this one only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        collect(options.photos, small, options.limit)
        enlarge(small, large, options.side)
        for backbone, size in BACKBONES.items():
            if options.backbone not in (None, backbone):
                continue
            path = write_checkpoint(Path(folder) / f"{backbone}.ckpt", backbone, size)
            start = time.process_time()
            export_checkpoint(path, "onnx", path.with_suffix(".onnx"))
            print(f"{backbone} at {size} px; its graph took {time.process_time() - start:.0f} s")
            for photos, faces in product((small, large), FACES):
                compare(path, sorted(photos.iterdir()), PlainLoop(path, faces), options.rounds)


def compare(path: Path, photos: list[Path], plain: PlainLoop, rounds: int) -> None:
    """Both sides over the same photos, in turns."""
    faces = plain.faces
    ours = Predictor.from_checkpoint(path, device="cpu", backend="onnx", faces_per_frame=faces)
    check_network(plain, path, photos)
    list(ours.predict(photos[:2]))
    plain.run(photos[:2])
    ratios, times = [], []
    for _ in range(rounds):
        plain.spent.clear()
        start = time.process_time()
        theirs = plain.run(photos)
        middle = time.process_time()
        scores = list(ours.predict(photos))
        end = time.process_time()
        ratios.append((middle - start) / (end - middle))
        times.append((middle - start, end - middle))
    same = sum(
        agree(theirs[photo], score, faces) for photo, score in zip(photos, scores, strict=True)
    )
    if same < 0.99 * len(photos):
        raise SystemExit(f"not equal: the same faces on {same} of {len(photos)} photos only")
    side = statistics.median(max(Image.open(photo).size) for photo in photos)
    per_photo = [
        1000 * statistics.median(times_s) / len(photos) for times_s in zip(*times, strict=True)
    ]
    found = sum(score.n_faces for score in scores)
    print(
        f"{plain.backbone}, {'all faces' if faces == 'all' else 'main face'}, {side:.0f} px: "
        f"x{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); {len(photos)} "
        f"photos, {found} faces, the same on {same}; {per_photo[0]:.0f} ms -> {per_photo[1]:.0f} "
        "ms a photo"
    )
    mine = our_stages(path, photos, ours.crop)
    for stage, spent in plain.spent.items():
        theirs_ms, ours_ms = (1000 * seconds / len(photos) for seconds in (spent, mine[stage]))
        print(f"    {stage}: {theirs_ms:.0f} ms -> {ours_ms:.0f} ms, x{theirs_ms / ours_ms:.1f}")


@dataclass
class PlainLoop:
    """What people write, with the weights of a checkpoint."""

    checkpoint: Path
    faces: FacesPerFrame
    spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkpoint = load_checkpoint(self.checkpoint)
        embedder = checkpoint.embedder
        self.smallest_px = checkpoint.recipe.aggregation.min_face_px
        self.detector = REFERENCE(min_face_size=20, keep_all=True)
        self.backbone = embedder.resolved_backbone.split(".")[0]
        self.size = embedder.image_size
        self.network = timm.create_model(self.backbone, pretrained=False, num_classes=0).eval()
        self.network.load_state_dict(embedder.backbone.state_dict())
        self.head: nn.Module = embedder.projection
        self.mean, self.std = embedder.mean, embedder.std
        rows, labels = made_embeddings()
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        self.machine = CalibratedClassifierCV(
            LinearSVC(C=2.0, dual=False, tol=1e-10, max_iter=10_000), ensemble=False, cv=folds
        )
        self.machine.fit(rows, labels)

    def run(self, photos: list[Path]) -> dict[Path, list[Box]]:
        """Score every photo; the boxes of its faces."""
        boxes = {}
        for photo in photos:
            image = self._timed("decode", partial(open_photo, photo))
            found = self._timed("detect and crop", partial(self._find, image))
            boxes[photo] = [box for box, _ in found]
            for _, crop in found:
                self._timed("network and machine", partial(self.score, crop))
        return boxes

    @torch.inference_mode()
    def score(self, crop: NDArray[np.uint8]) -> float:
        """``p_fake`` of one crop, ``(S, S, 3)``."""
        batch = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
        embedding = F.normalize(self.head(self.network((batch - self.mean) / self.std)))
        return float(self.machine.predict_proba(embedding.numpy().astype(np.float64))[0, 1])

    def _find(self, image: Image.Image) -> list[tuple[Box, NDArray[np.uint8]]]:
        # Ours scores no smaller ones, so neither does it.
        found = [
            (box, crop)
            for box, crop in cut_faces(self.detector, image, self.size)
            if measure_box(box) >= self.smallest_px
        ]
        chosen = found if self.faces == "all" else found[:1]
        return [(box, np.asarray(crop)) for box, crop in chosen]

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        result = work()
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - start
        return result


def our_stages(path: Path, photos: list[Path], spec: CropSpec) -> dict[str, float]:
    """Seconds of the stages of our side, one after another over all photos."""
    extractor = FaceExtractor(spec)
    scorer = OnnxScorer(path.with_suffix(".onnx").read_bytes(), 32)
    start = time.process_time()
    frames = [read_image(photo, photo.name) for photo in photos]
    decoded = time.process_time()
    crops = [crop for frame in frames for crop in extractor.extract_frame(frame).crops]
    detected = time.process_time()
    images = np.stack([decode_crop(crop.encoded) for crop in crops])
    for first in range(0, len(images), scorer.batch_size):
        scorer.score(images[first : first + scorer.batch_size])
    return {
        "decode": decoded - start,
        "detect and crop": detected - decoded,
        "network and machine": time.process_time() - detected,
    }


def check_network(plain: PlainLoop, path: Path, photos: list[Path]) -> None:
    """Stop where equal crops do not give an equal ``p_fake``."""
    extractor = FaceExtractor(load_checkpoint(path).recipe.crop)
    scorer = OnnxScorer(path.with_suffix(".onnx").read_bytes(), 1)
    for photo in photos[:4]:
        for found in extractor.extract_frame(read_image(photo, photo.name)).crops:
            crop = decode_crop(found.encoded)
            theirs, (ours,) = plain.score(crop), scorer.score(crop[None])
            if not abs(theirs - ours) <= 1e-5:
                raise SystemExit(f"not equal: p_fake {theirs} there, {ours} here ({photo})")


def write_checkpoint(path: Path, backbone: str, size: int) -> Path:
    """A finished checkpoint with random weights and a machine fitted on made embeddings."""
    torch.manual_seed(0)
    task = EmbeddingTask(backbone, size, network=NetworkSettings(drop_path_rate=None))
    task.set_head(LinearSVM().fit(*made_embeddings()))
    spec = CropSpec(size=size, min_face=20, min_face_ratio=0.0, rotate_retry=False)
    crops = Manifest(Path(), pack_crops([]), spec, Sampling(), versions={}, sha256="")
    counts = {"train": {"real": 200, "fake": 200}}
    task.info = make_info(crops, task.embedder, counts, seed=0, configuration="")
    unknown = [Estimate(math.nan, "made by a benchmark")] * 5
    rates = ErrorRates(0.05, 0.05, 0, 0, 0, 0, False, "made by a benchmark", *unknown)
    task.info |= Calibration(Limits(0.4, (0.6,)), rates, Recipe()).to_info()
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    groups = [str(number) for number in range(len(noise))]
    task.set_training_faces(TrainingFaces.fit(noise, [(0.0, 0.0, 16.0, 16.0)] * len(noise), groups))
    content = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    task.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def made_embeddings() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Unit vectors of two classes that overlap, so that no ``p_fake`` is stuck at 0 or 1."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = (rows[:, 0] + rng.normal(0, 0.02, 400) > 0).astype(np.int64)
    return rows, labels


def enlarge(source: Path, target: Path, side: int) -> None:
    """The same photos at the size of a video frame or a phone's picture."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        image = open_photo(path)
        scale = side / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.BICUBIC).save(target / path.name, quality=92)


def agree(boxes: list[Box], score: Result, faces: FacesPerFrame) -> bool:
    """Whether both found as many faces; where it is one, whether they overlap by more than half."""
    if len(boxes) != score.n_faces:
        return False
    if faces == "all" or score.box_xyxy is None:
        return True
    a, b = np.array(boxes[0]), np.array(score.box_xyxy)
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return bool(shared > 0.5 * (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


if __name__ == "__main__":
    main()
