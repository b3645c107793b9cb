"""What the packets of a video say: which frames there are, when, and where decoding can start."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

_MOST_REORDERED = 64  # packets: no codec lets a frame wait longer for those before it


@dataclass(frozen=True, slots=True)
class Timeline:
    """All frames of a video in presentation order, and the packets that they come from.

    Args:
        pts: Presentation time of each packet in file order, in ticks.
        sizes_end: Bytes of all packets up to and including each.
        keys: Packets at which decoding can start, ascending; those that show nothing included.
        shown: Packets in presentation order, those left out that show nothing.
        times_s: Time of each frame since the first, in seconds.
        is_trusted: The times of packets tell the frames apart; without that, frames can only be
            counted while decoding everything.
        key_frames: Which frames are keyframes.
        unreferenced: For each packet 1 if without it all others decode to the same pixels, or 0.
        n_expected: How many frames there should be: those there are, or what the header promises.
        breaks: Packets before which a stretch of the file could not be taken apart.
        corrupt: Packets that the container says are not whole.
    """

    pts: array[int]
    sizes_end: array[int]
    keys: array[int]
    shown: array[int]
    times_s: array[float]
    is_trusted: bool
    key_frames: array[int]
    unreferenced: bytearray
    n_expected: int
    breaks: tuple[int, ...] = ()
    corrupt: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def is_damaged(self) -> bool:
        """Whether packets are missing or not whole; frames may be damaged all the same."""
        return bool(self.breaks or self.corrupt) or self.n_expected > len(self)

    def n_bytes(self, start: int, end: int) -> int:
        """Bytes of the packets from ``start`` to before ``end``."""
        before = self.sizes_end[start - 1] if start else 0
        return (self.sizes_end[end - 1] if end else 0) - before

    def find(self, pts: int | None) -> int | None:
        """Which frame has this presentation time."""
        if pts is None:
            return None
        index = bisect_left(self.shown, pts, key=self.pts.__getitem__)
        found = index < len(self.shown) and self.pts[self.shown[index]] == pts
        return index if found else None

    def find_shown(self, ordinal: int) -> int | None:
        """Which frame a packet gives; ``None`` if it shows nothing."""
        index = self.find(self.pts[ordinal])
        return index if index is not None and self.shown[index] == ordinal else None

    def find_packet(self, packet: Packet[VideoStream]) -> int | None:
        """Which packet this is, if it is one that decoding can start at."""
        if not packet.is_keyframe or packet.pts is None:
            return None
        # Keyframes come in order of time in any sane file; in others nothing is found, is all.
        at = bisect_left(self.keys, packet.pts, key=self.pts.__getitem__)
        if at == len(self.keys):
            return None
        ordinal = self.keys[at]
        same = self.pts[ordinal] == packet.pts
        return ordinal if same and self.n_bytes(ordinal, ordinal + 1) == packet.size else None

    def last_needed(self, index: int) -> int:
        """The last frame, in presentation order, that a frame may be made from; often itself.

        Until the decoder has given out that one, damage to it may have gone unnoticed.
        """
        ordinal = self.shown[index]
        start = max(self.start_for(index), ordinal - _MOST_REORDERED)
        latest = max(self.pts[start : ordinal + 1])
        return index if latest == self.pts[ordinal] else self.find(latest) or index

    def start_for(self, index: int) -> int:
        """The last packet that decoding can start at to reach a frame."""
        ordinal = self.shown[index]
        at = bisect_left(self.keys, ordinal + 1) - 1
        # Frames that come after a keyframe in the file but are shown before it may need the
        # frames before it.
        while at > 0 and self.pts[self.keys[at]] > self.pts[ordinal]:
            at -= 1
        return self.keys[at] if at >= 0 else 0
