"""Which frames of a damaged video are whole: neither corrupt themselves nor made from corrupt ones.

Pure functions: they are told what the decoder said, and decode nothing. A decoder hides damage: it
fills a hole with what was there before and goes on, and all frames up to the next whole keyframe
are made from that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence

from deepfake.media.timeline import Timeline


def find_whole_frames(
    timeline: Timeline, clean: Sequence[int], failed: Collection[int]
) -> list[int]:
    """Follow the damage from packet to packet.

    Args:
        timeline: What the packets say.
        clean: For each packet 1 if its frame came out and is not corrupt, or 0.
        failed: Packets that the decoder refused.

    Returns:
        Ascending indexes of the whole frames.
    """
    index_of = {ordinal: index for index, ordinal in enumerate(timeline.shown)}
    keys, breaks = set(timeline.keys), set(timeline.breaks)
    whole = []
    is_tainted = False
    first_whole_pts: int | None = None  # frames before it still refer to what lies before a key
    for ordinal, pts in enumerate(timeline.pts):
        is_shown = ordinal in index_of
        is_good = clean[ordinal] if is_shown else ordinal not in failed
        is_good = is_good and ordinal not in timeline.corrupt
        is_tainted |= ordinal in breaks
        if is_good and ordinal in keys:
            first_whole_pts = pts if is_tainted else None
            is_tainted = False
        elif not is_good:
            is_tainted |= not timeline.unreferenced[ordinal]
        leads = first_whole_pts is not None and pts < first_whole_pts
        if is_good and is_shown and not is_tainted and not leads:
            whole.append(index_of[ordinal])
    return sorted(whole)


def find_whole_by_order(kinds: str, errors: Collection[int]) -> list[int]:
    """The same where packets do not tell the frames apart, from the order of the output alone.

    Args:
        kinds: For each frame ``K`` (keyframe), ``B`` (may be made from the frame behind it), ``P``
            (any other), or ``C`` (corrupt).
        errors: Frames before which the decoder refused a packet.

    Returns:
        Ascending indexes of the whole frames.

    Example:
        >>> find_whole_by_order("KPBCPKP", [])
        [0, 1, 5, 6]
    """
    whole: list[int] = []
    is_tainted = False
    for index, kind in enumerate(kinds):
        is_tainted = kind == "C" or ((is_tainted or index in errors) and kind != "K")
        if not is_tainted:
            whole.append(index)
        elif kind == "C":
            while whole and whole[-1] == index - 1 and kinds[index - 1] == "B":
                index = whole.pop()
    return whole


def choose_stand_ins(chosen: Sequence[int], whole: Sequence[int]) -> list[int]:
    """Put the next whole frame in the place of each that is not; at the end, the last whole one.

    Example:
        >>> choose_stand_ins([1, 4, 9], [0, 1, 5, 6])
        [1, 5, 6]
    """
    picked: list[int] = []
    for wanted in chosen:
        at = min(bisect_left(whole, wanted), len(whole) - 1)
        if at >= 0 and (not picked or whole[at] > picked[-1]):
            picked.append(whole[at])
    return picked
