"""Whole photos on a GPU and on the CPU beside it: what a GPU buys ``predict``.

    python benchmarks/devices.py [--device cuda] [--side 1080] [--photos 256]

Drawn portraits, and a clip made of them, by the shipped model: the network on the device, decoding
and the search for faces in worker processes, then the search on the device as well. Gated on the
same number of faces everywhere, and on ``p_fake`` that differ from the CPU's by at most 0.01.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import av
import torch

from deepfake.demo.portraits import draw_portrait, write_dataset
from deepfake.inference.predictor import Predictor
from deepfake.records import Result, Sampling, Workers

_SHOTS = 4
_TOLERANCE = 0.01


def main() -> None:
    """Print a row per way and kind of media."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--side", type=int, default=1080)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = max(1, options.photos // (4 * _SHOTS))
        write_dataset(folder / "photos", 2 * pairs, _SHOTS, size=options.side)
        photos = sorted((folder / "photos").rglob("*.png"))
        clip = write_clip(folder / "clip.mp4", options.side, options.frames)
        for kind, inputs, count in (("photos", photos, len(photos)), ("frames", [clip], None)):
            expected: list[Result] = []
            for device, detect in ways(options.device):
                found, seconds = score(inputs, device, detect, options)
                check(expected, found)
                expected = expected or found
                n = count or options.frames
                print(
                    f"{n} {kind} of {options.side} px, network on {device}, search on {detect}: "
                    f"{n / seconds:.1f}/s",
                    flush=True,
                )


def ways(device: str) -> list[tuple[str, str]]:
    """Where the network runs, and where the search; the CPU alone first."""
    if device == "cpu":
        return [("cpu", "cpu")]
    found = [("cpu", "cpu"), (device, "cpu")]
    # The search runs on CPUs and on CUDA alone.
    return [*found, (device, device)] if device.startswith("cuda") else found


def score(
    inputs: list[Path], device: str, detect: str, options: argparse.Namespace
) -> tuple[list[Result], float]:
    """Score everything, after one input that warms up."""
    predictor = Predictor.from_checkpoint(
        device=device,
        workers=Workers(options.workers, detect_device=detect),
        sampling=Sampling(frames=options.frames),
        backend="torch",
    )
    list(predictor.predict(inputs[:1]))
    began_s = time.perf_counter()
    found = list(predictor.predict(inputs))
    return found, time.perf_counter() - began_s


def check(expected: list[Result], found: list[Result]) -> None:
    """Stop where a way gives another answer than the CPU alone."""
    for one, other in zip(expected, found, strict=bool(expected)):
        same = one.n_faces == other.n_faces
        apart = abs((one.p_fake or 0) - (other.p_fake or 0))
        if not same or apart > _TOLERANCE:
            raise SystemExit(f"not equal: {one} there, {other} here")


def write_clip(path: Path, side: int, frames: int) -> Path:
    """A film of one drawn person."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        shots = [draw_portrait(0, shot, size=side) for shot in range(_SHOTS)]
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(shots[index * _SHOTS // frames], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
