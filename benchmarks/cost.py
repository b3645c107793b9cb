"""What a million photos and ten thousand hours of video cost, in hours of one core.

    python benchmarks/cost.py [--photos FOLDER] [--videos FOLDER] [--copies 8]

Runs ``deepfake predict`` with the shipped model and one worker, all faces: on one photo and on
many, and on whole videos of 1080p and more, at one frame a second and at the keyframes nearest to
those. Processor time of all its processes counts; what the first photo takes, which is mostly the
start of Python and torch, is taken off. The numbers are of this machine and these files: measure
yours.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

from benchmarks.photos import collect, find_photos

_COMMAND = [sys.executable, "-c", "from deepfake.cli import main; raise SystemExit(main())"]
_VIDEOS = find_photos().parent / "videos" / "labelled"
_PHOTOS, _HOURS = 1_000_000, 10_000
_LONGEST_MINUTES = 3  # a longer clip is left out: the others say as much


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=find_photos())
    parser.add_argument("--videos", type=Path, default=_VIDEOS)
    parser.add_argument("--limit", type=int, default=24, help="different photos")
    parser.add_argument("--copies", type=int, default=8, help="of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collect(options.photos, folder / "chosen", options.limit)
        chosen = sorted((folder / "chosen").iterdir())
        many = folder / "many"
        many.mkdir()
        for copy in range(options.copies):
            for photo in chosen:
                shutil.copy(photo, many / f"{copy}-{photo.name}")
        # Beside a few short clips its noise would be the figure: so they are many, too.
        start_s = statistics.median(predict(folder, [str(chosen[0])]) for _ in range(3))
        print("| job | a piece | in all |\n|---|---|---|")
        each_s = (predict(folder, [str(many)]) - start_s) / (len(chosen) * options.copies - 1)
        side = statistics.median(max(Image.open(photo).size) for photo in chosen)
        print(
            f"| photos, longer side {side:.0f} px | {each_s:.3f} core-seconds a photo | "
            f"a million: {each_s * _PHOTOS / 3600:,.0f} core-hours |",
            flush=True,
        )
        clips = {path: hours for path, hours in list_clips(options.videos) if hours}
        videos = folder / "videos"
        videos.mkdir()
        for copy in range(options.copies):
            for path in clips:
                shutil.copy(path, videos / f"{copy}-{path.name}")
        hours = sum(clips.values()) * options.copies
        for words in (["--fps", "1"], ["--fps", "1", "--keyframes"]):
            spent_s = predict(folder, [str(videos), *words]) - start_s
            n_videos, minutes = len(clips) * options.copies, 60 * hours
            print(
                f"| {n_videos} videos, {minutes:.1f} minutes, `{' '.join(words)}` | "
                f"{spent_s / hours:,.0f} core-seconds an hour, {3600 * hours / spent_s:.1f} hours "
                f"an hour and core | ten thousand hours: {spent_s / hours * _HOURS / 3600:,.0f} "
                "core-hours |",
                flush=True,
            )


def predict(folder: Path, inputs: list[str]) -> float:
    """Processor seconds of a job and of all its workers."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["predict", *inputs, "--output", str(folder / "scores.csv"), "--overwrite", "--quiet"]
    subprocess.run([*_COMMAND, *words, "--workers", "1"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def list_clips(folder: Path) -> list[tuple[Path, float]]:
    """Videos of 1080p and more, each with its length in hours."""
    clips = []
    for path in sorted(folder.rglob("*.mp4")):
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream) or container.duration is None:
                continue
            hours = container.duration / av.time_base / 3600
            if min(stream.width, stream.height) >= 1080 and hours < _LONGEST_MINUTES / 60:
                clips.append((path, hours))
    return clips


if __name__ == "__main__":
    main()
