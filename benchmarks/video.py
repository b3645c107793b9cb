"""Evenly spread frames of a 1080p video: this package beside OpenCV and plain PyAV.

All ways run in one process on one thread, in turn, and are measured in processor time, so that a
busy machine spoils no ratio. The clips are made on the spot: H.264 with B-frames,
300 frames, a keyframe at least every 12 and every 250 frames. The exact ways must deliver the same
pixels as decoding everything, or the run fails. torchcodec takes part where it is installed and
finds an FFmpeg; it converts colours by another path, so that its pixels are not compared.
``--odd`` asks both for six frames of each video of a folder (rare containers and codecs, no
duration, variable rate, damage), and says of which files they are the frames that were asked for.
At the end, the search for faces in a clip with two drawn people, with and without decoding ahead,
in wall time, on a second core where there is one; gated on the same crops. ``--hardware cuda``
sets PyAV's decoding on a GPU beside its decoding on one thread, all frames.

    python benchmarks/video.py [--rounds 7] [--size 1920x1080] [--frames 1 10 100] [--odd FOLDER]
        [--hardware DEVICE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import cv2
import numpy as np
import torch
from av.codec.hwaccel import HWAccel
from numpy.typing import NDArray

from deepfake.demo.portraits import draw_portrait
from deepfake.errors import MediaError
from deepfake.faces import extraction
from deepfake.faces.extraction import FaceExtractor
from deepfake.media.discovery import VIDEO_SUFFIXES, discover
from deepfake.media.video import open_video
from deepfake.records import CropSpec, Sampling, Source

N_FRAMES = 300
GOPS = (12, 250)

Images = list[NDArray[np.uint8]]


def make_clip(path: Path, gop: int, width: int, height: int, n_people: int = 0) -> None:
    """Pan over a textured plane with some grain, so that the decoder has work as in real life."""
    people = [draw_portrait(identity, 0, size=height // 2) for identity in range(n_people)]
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 80, width // 8 + 80, 3), dtype=np.uint8)
    plane = cv2.resize(coarse, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(0, 12, (8, height, width, 1), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        stream.options = {
            "preset": "veryfast",
            "crf": "23",
            "g": str(gop),
            "bf": "2",
            "sc_threshold": "0",
        }
        for index in range(N_FRAMES):
            window = plane[index : index + height, 2 * index : 2 * index + width]
            image = (window // 2 + 60 + grain[index % 8]).astype(np.uint8)
            for person, portrait in enumerate(people):
                side, left = len(portrait), person * width // n_people
                image[height // 4 : height // 4 + side, left : left + side] = portrait
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def wanted_frames(n_wanted: int) -> list[int]:
    """Middle frame of each of so many equal parts."""
    return [(2 * k + 1) * N_FRAMES // (2 * n_wanted) for k in range(n_wanted)]


def ours_exact(path: Path, n_wanted: int) -> Images:
    """This package, the very frames."""
    with open_video(path, path.name, Sampling(frames=n_wanted)) as clip:
        return [frame.image for frame in clip]


def ours_keyframes(path: Path, n_wanted: int) -> Images:
    """This package, the nearest keyframes."""
    with open_video(path, path.name, Sampling(frames=n_wanted, mode="keyframes")) as clip:
        return [frame.image for frame in clip]


def cv2_grab_all(path: Path, n_wanted: int) -> Images:
    """OpenCV, every frame decoded, the wanted ones converted."""
    capture = _open_capture(path)
    wanted = set(wanted_frames(n_wanted))
    images: Images = []
    index = 0
    while len(images) < n_wanted and capture.grab():
        if index in wanted:
            images.append(_to_rgb(capture.retrieve()[1]))
        index += 1
    capture.release()
    return images


def cv2_set_position(path: Path, n_wanted: int) -> Images:
    """OpenCV, told the number of each frame."""
    capture = _open_capture(path)
    images: Images = []
    for index in wanted_frames(n_wanted):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        images.append(_to_rgb(capture.read()[1]))
    capture.release()
    return images


def _open_capture(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def _to_rgb(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def pyav_sequential(path: Path, n_wanted: int) -> Images:
    """PyAV, every frame decoded, the wanted ones converted."""
    wanted = set(wanted_frames(n_wanted))
    images: Images = []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                images.append(_pyav_rgb(frame))
            if len(images) == n_wanted:
                break
    return images


def decode_all(path: Path, device: str | None) -> Images:
    """PyAV, every frame to RGB, on a thread or on a device that decodes for it.

    Raises:
        OSError: The device is not there.
        RuntimeError: It does not decode this stream.
    """
    hardware = None if device is None else HWAccel(device, allow_software_fallback=False)
    with av.open(str(path), hwaccel=hardware) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [_pyav_rgb(frame) for frame in container.decode(video=0)]


def pyav_seek(path: Path, n_wanted: int) -> Images:
    """PyAV, a seek for each frame and decoding on from there."""
    images: Images = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index in wanted_frames(n_wanted):
            ticks = round(index / 30 / (stream.time_base or Fraction(1)))
            container.seek(ticks, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= ticks:
                    images.append(_pyav_rgb(frame))
                    break
    return images


def _pyav_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    rgb = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return rgb.astype(np.uint8, copy=False)


def torchcodec_exact(path: Path, n_wanted: int) -> Images:
    """Torchcodec, the very frames."""
    return torchcodec_frames(path, wanted_frames(n_wanted))


def torchcodec_frames(path: Path, indices: list[int]) -> Images:
    """Torchcodec after its own scan of the file, all frames at once."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1)
    return list(decoder.get_frames_at(indices).data.permute(0, 2, 3, 1).numpy())


def finds_torchcodec() -> bool:
    """Whether torchcodec is installed, and finds the libraries of an FFmpeg."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


WAYS: dict[str, Callable[[Path, int], Images]] = {
    "cv2 grab all": cv2_grab_all,
    "cv2 set(POS_FRAMES)": cv2_set_position,
    "PyAV sequential": pyav_sequential,
    "PyAV seek + forward": pyav_seek,
    "ours exact": ours_exact,
    "ours keyframes": ours_keyframes,
}
SIMPLE = [name for name in WAYS if not name.startswith("ours")]
if finds_torchcodec():
    WAYS["torchcodec exact"] = torchcodec_exact


def check_equality(path: Path, n_wanted: int) -> bool:
    """Whether the exact ways give the same pixels, and keyframes are frames of the video."""
    expected = pyav_sequential(path, n_wanted)
    equal = True
    for name in ("ours exact", "PyAV seek + forward"):
        images = WAYS[name](path, n_wanted)
        same = len(images) == len(expected) and all(map(np.array_equal, images, expected))
        print(f"  {name}: {'the same pixels as' if same else 'NOT'} PyAV sequential")
        equal &= same
    with open_video(path, path.name, Sampling(frames=n_wanted, mode="keyframes")) as clip:
        keyframes = {frame.index: frame.image for frame in clip}
    with av.open(str(path)) as container:
        n_same = sum(
            index in keyframes and np.array_equal(keyframes[index], _pyav_rgb(frame))
            for index, frame in enumerate(container.decode(video=0))
        )
    print(f"  ours keyframes: {n_same} of {len(keyframes)} are the pixels of their frame number")
    return equal and n_same == len(keyframes)


def compare_odd(folder: Path) -> None:
    """Say of which files of a folder each side gives the frames that were asked for."""
    sides = ["ours exact", *(["torchcodec exact"] if finds_torchcodec() else [])]
    failures: dict[str, list[str]] = {name: [] for name in sides}
    videos = [one for one in discover(folder).sources if one.path.suffix.lower() in VIDEO_SUFFIXES]
    count = 0
    for source in videos:
        try:
            with av.open(str(source.path)) as container:
                stream = container.streams.best("video")
                if not isinstance(stream, av.VideoStream):
                    continue
                decoded = container.decode(stream)
                frames = [np.rot90(_pyav_rgb(one), one.rotation // 90) for one in decoded]
            with open_video(source.path, source.name, Sampling(frames=6)) as clip:
                found = [(frame.index, frame.image) for frame in clip]
        except (av.error.FFmpegError, MediaError):
            continue  # it holds no video, or none that can be decoded to its end
        count += 1
        asked = [index for index, _ in found]
        for name in sides:
            images = [image for _, image in found]
            if name != "ours exact":
                try:
                    images = torchcodec_frames(source.path, asked)
                except (RuntimeError, ValueError, IndexError) as error:
                    failures[name].append(f"{source.name}: {type(error).__name__}")
                    continue
            pairs = zip(images, asked, strict=True)
            given = [find_place(image, frames, index) for image, index in pairs]
            if given != asked:
                failures[name].append(f"{source.name}: {asked} asked, {given} given")
    for name, failed in failures.items():
        print(f"{name}: the frames asked for of {count - len(failed)} of {count} files")
        for words in failed:
            print(f"  not {words}")


def find_place(image: NDArray[np.uint8], frames: Images, expected: int) -> int:
    """The place of the frame that is most like an image; the expected one where it is as like."""
    if image.shape != frames[0].shape:
        return -1
    distances = [cv2.norm(image, frame, cv2.NORM_L1) / image.size for frame in frames]
    best = int(np.argmin(distances))
    return expected if distances[expected] <= distances[best] + 0.1 else best


def measure(path: Path, n_wanted: int, rounds: int) -> None:
    """Run every way once a round, and print medians against OpenCV's plain way."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(rounds):
        # In turn and each time from another start, so that no way always follows the same one.
        names = list(WAYS)
        names = names[round_ % len(names) :] + names[: round_ % len(names)]
        for name in names:
            start = time.process_time()
            n_images = len(WAYS[name](path, n_wanted))
            seconds[name].append(time.process_time() - start)
            if n_images == 0:
                raise SystemExit(f"{name} gave no frame")
    for name, measured in seconds.items():
        ratios = [base / own for base, own in zip(seconds["cv2 grab all"], measured, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:20} median {1000 * statistics.median(measured):7.0f} ms"
            f"   x{statistics.median(ratios):.2f} (quartiles {low:.2f} to {high:.2f})"
        )
    best = min(SIMPLE, key=lambda name: statistics.median(seconds[name]))
    pairs = zip(seconds[best], seconds["ours exact"], strict=True)
    ratio = statistics.median(other / own for other, own in pairs)
    print(f"  exact against the best simple way ({best}): x{ratio:.2f}")


def compare_ahead(path: Path, n_wanted: int, rounds: int) -> bool:
    """Wall time of one clip to crops, decoding and searching in turn and side by side."""
    torch.set_num_threads(1)
    extractor = FaceExtractor(CropSpec(), sampling=Sampling(frames=n_wanted))
    source = Source("clip", path, path.name)
    seconds: dict[str, list[float]] = {"in turn": [], "ahead": []}
    given = {}
    for _ in range(rounds):
        for name in seconds:
            in_turn = patch.object(extraction, "reading_ahead", lambda clip, *_: nullcontext(clip))
            with in_turn if name == "in turn" else nullcontext():
                began_s = time.perf_counter()
                given[name] = [crop.encoded for crop in extractor.extract(source).crops]
                seconds[name].append(time.perf_counter() - began_s)
    n_crops = len(given["ahead"])
    same = given["in turn"] == given["ahead"] and n_crops > 0
    pairs = zip(seconds["in turn"], seconds["ahead"], strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    told = f"the same {n_crops}" if same else "OTHER"
    print(f"decoding ahead of the search of {n_wanted} frames: x{ratio:.2f}, {told} crops")
    return same


def compare_hardware(path: Path, device: str, rounds: int) -> None:
    """Wall and processor time of decoding all frames, and how far the pixels are apart."""
    try:
        found = decode_all(path, device)
    except (OSError, RuntimeError) as error:
        print(f"  {device}: does not decode here: {type(error).__name__}: {error}")
        return
    expected = decode_all(path, None)
    # int16: the difference of two bytes has a sign.
    apart = max(
        int(np.abs(one.astype(np.int16) - other).max())
        for one, other in zip(found, expected, strict=True)
    )
    del found, expected
    wall_s: dict[str | None, list[float]] = {None: [], device: []}
    processor_s: dict[str | None, list[float]] = {None: [], device: []}
    for _ in range(rounds):
        for name in wall_s:
            began_s, began_processor_s = time.perf_counter(), time.process_time()
            decode_all(path, name)
            wall_s[name].append(time.perf_counter() - began_s)
            processor_s[name].append(time.process_time() - began_processor_s)
    ratios = []
    for kind, seconds in (("wall", wall_s), ("processor", processor_s)):
        pairs = zip(seconds[None], seconds[device], strict=True)
        ratios.append(f"{kind} x{statistics.median(a / b for a, b in pairs):.2f}")
    print(f"  {device} against one thread, {N_FRAMES} frames: {', '.join(ratios)}", end="")
    print(f"; pixels differ by at most {apart} of 255")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the clips, compare pixels, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="rounds, at least 5")
    parser.add_argument("--size", default="1920x1080", help="width x height")
    parser.add_argument("--frames", type=int, nargs="+", default=[10], help="frames wanted")
    parser.add_argument("--odd", type=Path, help="compare the videos of this folder instead")
    parser.add_argument("--hardware", metavar="DEVICE", help="compare decoding on it instead")
    options = parser.parse_args(arguments)
    if options.odd is not None:
        compare_odd(options.odd)
        return 0
    width, height = map(int, options.size.split("x"))
    cv2.setNumThreads(1)
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        for gop in GOPS:
            path = Path(folder) / f"gop{gop}.mp4"
            make_clip(path, gop, width, height)
            megabytes = path.stat().st_size / 1e6
            if options.hardware is not None:
                print(f"{options.size}, keyframe every {gop}, {megabytes:.1f} MB")
                compare_hardware(path, options.hardware, options.rounds)
                continue
            for n_wanted in options.frames:
                print(
                    f"{options.size}, {n_wanted} of {N_FRAMES} frames, keyframe every {gop}, "
                    f"{megabytes:.1f} MB"
                )
                equal &= check_equality(path, n_wanted)
                measure(path, n_wanted, max(5, options.rounds))
        if options.hardware is None:
            path = Path(folder) / "people.mp4"
            make_clip(path, 250, width, height, n_people=2)
            for n_wanted in (N_FRAMES // 30, N_FRAMES // 6, N_FRAMES // 3):
                equal &= compare_ahead(path, n_wanted, 3)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
