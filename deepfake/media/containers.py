"""Tell by its first bytes which container of video a file is.

Knows no decoder.
"""

from __future__ import annotations

from deepfake.media.files import BOXES, MATROSKA

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "asf",
    "flv",
    "mpeg",
    "ogg",
    "mxf",
    "dv",
)
"""FFmpeg's names of the containers that are opened; none of them refers to other files or hosts."""

HEAD_BYTES = 2048
"""How much of a file's beginning ``is_video`` wants to see."""

_SIGNATURES = {
    MATROSKA: "matroska",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): "asf",
    b"FLV\x01": "flv",
    b"\0\0\1\xba": "mpeg",
    b"OggS": "ogg",
    bytes.fromhex("060e2b34020501010d010201"): "mxf",
    b"\x1f\x07\0": "dv",
}


def is_video(head: bytes) -> bool:
    """Whether a file that begins so is of a container that ``open_video`` opens.

    Args:
        head: The first ``HEAD_BYTES`` of the file, or all of it.
    """
    return find_container(head) is not None


def find_container(head: bytes) -> str | None:
    """FFmpeg's name of the container; its own guess takes a short recording for other things."""
    if head[4:8] in BOXES:
        return "mov"
    if head[:4] + head[8:12] == b"RIFFAVI ":
        return "avi"
    for start, name in _SIGNATURES.items():
        if head.startswith(start):
            return name
    # Transport stream: packets of 188 bytes, on Blu-ray behind 4 more. Long recordings may begin
    # within a packet; of short ones there are too few marks to search for.
    for size in (188, 192):
        n_marks = min(5, len(head) // size)
        for first in range(size) if n_marks == 5 else (size - 188,):
            if n_marks > 1 and head[first::size][:n_marks] == b"\x47" * n_marks:
                return "mpegts"
    return None
