"""Frames in, an H.264 video that every browser plays out.

It has no sound. Knows nothing of what the frames show.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from deepfake.errors import JobError

_TICKS = 90_000  # a second: what rates of films and of television all divide
_CRF = "18"  # hardly to be told from the frames
_BT709 = 1


def record_video(
    path: Path, frames: Iterable[tuple[float, NDArray[np.uint8]]], comment: str
) -> int:
    """Encode frames, lazily, into an MP4 with square pixels; each is shown until the next.

    Args:
        path: File to write; whoever wants it whole or not at all renames it.
        frames: Time in seconds, ascending, and pixels ``(H, W, 3)`` RGB; the first one decides the
            size, odd sides grow by a pixel.
        comment: Stands in the file.

    Returns:
        How many frames there are.

    Raises:
        JobError: If there is no frame, or this PyAV cannot encode or write it.
    """
    n_frames, last = 0, -1
    height = width = 0
    try:
        with av.open(str(path), "w", "mp4", options={"movflags": "+faststart"}) as output:
            output.metadata["comment"] = comment
            stream = output.add_stream("libx264", rate=Fraction(25))
            encoder: VideoCodecContext = stream.codec_context
            for time_s, image in frames:
                if not n_frames:
                    height, width = (side + side % 2 for side in image.shape[:2])
                    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
                    encoder.time_base = Fraction(1, _TICKS)
                    encoder.options = {"crf": _CRF, "preset": "veryfast"}
                    encoder.thread_count = 1  # workers share the cores
                    # Unsaid, players guess it from the size, and colours differ.
                    encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
                frame = av.VideoFrame.from_ndarray(_fit(image, width, height), format="rgb24")
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                last = max(last + 1, round(time_s * _TICKS))
                frame.pts, frame.time_base = last, Fraction(1, _TICKS)
                output.mux(stream.encode(frame))
                n_frames += 1
            if not n_frames:
                raise JobError(f"{path}: there is no frame to write")
            output.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise JobError(f"PyAV {av.__version__} cannot write {path}: {error}") from error
    return n_frames


def _fit(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The image with this many pixels: those of an odd side repeat, others are scaled."""
    rows, columns = image.shape[:2]
    if 0 <= width - columns <= 1 and 0 <= height - rows <= 1:
        padding = ((0, height - rows), (0, width - columns), (0, 0))
        return np.pad(image, padding, mode="edge")
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, dtype=np.uint8)
