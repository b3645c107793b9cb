"""Face detection: ours, exact and main-face, against ``facenet_pytorch.MTCNN.detect``.

    python benchmarks/faces.py [--photos FOLDER] [--videos FOLDER] [--rounds 3] [--device cuda]

Both sides see the same decoded pictures, interleaved, on one thread: photos with a longer side of
600 to 2000 px, and frames of 1080p and more. Exact mode is gated on equal boxes (0.01 px) and
scores (1e-4). Main-face mode is compared with exact mode over all readable photos and frames of
any size: how often the main face is another one. With ``--device``, batches of frames also run
there against facenet-pytorch's own batches; with ``--drawn``, only these, and without any media.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN as REFERENCE
from numpy.typing import NDArray

from deepfake.demo.portraits import draw_portrait
from deepfake.errors import MediaError
from deepfake.faces.detector import MTCNN
from deepfake.media.decoding import open_media
from deepfake.media.discovery import discover
from deepfake.media.images import read_image
from deepfake.records import MAX_PIXELS, Face, Sampling

_SETTINGS = (
    (20, 0.709, (0.6, 0.7, 0.7)),
    (60, 0.709, (0.6, 0.7, 0.7)),
    (100, 0.7, (0.6, 0.7, 0.8)),
)
_BATCHES = (16, 32)
_TOGETHER = 8
Picture = NDArray[np.uint8]
Found = tuple[NDArray[np.float32], list[float]]
T = TypeVar("T")
U = TypeVar("U")


def main() -> None:
    """Print one line per population and setting."""
    data = Path(os.environ.get("DEEPFAKE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=data / "faces")
    parser.add_argument("--videos", type=Path, default=data / "videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60, help="timed pictures (evenly chosen)")
    parser.add_argument("--device", default="cpu", help="e.g. cuda: batches of frames run there")
    parser.add_argument(
        "--drawn", type=int, metavar="SIDE", help="only batches, of drawn portraits"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.drawn is not None:
        drawn = [draw_portrait(identity, 0, size=options.drawn) for identity in range(8)]
        race_batches(drawn, options.device, options.rounds)
        return
    photos, frames = load_photos(options.photos), load_frames(options.videos)
    timed = [photo for photo in photos if 600 <= max(photo.shape[:2]) <= 2000]
    for name, pictures in (("photos", timed), ("1080p frames", frames)):
        race_all(name, every_nth(pictures, options.limit), options.rounds)
    race_together(timed, options.rounds)
    for name, pictures in (("photos", photos), ("1080p frames", frames)):
        count_disagreement(name, pictures)
    if options.device != "cpu":
        race_batches(frames, options.device, options.rounds)


def race_all(name: str, pictures: Sequence[Picture], rounds: int) -> None:
    """Time each mode on the CPU against ``detect``, and check what it finds."""
    sides = [max(picture.shape[:2]) for picture in pictures]
    print(
        f"{len(pictures)} {name}, longer side {min(sides)}-{max(sides)}, "
        f"median {statistics.median(sides):.0f}"
    )
    for min_face, factor, thresholds in _SETTINGS:
        reference = REFERENCE(
            min_face_size=min_face, factor=factor, thresholds=list(thresholds), keep_all=True
        )
        exact = MTCNN(min_face, factor, thresholds)
        ratios, gate = [], Gate()
        for picture in pictures:
            theirs, ours, ratio = race(
                partial(detect, reference, picture), partial(find, exact, picture), rounds
            )
            gate.compare(theirs, ours)
            ratios.append(ratio)
        print(f"  {name}, exact, smallest face {min_face}: {spread(ratios)}; {gate}")
    reference, main_mode = REFERENCE(min_face_size=20, keep_all=True), MTCNN(20, mode="main")
    by_size: dict[str, list[float]] = {}
    for picture in pictures:
        (boxes, _), ours, ratio = race(
            partial(detect, reference, picture), partial(find, main_mode, picture), rounds
        )
        size = "up to 1000 px" if max(picture.shape[:2]) <= 1000 else "over 1000 px"
        kinds = ["all", size] if len(boxes) else ["all", "without a face"]
        for kind in kinds:
            by_size.setdefault(kind, []).append(ratio)
    for kind, ratios in by_size.items():
        print(f"  {name}, main face, smallest face 20, {kind} ({len(ratios)}): {spread(ratios)}")


def count_disagreement(name: str, pictures: Sequence[Picture]) -> None:
    """How often main-face mode names another main face than exact mode, at smallest face 20."""
    exact, main_mode = MTCNN(20), MTCNN(20, mode="main")
    overlaps, differing, faceless = [], 0, 0
    for picture in pictures:
        full, quick = find(exact, picture)[:1], find(main_mode, picture)
        faceless += not full
        if full and quick:
            overlaps.append(overlap(full[0], quick[0]))
        differing += len(full) != len(quick) or bool(full and overlaps[-1] <= 0.5)
    print(
        f"main against exact on all {len(pictures)} {name} ({faceless} without a face): another "
        f"main face on {differing} ({differing / max(1, len(pictures)):.1%}); overlap: median "
        f"{statistics.median(overlaps):.4f}, least {min(overlaps):.4f}, "
        f"above 0.99 on {sum(value > 0.99 for value in overlaps)} of {len(overlaps)}"
    )


def race_together(photos: Sequence[Picture], rounds: int) -> None:
    """Photos of one size through the networks of a CPU together, as a GPU does, or one by one."""
    shape, _ = Counter(photo.shape for photo in photos).most_common(1)[0]
    chosen = [photo for photo in photos if photo.shape == shape][:_TOGETHER]
    for smallest in (20, 60):
        alone, together = MTCNN(smallest), MTCNN(smallest)
        together._portions = replace(together._portions, frame_px=len(chosen) * math.prod(shape))
        one, other, ratio = race(
            lambda: [find(alone, photo) for photo in chosen],  # noqa: B023
            lambda: together.detect(chosen),  # noqa: B023
            rounds + 1,  # the first warms both up
        )
        same = sum(as_numbers(a) == as_numbers(b) for a, b in zip(one, other, strict=True))
        print(
            f"{len(chosen)} photos of {shape[1]}x{shape[0]} together, smallest face {smallest}: "
            f"x{ratio:.2f} of one by one; the same bits on {same}"
        )


def as_numbers(faces: Sequence[Face]) -> list[tuple[list[float], float]]:
    """Boxes and scores, to be compared bit by bit."""
    return [(face.box_xyxy.tolist(), face.confidence) for face in faces]


def race_batches(frames: Sequence[Picture], device: str, rounds: int) -> None:
    """Batches of frames of one size on a device, against facenet-pytorch's batches there."""
    reference = REFERENCE(min_face_size=20, keep_all=True, device=device)
    exact = MTCNN(20, device=device)
    frames = [frame for frame in frames if frame.shape == frames[0].shape]
    for size in _BATCHES:
        batch = [frames[index % len(frames)] for index in range(size)]
        stacked = np.stack(batch)
        theirs, ours, _ = race(
            partial(reference.detect, stacked), partial(exact.detect, batch), 1
        )  # the first call also warms both up
        gate = Gate()
        for boxes, scores, faces in zip(*theirs, ours, strict=True):
            gate.compare(to_found(boxes, scores), faces)
        ratios = [
            race(partial(reference.detect, stacked), partial(exact.detect, batch), 1)[2]
            for _ in range(max(2, rounds))
        ]
        print(f"{device}, {size} frames {batch[0].shape[1]}x{batch[0].shape[0]}: ", end="")
        print(f"{spread(ratios)}; {gate}")


class Gate:
    """Stops the run where faces differ, and remembers by how much they do at most."""

    def __init__(self) -> None:
        self.faces, self.worst_px, self.worst_score = 0, 0.0, 0.0

    def compare(self, theirs: Found, ours: Sequence[Face]) -> None:
        """Compare the faces of one picture, both sides largest first."""
        boxes, scores = theirs
        if len(boxes) != len(ours):
            raise SystemExit(f"not equal: {len(boxes)} faces there, {len(ours)} here")
        for box, score, face in zip(boxes, scores, ours, strict=True):
            self.worst_px = max(self.worst_px, float(np.abs(box - face.box_xyxy).max()))
            self.worst_score = max(self.worst_score, abs(score - face.confidence))
        self.faces += len(ours)
        if self.worst_px > 0.01 or self.worst_score > 1e-4:
            raise SystemExit(f"not equal: {self}")

    def __str__(self) -> str:
        return f"{self.faces} faces equal to {self.worst_px:.1e} px and {self.worst_score:.1e}"


def load_photos(folder: Path) -> list[Picture]:
    """All readable photos."""
    photos = []
    for source in discover(folder).sources:
        try:
            photos.append(read_image(source.path, source.name).image)
        except MediaError:
            continue
    return photos


def load_frames(folder: Path, per_video: int = 8) -> list[Picture]:
    """Frames with a shorter side of 1080 px or more, evenly spread over each video."""
    frames = []
    for source in discover(folder).sources:
        try:
            with open_media(source.path, source.name, Sampling(per_video), MAX_PIXELS) as clip:
                frames += [frame.image for frame in clip if min(frame.image.shape[:2]) >= 1080]
        except MediaError:
            continue
    return frames


def every_nth(pictures: Sequence[Picture], limit: int) -> Sequence[Picture]:
    """At most ``limit`` of them, evenly chosen."""
    return pictures[:: max(1, len(pictures) // limit)][:limit]


def detect(reference: REFERENCE, picture: Picture) -> Found:
    """Boxes and scores of the other side, largest first, as plain arrays."""
    return to_found(*reference.detect(picture))


def to_found(boxes: NDArray[np.float32] | None, scores: Sequence[float]) -> Found:
    """Make plain arrays of what the other side returns; ``None`` is no face."""
    if boxes is None:
        return np.zeros((0, 4), np.float32), []
    return np.asarray(boxes, np.float32), [float(score) for score in scores]


def find(detector: MTCNN, picture: Picture) -> list[Face]:
    """Faces of our side, largest first."""
    return detector.detect([picture])[0]


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


def overlap(one: Face, other: Face) -> float:
    """Intersection over union."""
    a, b = one.box_xyxy.astype(float), other.box_xyxy.astype(float)
    w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = sum(float((c[2] - c[0]) * (c[3] - c[1])) for c in (a, b))
    return float(w * h) / (areas - float(w * h))


def spread(ratios: Sequence[float]) -> str:
    """Median and quartiles of ratios."""
    if len(ratios) < 2:
        return f"x{ratios[0]:.2f}"
    first, middle, third = statistics.quantiles(ratios, n=4)
    return f"x{middle:.2f} (quartiles {first:.2f}-{third:.2f})"


if __name__ == "__main__":
    main()
