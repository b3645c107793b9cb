"""Photos and a short video of drawn people, as phones and browsers write them; and two pages."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from tests import fakes

SECONDS, FPS, SIZE, RATE = 2, 12, 192, 16000

HTML = b"<!DOCTYPE html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def encode_photo(picture: fakes.Picture) -> bytes:
    """As a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encode_video(container: str = "mp4", codec: str = "libx264", sound: str | None = None) -> bytes:
    """Half a second of grey, then two people side by side who move a little; or with silence."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 2 * SIZE, SIZE, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        if sound is not None:
            _add_silence(file, sound)
        for number in range(SECONDS * FPS):
            people = [fakes.portrait(identity, 0, SIZE) for identity in (1, 6)]
            if number < FPS // 2:
                people = [np.full_like(person, 128) for person in people]
            image = np.roll(np.concatenate(people, axis=1), number % 4, axis=0)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return buffer.getvalue()


def _add_silence(file: OutputContainer, codec: str) -> None:
    stream = file.add_stream(codec, rate=RATE)
    assert isinstance(stream, AudioStream)
    silence = np.zeros((1, SECONDS * RATE), np.float32)
    frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        file.mux(packet)
