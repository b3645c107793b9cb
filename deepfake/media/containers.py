"""Tell by its first bytes which container of video a file is, and whether it is cut.

Knows no decoder.
"""

from __future__ import annotations

from typing import BinaryIO

from deepfake.media.files import are_boxes_cut

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

_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof"}
)
_MATROSKA = b"\x1a\x45\xdf\xa3"
_SIGNATURES = {
    _MATROSKA: "matroska",
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
    if head[4:8] in _BOXES:
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


def is_video_cut(file: BinaryIO) -> bool:
    """Whether a file ends before its own header says, where the header tells."""
    n_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head[:4] + head[8:12] == b"RIFFAVI ":
        return int.from_bytes(head[4:8], "little") + 8 > n_bytes
    if head.startswith(_MATROSKA):
        return _matroska_end(head) > n_bytes
    if head[4:8] not in _BOXES:
        return False
    return are_boxes_cut(file, n_bytes)


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends; 0 if it does not say."""
    at, size = _read_matroska_size(head, 4)
    at += size
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    at, size = _read_matroska_size(head, at + 4)
    return at + size if size else 0


def _read_matroska_size(head: bytes, at: int) -> tuple[int, int]:
    first = head[at] if at < len(head) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    # All bits set means that the writer did not know.
    return at + length, 0 if first == 0 or value == (1 << 7 * length) - 1 else value
