"""The crop job on a folder of photos, against a plain Pillow + ``facenet_pytorch.MTCNN`` loop.

    python benchmarks/crop_job.py [--photos FOLDER] [--rounds 3]

Both sides decode each photo, find its largest face of 20 pixels or more, cut a square around it and
write a JPEG, in this process on one thread; ours also writes its tables and syncs every file. Gated
on the same main face in 99 % of the photos. Then the job alone with 1 and 2 worker processes, on
the photos many times over; the start of the workers is measured and left out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN as REFERENCE

from benchmarks.photos import collect, cut_face, find_photos, open_photo
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.manifest import read_manifest
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Workers

_SPEC = CropSpec.from_preset("square", min_face=20, min_face_ratio=0.0, rotate_retry=False)
Boxes = dict[str, tuple[float, ...]]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=find_photos())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--copies", type=int, default=8, help="of each photo, for the workers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        count = collect(options.photos, photos, options.limit)
        ratios, theirs, ours = [], Boxes(), Boxes()
        for number in range(options.rounds):
            start = time.perf_counter()
            theirs = plain_loop(photos, Path(folder) / f"plain{number}")
            middle = time.perf_counter()
            ours = our_job(photos, Path(folder) / f"ours{number}", 0)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        same = sum(agree(theirs.get(name), ours.get(name)) for name in theirs | ours)
        asked = len(theirs | ours)
        if same < 0.99 * asked:
            raise SystemExit(f"not equal: the same main face on {same} of {asked} photos only")
        print(
            f"{count} photos, one core: x{statistics.median(ratios):.1f} "
            f"({min(ratios):.1f}-{max(ratios):.1f}); same main face on {same} of {asked}"
        )
        compare_workers(photos, Path(folder), options.copies, options.rounds)


def compare_workers(photos: Path, folder: Path, copies: int, rounds: int) -> None:
    """The same job with one and with two workers, in turn."""
    many, one = folder / "many", folder / "one"
    for number in range(copies):
        shutil.copytree(photos, many / str(number))
    one.mkdir()
    shutil.copy(sorted(photos.iterdir())[0], one)
    ratios = []
    for number in range(rounds):
        net = {}
        for workers in (1, 2):
            start = time.perf_counter()
            our_job(one, folder / f"start{workers}-{number}", workers)
            middle = time.perf_counter()
            our_job(many, folder / f"many{workers}-{number}", workers)
            net[workers] = (time.perf_counter() - middle) - (middle - start)
        ratios.append(net[1] / net[2])
    print(f"1 -> 2 workers: x{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def plain_loop(photos: Path, output: Path) -> Boxes:
    """What people write: open, detect, crop, resize, save."""
    output.mkdir()
    detector = REFERENCE(min_face_size=20, keep_all=True)
    boxes = Boxes()
    for path in sorted(photos.iterdir()):
        found = cut_face(detector, open_photo(path), 380)
        if found is not None:
            boxes[path.name], face = found
            face.save(output / f"{path.stem}.jpg")
    return boxes


def our_job(photos: Path, output: Path, workers: int) -> Boxes:
    """The crop job of this package."""
    crop_media(str(photos), output, _SPEC, workers=Workers(workers), quiet=True)
    names = {source.id: source.name for source in discover(photos).sources}
    return {names[row.source]: row.box_xyxy for row in read_manifest(output).rows}


def agree(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Whether two boxes mean the same face."""
    if one is None or other is None:
        return False
    a, b = np.array(one), np.array(other)
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return bool(shared > 0.5 * min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))


if __name__ == "__main__":
    main()
