"""Take one video file apart into packets, in file order, and tell from them which frames there are.

A first pass reads the packets of the file without decoding any: that is the true number of frames,
the time of each and where decoding can start.

The file is hostile: it is opened as a plain file, in one of a few containers, with one of a few
decoders, on one thread. Knows no pixel and not which frames are wanted.

References:
    What FFmpeg opens by name alone: https://ffmpeg.org/ffmpeg-protocols.html
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from array import array
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deepfake.errors import MediaError, one_line
from deepfake.media.containers import CONTAINERS, HEAD_BYTES, find_container
from deepfake.media.files import check_size, is_cut
from deepfake.media.timeline import Timeline
from deepfake.records import MAX_PIXELS

CODECS = frozenset({
    "h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4",
    "h263", "flv", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1", "theora",
    # Cameras, editing and archives: without loss, or nearly.
    "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "v210", "prores", "dnxhd", "dvvideo",
    "jpeg2000", "png",
})  # fmt: skip
"""FFmpeg's names of the decoders that are used; it has hundreds of hardly tested ones."""

# Containers whose demuxer jumps to a packet by its index. The others guess by bisection, and some
# then give packets other times than in one pass; there, unneeded packets are read and dropped.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_JUMP_BYTES = 256 * 1024
_MAX_DEMUX_ERRORS = 32

MAX_PACKETS = 2_000_000
"""Longest video that is opened, in packets: 18 hours at 30 frames a second."""


class _Source:
    """What PyAV needs of a file: a seek to nowhere is answered with an error code.

    Broken files ask for such seeks, and PyAV reports exceptions about them on the terminal.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def open_container(file: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> InputContainer:
    """Open a video as what its first bytes say that it is, and nothing else by way of it.

    Args:
        file: The video; it stays open, and is moved about in.
        name: The file as the user knows it, for errors.
        max_pixels: Larger frames are not decoded while it is opened.

    Raises:
        MediaError: If there is no video that can be opened.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    container = find_container(head)
    if container is None:
        seen = f"no readable video container (starts with bytes {head[:12].hex(' ')})"
        raise MediaError(name, "decode_error", seen if head else "empty file (0 bytes)")
    file.seek(0)
    # Nothing of FFmpeg's chatter about broken files may reach the terminal.
    av.logging.set_level(None)
    options = {
        # A container must not make FFmpeg open anything else, by whatever kind of address.
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "threads": "1",
        # Opening decodes a little, and learns sizes that way: the caller's own limit comes
        # later, with a better message.
        "max_pixels": str(max(max_pixels, MAX_PIXELS)),
    }
    try:
        # An open file and not its name: `http:x.mp4` and `concat:a|b` are names of files, too.
        return av.open(_Source(file), "r", container, options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _to_media_error(error, file, name) from error


def _to_media_error(error: Exception, file: BinaryIO, name: str) -> MediaError:
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
        return MediaError(name, "io_error", one_line(error.strerror or str(error)))
    if is_cut(file):
        return MediaError(name, "truncated", "the file ends before its own header says")
    text = one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__
    return MediaError(name, "decode_error", f"no readable video ({text})")


class PacketReader:
    """An open container and its one video stream; counts packets in file order from 0.

    Args:
        file: The video; the reader moves about in it but leaves it open.
        name: The file as the user knows it, for errors.
        max_pixels: Larger frames are not decoded.

    Attributes:
        position: Number of the packet that ``read`` gives next.
        stream: The stream; its ``codec_context`` is the decoder.
        is_cut: The file is shorter than it says itself.
        n_damaged: Stretches of the file that could not be taken apart into packets.
        remark: Which other video streams were left out; empty if there is no other.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        self.name = name
        self._file = file
        self._max_pixels = max_pixels
        self.is_cut = is_cut(file)
        self.remark = ""
        self._chosen: int | None = None
        self._open()

    def _open(self) -> None:
        self._container = open_container(self._file, self.name, self._max_pixels)
        try:
            streams = self._list_streams()
            if self._chosen is None and len(streams) > 1:
                self._chosen = self._find_busiest(streams)
                self.close()
                self._open()
                return
            self.stream = next(
                (stream for stream in streams if stream.index == self._chosen), streams[0]
            )
            for stream in self._container.streams:
                if stream is not self.stream:
                    stream.discard = av.stream.Discard.all
            self._set_up_decoder()
        except BaseException:
            self._container.close()
            raise
        self._begin()

    def _list_streams(self) -> list[VideoStream]:
        # The cover of a music file is a video stream of one photo to FFmpeg.
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise MediaError(self.name, "no_video_stream", "the file holds no video frames")
        return streams

    def _find_busiest(self, streams: list[VideoStream]) -> int:
        """Which stream has the most frames; walks through the whole file."""
        counts = dict.fromkeys((stream.index for stream in streams), 0)
        packets = self._container.demux(streams)
        # A damaged stretch ends the count: the streams of a file lie side by side.
        with contextlib.suppress(av.FFmpegError, IndexError):
            for packet in itertools.islice(packets, MAX_PACKETS):
                counts[packet.stream_index] += packet.size > 0
        best = self._container.streams.best("video")
        described = {}
        for stream in streams:
            decoder = stream.codec_context
            size = "" if decoder is None else f", {decoder.width}x{decoder.height}"
            described[stream.index] = (
                f"({_codec_name(stream)}{size}, {counts[stream.index]} packets)"
            )
        chosen = max(
            streams,
            key=lambda stream: (
                _codec_name(stream) in CODECS,
                counts[stream.index],
                stream is best,
            ),
        ).index
        others = [f"{index} {what}" for index, what in described.items() if index != chosen]
        self.remark = f"video stream {chosen} is used; left out: {', '.join(others)}"
        return chosen

    def _set_up_decoder(self) -> None:
        decoder = self.stream.codec_context
        if decoder is None or decoder.name not in CODECS:
            what = f"video codec {_codec_name(self.stream)} is not decoded here"
            raise MediaError(
                self.name, "unsupported", f"{what}; convert it without loss, to FFV1 say"
            )
        check_size(decoder.width, decoder.height, self.name, self._max_pixels, what="frames of ")
        # Worker processes share the cores; threads of decoders would only fight over them.
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(max(self._max_pixels, MAX_PIXELS))}
        if decoder.name == "hevc":
            # Other decoders mark a frame as corrupt; this one shows it and says nothing.
            decoder.options |= {"err_detect": "explode"}
        self.codec = decoder.name

    def _begin(self) -> None:
        self.position = 0
        self.n_damaged = 0
        self._ahead: Packet[VideoStream] | None = None
        self._packets = self._demux()

    @property
    def promised_s(self) -> float:
        """Length of the video as the header says, 0 if it does not."""
        return (self._container.duration or 0) / 1e6

    @property
    def time_base(self) -> Fraction:
        """Seconds of one tick."""
        return self.stream.time_base or Fraction(1, 1000)

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        while True:
            try:
                for packet in self._container.demux(self.stream):
                    # The empty one at the end only asks decoders for what they hold back.
                    if packet.size:
                        yield packet
                return
            except av.FFmpegError:
                # Behind a damaged stretch there may be more.
                self.n_damaged += 1
                if self.n_damaged >= _MAX_DEMUX_ERRORS:
                    return
            except IndexError:
                # PyAV 18, at the end of a file in which streams turn up late.
                return
            except OSError as error:
                raise _to_media_error(error, self._file, self.name) from error

    def read(self) -> Packet[VideoStream] | None:
        """The next packet; ``None`` at the end."""
        packet = self._ahead if self._ahead is not None else next(self._packets, None)
        self._ahead = None
        if packet is not None:
            self.position += 1
        return packet

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Frames that the decoder has ready after this packet; after ``None``, all it has left.

        Raises:
            av.FFmpegError: If the packet is broken; the next one may not be.
        """
        return self.stream.codec_context.decode(packet)

    def rewind(self, timeline: Timeline | None = None) -> None:
        """Go back to packet 0 and a fresh decoder."""
        if timeline is not None and self._seek(0, timeline) and self.position == 0:
            return
        self.close()
        self._open()

    def jump(self, ordinal: int, timeline: Timeline) -> None:
        """Go on to a packet further on, without decoding those between."""
        far = timeline.n_bytes(self.position, ordinal) > _JUMP_BYTES
        may_seek = far and self._container.format.name in _INDEXED
        if may_seek and (not self._seek(ordinal, timeline) or self.position > ordinal):
            self.rewind()
        while self.position < ordinal and self.read() is not None:
            pass
        # The decoder must forget what it has seen before it starts at another keyframe.
        self.stream.codec_context.flush_buffers()

    def _seek(self, ordinal: int, timeline: Timeline) -> bool:
        """Have the container seek, and find out by the packet's own data where that led to."""
        try:
            self._container.seek(timeline.pts[ordinal], stream=self.stream)
        except (av.FFmpegError, OverflowError):
            return False
        self._begin()
        self._ahead = next(self._packets, None)
        if self._ahead is None:
            return False
        landed = timeline.find_packet(self._ahead)
        if landed is None:
            return False
        self.position = landed
        return True

    def close(self) -> None:
        """Close the container, not the file."""
        # Without this, memory of the decoder lives on until the garbage collector runs.
        self._container.close()


def _codec_name(stream: VideoStream) -> str:
    return "unknown" if stream.codec_context is None else stream.codec_context.name


def read_timeline(reader: PacketReader) -> Timeline:
    """Walk through the packets of the whole file, decoding none."""
    pts, sizes_end, keys = array("q"), array("q"), array("q")
    hidden, unreferenced = set(), bytearray()
    breaks, corrupt = [], set()
    n_damaged = 0
    prefix_size = _find_prefix_size(reader)
    has_times = True
    n_bytes = 0
    last_dts: int | None = None
    while (packet := reader.read()) is not None:
        ordinal = len(pts)
        if ordinal >= MAX_PACKETS:
            raise MediaError(
                reader.name, "too_large", f"more than {MAX_PACKETS} frames; cut the video"
            )
        if reader.n_damaged > n_damaged:
            n_damaged = reader.n_damaged
            breaks.append(ordinal)
        if packet.is_corrupt:
            corrupt.add(ordinal)
        n_bytes += packet.size
        if packet.pts is None or (
            packet.dts is not None and last_dts is not None and packet.dts < last_dts
        ):
            has_times = False
        last_dts = packet.dts if packet.dts is not None else last_dts
        pts.append(packet.pts or 0)
        sizes_end.append(n_bytes)
        if packet.is_keyframe:
            keys.append(ordinal)
        if packet.is_discard or (reader.codec == "vp8" and not memoryview(packet)[0] & 0x10):
            # Cut away by an edit list; or a frame that VP8 only stores to refer to.
            hidden.add(ordinal)
        unreferenced.append(reader.codec == "h264" and _is_unreferenced(packet, prefix_size))
    shown = array("q", sorted((i for i in range(len(pts)) if i not in hidden), key=pts.__getitem__))
    seconds = float(reader.time_base)
    start = pts[shown[0]] if shown else 0
    times_s = array("d", ((pts[ordinal] - start) * seconds for ordinal in shown))
    unique = all(a < b for a, b in itertools.pairwise(times_s))
    starts = set(keys)
    return Timeline(
        pts=pts,
        sizes_end=sizes_end,
        keys=keys,
        shown=shown,
        times_s=times_s,
        is_trusted=has_times and unique and len(shown) > 0,
        key_frames=array("q", (i for i, ordinal in enumerate(shown) if ordinal in starts)),
        unreferenced=unreferenced,
        n_expected=_count_expected(reader, len(hidden), start * seconds, times_s),
        breaks=tuple(breaks) if reader.n_damaged == n_damaged else (*breaks, len(pts)),
        corrupt=frozenset(corrupt),
    )


def _find_prefix_size(reader: PacketReader) -> int:
    """Bytes that tell the length of each unit of H.264; 0 where start codes part them."""
    head = reader.stream.codec_context.extradata or b""
    return (head[4] & 3) + 1 if len(head) > 4 and head[0] == 1 else 0


def _is_unreferenced(packet: Packet[VideoStream], prefix_size: int) -> bool:
    """Whether H.264 forbids all other frames to be predicted from this one.

    References:
        ITU-T H.264, 7.4.1: ``nal_ref_idc``, bits 5 and 6 of the first byte of a unit.
    """
    data = bytes(packet)
    at, has_slice = 0, False
    while True:
        if prefix_size:
            length = int.from_bytes(data[at : at + prefix_size], "big")
            at += prefix_size
        else:
            start = data.find(b"\0\0\1", at)
            at, length = (start + 3, 0) if start >= 0 else (len(data), 0)
        if at >= len(data):
            return has_slice
        if 1 <= data[at] & 0x1F <= 5:
            has_slice = True
            if data[at] & 0x60:
                return False
        at += length


def _count_expected(
    reader: PacketReader, n_hidden: int, start_s: float, times_s: array[float]
) -> int:
    present = len(times_s)
    # Of whole files the header's number says nothing: AVI counts frames that were never recorded,
    # MP4 those that an edit list cuts away.
    if not reader.is_cut:
        return present
    promised = reader.stream.frames - n_hidden
    if promised > 0 or present < 2 or times_s[-1] <= 0:
        return max(present, promised)
    # Matroska: the header has the end of the last frame, on the clock of the packets.
    length_s = reader.promised_s - start_s
    return max(present, round(length_s * (present - 1) / times_s[-1]))
