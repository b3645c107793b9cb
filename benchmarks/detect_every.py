"""Faces in every k-th frame and boxes between, beside a search in every frame.

Every frame of each video is taken, as a dense sampling would; recall is the share of the faces of
the full search that a box of the same frame overlaps by half or more, false boxes are those that
overlap none. Overlap is intersection over union. Time is processor time of search, boxes and crops
together, decoding left out. It fails if ``k = 1`` does not repeat the full search box by box.

    python benchmarks/detect_every.py VIDEO ... [--every 2 3 5] [--max-frames 120] [--faces all]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.faces import extraction
from deepfake.faces.extraction import FaceExtractor
from deepfake.media.clips import Clip
from deepfake.media.decoding import open_media
from deepfake.records import CropSpec, Frame, Sampling, Source

Boxes = dict[int, list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Run:
    """Boxes per frame, and what it took."""

    boxes: Boxes
    seconds: float
    reason: str


def decode(path: Path, max_frames: int) -> list[Frame]:
    """The first frames of a video, all of them one after the other."""
    frames = []
    with open_media(path, path.name, Sampling(frames=None, every=1, max_frames=10**6)) as clip:
        for frame in clip:
            frames.append(frame)
            if len(frames) == max_frames:
                break
    return frames


def search(frames: Sequence[Frame], spec: CropSpec, every: int) -> Run:
    """What this package makes of these frames with a search in every n-th."""

    def play(*_: object) -> Clip:
        def walk() -> Generator[Frame, None, str]:
            yield from frames
            return ""

        return Clip(walk(), ExitStack())

    extractor = FaceExtractor(spec, sampling=Sampling(detect_every=every))
    with mock.patch.object(extraction, "open_media", play):
        start = time.process_time()
        result = extractor.extract(Source("0" * 16, Path("clip"), "clip"))
        seconds = time.process_time() - start
    boxes: Boxes = {}
    for crop in result.crops:
        boxes.setdefault(crop.frame_index, []).append(crop.face.box_xyxy)
    return Run(boxes, seconds, result.reason)


def overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.maximum(sides, 0).prod())
    areas = sum(float((box[2:] - box[:2]).prod()) for box in (one, other))
    return shared / (areas - shared)


def best_overlaps(boxes: Boxes, others: Boxes) -> list[float]:
    """For each box the largest overlap with a box of the same frame on the other side."""
    return [
        max((overlap(box, other) for other in others.get(index, [])), default=0.0)
        for index, found in boxes.items()
        for box in found
    ]


def compare(path: Path, spec: CropSpec, every: Sequence[int], max_frames: int) -> bool:
    """Print a row for each n; whether a second full search gave the same boxes."""
    frames = decode(path, max_frames)
    height, width = frames[0].image.shape[:2]
    full = search(frames, spec, 1)
    n_faces = sum(map(len, full.boxes.values()))
    print(f"{path.name}: {len(frames)} frames of {width}x{height}, {n_faces} faces")
    again = search(frames, spec, 1)
    equal = best_overlaps(full.boxes, again.boxes) == [1.0] * n_faces
    print(f"  k=1: {'the same boxes' if equal else 'OTHER BOXES'} in a second search")
    for n in every:
        some = search(frames, spec, n)
        found = best_overlaps(full.boxes, some.boxes)
        false = sum(value < 0.5 for value in best_overlaps(some.boxes, full.boxes))
        hits = [value for value in found if value >= 0.5]
        print(
            f"  k={n}: recall {len(hits) / max(1, n_faces):.3f}"
            f"   overlap median {statistics.median(hits or [0]):.3f}, mean "
            f"{statistics.fmean(hits or [0]):.3f}   {false} false"
            f"   x{(full.seconds + again.seconds) / 2 / some.seconds:.2f}   {some.reason}"
        )
    return equal


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare on each video."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--every", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--max-frames", type=int, default=120)
    parser.add_argument("--faces", choices=["largest", "all"], default="all")
    parser.add_argument("--min-face", type=int, default=40)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    spec = CropSpec(min_face=options.min_face, size=64)
    if options.faces == "all":
        spec = replace(spec, faces="all", search="exact")
    equal = [compare(path, spec, options.every, options.max_frames) for path in options.videos]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
