"""One crop through a video encoder and back: what an upload to a video site does to a face.

The crop becomes a single frame of H.264 that refers to no other, in memory, without a file or a
container. A file of its own, because it writes what the other video rooms only read. Knows no face
and no strength by name.

References:
    What a constant rate factor is: https://trac.ffmpeg.org/wiki/Encode/H.264
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from deepfake.errors import JobError

MAX_CRF = 51


def recompress_h264(image: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Encode and decode a crop as H.264 with halved colour, as almost all videos are.

    Args:
        image: ``(H, W, 3)`` RGB.
        crf: Constant rate factor, 0 (best) to 51 (worst); 23 is x264's own choice.

    Returns:
        ``(H, W, 3)`` RGB; the same on one machine each time, in any process.

    Raises:
        ValueError: If the rate factor is out of range.
        JobError: If this PyAV has no H.264 encoder.
    """
    if not 0 <= crf <= MAX_CRF:
        raise ValueError(f"crf={crf}; expected 0 to {MAX_CRF}")
    height, width = image.shape[:2]
    # Halved colour needs even sides.
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        encoder = VideoCodecContext.create("libx264", "w")
        decoder = VideoCodecContext.create("h264", "r")
        encoder.height, encoder.width = even.shape[:2]
        encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
        encoder.options = {"crf": str(crf), "preset": "medium"}
        encoder.thread_count = decoder.thread_count = 1  # threads would make the bits differ
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")
        frames = []
        for packet in [*encoder.encode(frame), *encoder.encode(None)]:
            frames += decoder.decode(packet)
        frames += decoder.decode(None)
        decoded = frames[0].to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise JobError(f"PyAV {av.__version__} cannot encode H.264: {error}") from error
    return np.ascontiguousarray(decoded[:height, :width], dtype=np.uint8)
