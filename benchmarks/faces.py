"""Face detection: ours, exact and main-face, against ``facenet_pytorch.MTCNN.detect``.

    python benchmarks/faces.py [--photos FOLDER] [--rounds 3]

Both sides see the same decoded photos, interleaved, on one thread. Exact mode is gated on equal
boxes (0.01 px) and scores (1e-4); main-face mode reports how often it finds the same main face.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from facenet_pytorch import MTCNN as REFERENCE
from numpy.typing import NDArray

from deepfake.errors import MediaError
from deepfake.faces.detector import MTCNN
from deepfake.media.discovery import discover
from deepfake.media.images import read_image
from deepfake.records import Face

_SETTINGS = (
    (20, 0.709, (0.6, 0.7, 0.7)),
    (60, 0.709, (0.6, 0.7, 0.7)),
    (100, 0.7, (0.6, 0.7, 0.8)),
)
Picture = NDArray[np.uint8]
T = TypeVar("T")
U = TypeVar("U")


def main() -> None:
    """Print one line per setting."""
    data = Path(os.environ.get("DEEPFAKE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=data / "faces")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60, help="photos (evenly chosen)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = load(options.photos, options.limit)
    sides = [max(photo.shape[:2]) for photo in photos]
    print(
        f"{len(photos)} photos, longer side {min(sides)}-{max(sides)}, median {median(sides):.0f}"
    )
    for min_face, factor, thresholds in _SETTINGS:
        reference = REFERENCE(
            min_face_size=min_face, factor=factor, thresholds=list(thresholds), keep_all=True
        )
        exact = MTCNN(min_face, factor, thresholds)
        ratios, n_faces, worst_px, worst_score = [], 0, 0.0, 0.0
        for photo in photos:
            (boxes, scores), ours, ratio = race(
                partial(detect, reference, photo), partial(find, exact, photo), options.rounds
            )
            if len(boxes) != len(ours):
                raise SystemExit(f"not equal: {len(boxes)} faces there, {len(ours)} here")
            for box, score, face in zip(boxes, scores, ours, strict=True):
                worst_px = max(worst_px, float(np.abs(box - face.box_xyxy).max()))
                worst_score = max(worst_score, abs(float(score) - face.confidence))
            n_faces += len(ours)
            ratios.append(ratio)
        if worst_px > 0.01 or worst_score > 1e-4:
            raise SystemExit(f"not equal: {worst_px} px, {worst_score} in score")
        print(
            f"exact, smallest face {min_face}: x{median(ratios):.2f} "
            f"(quartiles {quartiles(ratios)}) on {n_faces} faces; "
            f"equal to {worst_px:.1e} px and {worst_score:.1e}"
        )
    compare_main(photos, options.rounds)


def compare_main(photos: list[Picture], rounds: int) -> None:
    """Main-face mode at smallest face 20 against the largest of ``detect`` at 20."""
    reference = REFERENCE(min_face_size=20, keep_all=True)
    main_mode = MTCNN(20, mode="main")
    ratios, same, overlaps, total = [], 0, [], 0
    for photo in photos:
        (boxes, _), ours, ratio = race(
            partial(detect, reference, photo), partial(find, main_mode, photo), rounds
        )
        ratios.append(ratio)
        total += 1
        if not len(boxes) and not ours:
            same += 1
        elif len(boxes) and ours:
            overlaps.append(overlap(boxes[0], ours[0]))
            same += overlaps[-1] > 0.5
    print(
        f"main face, smallest face 20: x{median(ratios):.2f} (quartiles {quartiles(ratios)}); same "
        f"answer on {same} of {total} photos, median overlap {median(overlaps):.4f}"
    )


def load(folder: Path, limit: int) -> list[Picture]:
    """Readable photos with a longer side of 600 to 2000 px."""
    photos = []
    for source in discover(folder).sources:
        try:
            image = read_image(source.path, source.name).image
        except MediaError:
            continue
        if 600 <= max(image.shape[:2]) <= 2000:
            photos.append(image)
    step = max(1, len(photos) // limit)
    return photos[::step][:limit]


def detect(reference: REFERENCE, photo: Picture) -> tuple[NDArray[np.float32], list[float]]:
    """Boxes and scores of the other side, largest first, as plain arrays."""
    boxes, scores = reference.detect(photo)
    if boxes is None:
        return np.zeros((0, 4), np.float32), []
    return np.asarray(boxes, np.float32), [float(score) for score in scores]


def find(detector: MTCNN, photo: Picture) -> list[Face]:
    """Faces of our side, largest first."""
    return detector.detect([photo])[0]


def race(theirs: Callable[[], T], ours: Callable[[], U], rounds: int) -> tuple[T, U, float]:
    """Both results, and the ratio of their best times over interleaved rounds."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        start = time.perf_counter()
        their_result = theirs()
        middle = time.perf_counter()
        our_result = ours()
        end = time.perf_counter()
        best = [min(best[0], middle - start), min(best[1], end - middle)]
    return their_result, our_result, best[0] / best[1]


def overlap(box: NDArray[np.float32], face: Face) -> float:
    """Intersection over union."""
    a, b = box, face.box_xyxy
    w = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    h = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    areas = sum(float((c[2] - c[0]) * (c[3] - c[1])) for c in (a, b))
    return w * h / (areas - w * h)


def median(values: list[float] | list[int]) -> float:
    """Median, or nan without values."""
    return statistics.median(values) if values else float("nan")


def quartiles(values: list[float]) -> str:
    """First and third quartile."""
    first, _, third = statistics.quantiles(values, n=4)
    return f"{first:.2f}-{third:.2f}"


if __name__ == "__main__":
    main()
