"""Peak memory of ``crop`` and ``predict`` on 100, 1,000 and 10,000 photos: it must not grow.

    python benchmarks/memory.py [--limit 1000] [--workers 2] [--checkpoint model.ckpt]

Real processes on links to a few small photos. Every 100 ms the proportional set sizes of a
command and all its workers are added up (Linux only); beside the largest sum stands the largest
resident size of any single process, as the system counted it. Without a checkpoint, a tiny one is
trained on drawn portraits first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Watched:
    """What became of a command.

    Args:
        code: Its exit status; -9 if it was killed.
        peak_bytes: Largest sum over the process tree.
        largest_bytes: Largest resident size of one process.
        seconds: How long it ran.
        stopped: ``memory`` or ``time``, if it was killed for that.
    """

    code: int
    peak_bytes: int
    largest_bytes: int
    seconds: float
    stopped: str = ""


def main() -> None:
    """Print the figures and the growth."""
    data = Path(os.environ.get("DEEPFAKE_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=data / "faces")
    parser.add_argument("--limit", type=int, default=10_000, help="largest number of photos")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=320, help="longer side of a photo in pixels")
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = collect(options.photos, folder / "pool", options.size)
        checkpoint = options.checkpoint or train(folder / "trained")
        peaks: dict[str, list[int]] = {"crop": [], "predict": []}
        counts = [count for count in (100, 1_000, 10_000) if count <= options.limit]
        print(f"{options.workers} workers, {len(pool)} different photos of {options.size} px")
        for count in counts:
            photos = link(pool, folder / f"photos{count}", count)
            common = [str(photos), f"--workers={options.workers}", "--quiet"]
            table, faces = (str(folder / f"{name}{count}.csv") for name in ("scores", "faces"))
            jobs = {
                "crop": [str(folder / f"crops{count}"), "--size", "224"],
                "predict": [f"--checkpoint={checkpoint}", "--output", table, "--faces", faces],
            }
            for job, words in jobs.items():
                done = watch([sys.executable, str(ROOT / f"{job}.py"), *common, *words])
                if done.code:
                    raise SystemExit(f"{job} of {count} photos ended with {done.code}")
                peaks[job].append(done.peak_bytes)
                print(
                    f"{job:<8}{count:>7,} photos: {done.peak_bytes / 1e6:7,.0f} MB all processes, "
                    f"{done.largest_bytes / 1e6:6,.0f} MB the largest, {done.seconds:6,.0f} s",
                    flush=True,
                )
    for job, figures in peaks.items():
        growth = figures[-1] - figures[0]
        each = growth / max(counts[-1] - counts[0], 1)
        print(
            f"{job}: {counts[0]:,} -> {counts[-1]:,} photos, x{figures[-1] / figures[0]:.3f} "
            f"({growth / 1e6:+.1f} MB, {each:+,.0f} bytes a photo)"
        )


def watch(
    command: Sequence[str],
    limit_bytes: float = float("inf"),
    limit_s: float = float("inf"),
    interval_s: float = 0.1,
) -> Watched:
    """Run a command, add up the memory of its process tree now and then, kill it above a limit."""
    start, peak, stopped = time.monotonic(), 0, ""
    # A group of its own, so that one signal reaches every worker.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            largest = usage.ru_maxrss * 1024
            return Watched(process.returncode, peak, largest, seconds, stopped)
        peak = max(peak, sum(map(pss_of, iter_tree(process.pid))))
        if not stopped and (peak > limit_bytes or seconds > limit_s):
            stopped = "memory" if peak > limit_bytes else "time"
            os.killpg(process.pid, 9)
        time.sleep(interval_s)


def iter_tree(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in below:
            yield from iter_tree(int(child))


def pss_of(pid: int) -> int:
    """Bytes of a process; what it shares with others counts in proportion."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def collect(source: Path, target: Path, size: int) -> list[Path]:
    """Small JPEGs of all photos that can be read."""
    import cv2

    from deepfake.errors import MediaError
    from deepfake.media.discovery import discover
    from deepfake.media.images import read_image

    target.mkdir()
    written = []
    for number, found in enumerate(discover(source).sources):
        try:
            image = read_image(found.path, found.name).image
        except MediaError:
            continue
        scale = size / max(image.shape[:2])
        if scale <= 1:
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            written.append(target / f"{number:03d}.jpg")
            cv2.imwrite(str(written[-1]), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return written


def link(pool: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of so many photos that takes up no space."""
    for number in range(count):
        place = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool[number % len(pool)], place)
    return folder


def train(folder: Path) -> Path:
    """A checkpoint of the smallest network, by the commands."""
    from deepfake.demo.portraits import write_dataset

    (folder / "photos").mkdir(parents=True)
    write_dataset(folder / "photos", identities=12, shots=2)
    labels, crops = folder / "photos" / "labels.csv", folder / "crops"
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("default", "smoke")]
    words = [*configs, f"--data.root={crops}", f"--run={folder / 'run'}"]
    for command in (["crop.py", str(labels), str(crops), "--size", "64"], ["train.py", *words]):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return folder / "run" / "model.ckpt"


if __name__ == "__main__":
    main()
