"""Turn one video file into its chosen frames: upright, RGB, 8 bit, with their times.

From the packets that the choice is made of, only what is needed is decoded, once and in order. The
frames are those that decoding everything and picking from it would give. The room knows nothing of
photos beyond how a file is opened safely.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import av
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from deepfake.errors import MediaError
from deepfake.media.clips import Clip, choose_frames, snap_to_nearest
from deepfake.media.conversion import FrameConverter
from deepfake.media.damage import choose_stand_ins, find_whole_by_order, find_whole_frames
from deepfake.media.files import open_regular_file
from deepfake.media.packets import PacketReader, read_timeline
from deepfake.media.timeline import Timeline
from deepfake.records import MAX_PIXELS, Frame, Sampling

_RATE = 25


class _UntrustedIndexError(Exception):
    """The decoder does not give the frames that the packets promise."""


class _DamageError(Exception):
    """The decoder refuses a packet, or gives a frame that it calls corrupt."""


class _BadJumpError(Exception):
    """After packets were skipped, other frames came than in decoding all of them."""


def open_video(path: Path, name: str, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> Clip:
    """Open a video and choose frames of it.

    Times count from the first frame, in presentation order, whatever the rate does in between.
    Rotation and mirroring that the container asks for are applied. Of a damaged file, the whole
    frames are used, and ``Clip.note`` tells how many are not: those that are lost, that the decoder
    calls corrupt, or that are made from such ones.

    Args:
        path: The file to open; its content decides what it is. Links are followed.
        name: The file as the user knows it, for errors.
        sampling: Which frames. ``keyframes`` decodes nothing but the keyframe nearest to each
            wanted frame, which are other frames than those of ``exact``, and fewer where several
            have the same nearest one.
        max_pixels: Largest width x height of a frame.

    Returns:
        The frames, decoded while they are asked for.

    Raises:
        MediaError: If there is no video to be had; its ``code`` is one of ``decode_error``,
            ``truncated``, ``no_video_stream``, ``no_frames``, ``too_large``, ``unsupported``,
            ``not_regular_file``, ``io_error``. Some of it may show only at the first frame.
    """
    resources = ExitStack()
    try:
        file = resources.enter_context(open_regular_file(path, name))
        reader = PacketReader(file, name, max_pixels)
        resources.callback(reader.close)
        timeline = read_timeline(reader)
        if not timeline.sizes_end:
            cut = "; the file ends before its own header says" if reader.is_cut else ""
            raise MediaError(name, "no_frames", f"the {reader.codec} stream holds no data{cut}")
        return Clip(_Decoding(reader, timeline, sampling, max_pixels).run(), resources)
    except BaseException:
        resources.close()
        raise


class _FrameSource:
    """Gives out the frames of a video in order, and skips packets that nobody needs.

    Args:
        reader: At any packet.
        timeline: What the packets say.
    """

    def __init__(self, reader: PacketReader, timeline: Timeline) -> None:
        self._reader = reader
        self._timeline = timeline

    def _start_over(
        self, *, may_jump: bool = False, may_omit: bool = False, is_damaged: bool = False
    ) -> None:
        self._reader.rewind(self._timeline)
        self._ready: deque[VideoFrame] = deque()
        self._has_ended = False
        self._may_jump = may_jump
        self._may_omit = may_omit
        self._has_skipped = False
        self._omittable = bytearray(self._timeline.unreferenced)
        self._landing: int | None = None
        self._last_seen: int | None = -1
        self._is_damaged = is_damaged
        self._failed: set[int] = set()
        self._errors: set[int] = set()
        self._n_decoded = 0

    def _decode_next(self, waiting: Sequence[int] = ()) -> VideoFrame | None:
        """The next frame in presentation order; with some waited for, perhaps from further on."""
        reader = self._reader
        if waiting and self._may_jump:
            self._jump_towards(waiting[0])
        while not self._ready:
            if self._has_ended:
                return None
            packet = None if self._is_complete(waiting) else self._read_needed()
            self._has_ended = packet is None
            try:
                self._ready.extend(reader.decode(packet))
            except av.FFmpegError:
                if self._has_skipped:
                    raise _BadJumpError from None
                if not self._is_damaged:
                    raise _DamageError from None
                self._failed.add(reader.position - 1)
                self._errors.add(self._n_decoded)
        self._n_decoded += 1
        return self._ready.popleft()

    def _jump_towards(self, wanted: int) -> None:
        """Skip to the keyframe that a wanted frame is decoded from, if that lies ahead."""
        reader, timeline = self._reader, self._timeline
        start = timeline.start_for(wanted)
        if start <= reader.position:
            return
        reader.jump(start, timeline)
        self._ready.clear()
        self._has_skipped = True
        self._has_ended = False
        # A keyframe that an edit list cuts away does not come out.
        self._landing = timeline.find_shown(start)
        self._last_seen = None

    def _is_complete(self, waiting: Sequence[int]) -> bool:
        """Whether the decoder has all of the last wanted frame before a jump or the end.

        It then gives out what it holds back, without being fed more.
        """
        reader, timeline = self._reader, self._timeline
        if not (waiting and self._may_omit) or reader.position <= timeline.shown[waiting[0]]:
            return False
        self._has_skipped = len(waiting) == 1 or timeline.start_for(waiting[1]) > reader.position
        return self._has_skipped

    def _read_needed(self) -> Packet[VideoStream] | None:
        """The next packet that is wanted or that others may need."""
        reader = self._reader
        while self._is_omittable(reader.position) and reader.read() is not None:
            self._has_skipped = True
        return reader.read()

    def _is_omittable(self, ordinal: int) -> bool:
        return self._may_omit and ordinal < len(self._omittable) and bool(self._omittable[ordinal])

    def _place(self, frame: VideoFrame) -> int | None:
        """Which frame this is; ``None`` for one on the way to the keyframe of a jump.

        Raises:
            _BadJumpError: If skipping led to something other than it should.
            _UntrustedIndexError: If frames come, or fail to come, that do not fit the packets.
        """
        index = self._timeline.find(frame.pts)
        if index is not None and self._landing is not None:
            if index < self._landing:
                return None
            # Decoding that began where it cannot begin shows frames made of nothing.
            if index > self._landing or not frame.key_frame:
                raise _BadJumpError
        elif index is None or (self._last_seen is not None and index <= self._last_seen):
            raise self._misfit()
        elif self._last_seen is not None:
            self._check_gap(self._last_seen + 1, index)
        self._landing = None
        self._last_seen = index
        return index

    def _check_gap(self, start: int, end: int) -> None:
        """Refuse frames that fail to come, unless they were left out."""
        if self._is_damaged:
            return
        missing = (self._timeline.shown[index] for index in range(start, end))
        # Where decoding ends with the packet of a wanted frame, packets behind it do not count,
        # even if they are shown before it.
        fed = self._reader.position if self._has_ended else len(self._timeline.pts)
        if any(ordinal < fed and not self._is_omittable(ordinal) for ordinal in missing):
            raise self._misfit()

    def _misfit(self) -> Exception:
        return _BadJumpError() if self._has_skipped else _UntrustedIndexError()


class _Decoding(_FrameSource):
    """One walk through a video that delivers the chosen frames.

    Args:
        reader: At any packet.
        timeline: What the packets say.
        sampling: What to choose.
        max_pixels: Largest width x height of a frame.
    """

    def __init__(
        self, reader: PacketReader, timeline: Timeline, sampling: Sampling, max_pixels: int
    ) -> None:
        super().__init__(reader, timeline)
        self._sampling = sampling
        self._converter = FrameConverter(reader.name, max_pixels, reader.stream.sample_aspect_ratio)
        self._n_delivered = 0
        self._last_index = -1
        self._last_time_s = -1.0

    def run(self) -> Generator[Frame, None, str]:
        """Deliver the frames and return the remark."""
        remark = yield from self._run()
        return "; ".join(filter(None, [remark, self._reader.remark]))

    def _run(self) -> Generator[Frame, None, str]:
        timeline = self._timeline
        if timeline.is_trusted:
            chosen, remark = choose_frames(timeline.times_s, self._sampling)
            try:
                if self._sampling.mode == "keyframes" and timeline.key_frames:
                    nearest = snap_to_nearest(chosen, timeline.key_frames, timeline.times_s)
                    damage = yield from self._run_keyframes(nearest)
                else:
                    damage = yield from self._run_exact(chosen)
                return "; ".join(filter(None, [damage, remark]))
            except _UntrustedIndexError:
                pass
        return (yield from self._run_counted())

    def _run_keyframes(self, chosen: list[int]) -> Generator[Frame, None, str]:
        reader, timeline = self._reader, self._timeline
        reader.rewind(timeline)
        n_failed = 0
        for index in chosen:
            ordinal = timeline.shown[index]
            if ordinal < reader.position:
                raise _UntrustedIndexError
            reader.jump(ordinal, timeline)
            try:
                # Alone it comes out only when the decoder is told that there is no more.
                frames = [*reader.decode(reader.read()), *reader.decode(None)]
            except av.FFmpegError:
                n_failed += 1
                continue
            frame = next((f for f in frames if timeline.find(f.pts) == index), None)
            if ordinal in timeline.corrupt or (frame is not None and frame.is_corrupt):
                n_failed += 1
                continue
            if frame is None or not frame.key_frame:
                # Whole frames may come only some frames later (intra refresh).
                raise _UntrustedIndexError
            yield self._deliver(frame, index, timeline.times_s[index])
        if self._n_delivered == 0:
            raise _UntrustedIndexError
        if n_failed:
            return f"damaged: {n_failed} of {len(chosen)} keyframes"
        n_lost = timeline.n_expected - len(timeline)
        return f"damaged: {n_lost} of {timeline.n_expected} frames" if n_lost > 0 else ""

    def _run_exact(self, chosen: list[int]) -> Generator[Frame, None, str]:
        # From the quickest way to the surest; each goes on where the one before has failed.
        for may_jump, may_omit in ((True, True), (True, False), (False, False)):
            try:
                if not self._timeline.is_damaged:
                    yield from self._walk(chosen, may_jump=may_jump, may_omit=may_omit)
                    return ""
            except _BadJumpError:
                continue
            except _DamageError:
                break
        return (yield from self._run_damaged(chosen))

    def _walk(
        self, chosen: list[int], *, may_jump: bool, may_omit: bool
    ) -> Generator[Frame, None, None]:
        """Go forward only.

        Args:
            chosen: The frames to deliver, unless they are out already.
            may_jump: Skip to any keyframe between here and the next choice.
            may_omit: Between there and the choice, do not decode what nothing else depends on.

        Raises:
            _DamageError: If the decoder refuses a packet, or says that a frame is corrupt. No
                frame that may be made from it has been delivered.
        """
        timeline = self._timeline
        waiting = deque(index for index in chosen if index > self._last_index)
        # Wanted frames that are out before some that they may be made from: the first of waiting.
        held: deque[tuple[int, VideoFrame]] = deque()
        self._start_over(may_jump=may_jump, may_omit=may_omit)
        for wanted in waiting:
            self._omittable[timeline.shown[wanted]] = 0
        while waiting:
            frame = self._decode_next(waiting)
            index = None if frame is None else self._place(frame)
            if frame is None:
                if not held:
                    start = 0 if self._last_seen is None else self._last_seen + 1
                    self._check_gap(start, len(timeline))
                    return
            elif index is None:
                continue
            elif frame.is_corrupt:
                raise _BadJumpError if self._has_skipped else _DamageError
            elif len(held) < len(waiting) and index == waiting[len(held)]:
                if self._may_omit and frame.interlaced_frame:
                    # Its two fields may come in a packet each.
                    raise _BadJumpError
                held.append((index, frame))
            while held and (index is None or timeline.last_needed(held[0][0]) <= index):
                ready, frame = held.popleft()
                waiting.popleft()
                yield self._deliver(frame, ready, timeline.times_s[ready])

    def _run_damaged(self, chosen: list[int]) -> Generator[Frame, None, str]:
        """Decode everything to see what is whole, then again to pick from that."""
        timeline = self._timeline
        self._start_over(is_damaged=True)
        clean = bytearray(len(timeline.pts))
        while (frame := self._decode_next()) is not None:
            index = self._place(frame)
            if index is not None:
                clean[timeline.shown[index]] = not frame.is_corrupt
        whole = find_whole_frames(timeline, clean, self._failed)
        damage = self._describe_damage(len(whole), len(timeline))
        wanted = [index for index in chosen if index > self._last_index]
        waiting = deque(choose_stand_ins(wanted, [at for at in whole if at > self._last_index]))
        yield from self._pick(waiting, timeline.times_s, self._place)
        return damage

    def _run_counted(self) -> Generator[Frame, None, str]:
        """Decode everything to see what there is, then again to pick."""
        times_s, kinds = self._count()
        key_frames = [index for index, kind in enumerate(kinds) if kind == "K"]
        whole = find_whole_by_order(kinds, self._errors)
        note = self._describe_damage(len(whole), len(times_s))
        chosen, remark = choose_frames(times_s, self._sampling)
        limit = len(chosen) - self._n_delivered
        if self._sampling.mode == "keyframes" and key_frames:
            chosen = snap_to_nearest(chosen, key_frames, times_s)
        if len(whole) < len(times_s):
            chosen = choose_stand_ins(chosen, whole)
        # Some may be out already, if it took time to notice that the packets lie.
        chosen = [
            index
            for index in chosen
            if index > self._last_index and times_s[index] > self._last_time_s
        ][:limit]
        yield from self._pick(deque(chosen), times_s, lambda frame: self._n_decoded - 1)
        return "; ".join(filter(None, [note, remark]))

    def _pick(
        self,
        waiting: deque[int],
        times_s: Sequence[float],
        place: Callable[[VideoFrame], int | None],
    ) -> Generator[Frame, None, None]:
        """Decode everything once more and deliver what is waited for."""
        self._start_over(is_damaged=True)
        while waiting and (frame := self._decode_next()) is not None:
            index = place(frame)
            if index == waiting[0]:
                waiting.popleft()
                yield self._deliver(frame, index, times_s[index])

    def _count(self) -> tuple[Sequence[float], str]:
        """Decode everything; times of the frames, and their kinds for ``find_whole_by_order``."""
        self._start_over(is_damaged=True)
        ticks = array("q")
        kinds = []
        has_times = True
        while (frame := self._decode_next()) is not None:
            is_b = frame.pict_type == PictureType.B
            kinds.append("C" if frame.is_corrupt else "K" if frame.key_frame else "PB"[is_b])
            previous = ticks[-1] if ticks else None
            pts = previous or 0 if frame.pts is None else frame.pts
            has_times &= frame.pts is not None and (previous is None or pts >= previous)
            ticks.append(pts)
        if has_times:
            seconds = float(self._reader.time_base)
            return array("d", ((pts - ticks[0]) * seconds for pts in ticks)), "".join(kinds)
        stream = self._reader.stream
        rate = float(stream.average_rate or stream.guessed_rate or _RATE)
        return array("d", (index / rate for index in range(len(ticks)))), "".join(kinds)

    def _deliver(self, frame: VideoFrame, index: int, time_s: float) -> Frame:
        image = self._converter.convert(frame)
        self._n_delivered += 1
        self._last_index = index
        self._last_time_s = time_s
        return Frame(index=index, time_s=time_s, image=image)

    def _describe_damage(self, n_whole: int, n_present: int) -> str:
        """How many frames are lost, or made from what is; empty if none are.

        Raises:
            MediaError: If there is no whole frame.
        """
        n_expected = max(n_present, self._timeline.n_expected)
        n_lost = n_expected - n_whole
        damage = f"damaged: {n_lost} of {n_expected} frames" if n_lost else ""
        if not n_whole and not self._n_delivered:
            raise MediaError(self._reader.name, "no_frames", damage or "the stream holds none")
        return damage
