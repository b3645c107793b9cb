"""What a file is before anything decodes it: a file at all, of which format, whole or cut.

The content decides, never the suffix. Knows no decoder.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from deepfake.errors import MediaError, one_line

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)

BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof"})
"""Names of the first ISO box of a file: MP4, MOV, AVIF, HEIC."""

MATROSKA = b"\x1a\x45\xdf\xa3"
"""How Matroska and WebM begin."""


def open_regular_file(path: Path, name: str) -> BinaryIO:
    """Open a file for reading without ever waiting for, or acting on, what is no file.

    Raises:
        MediaError: ``not_regular_file`` or ``io_error``.
    """
    with contextlib.ExitStack() as opened:
        try:
            # Opening a fifo waits for its writer and opening a device may act on it, so look first;
            # the second look, at what was really opened, closes the gap between the two.
            _require_regular(path.stat().st_mode, name)
            file = opened.enter_context(open(path, "rb", opener=_open_without_waiting))
            _require_regular(os.fstat(file.fileno()).st_mode, name)
        except MediaError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            what = one_line(getattr(error, "strerror", None) or str(error))
            if isinstance(error, FileNotFoundError):
                what = "no such file"
            raise MediaError(name, "io_error", what) from error
        opened.pop_all()
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise MediaError(name, "not_regular_file", describe_mode(mode))


def check_size(width: int, height: int, name: str, max_pixels: int, what: str = "") -> None:
    """Refuse a photo or frame before its pixels take memory.

    Raises:
        MediaError: ``too_large``.
    """
    if width * height > max_pixels:
        size = f"{what}{width}x{height} pixels; at most {max_pixels} are decoded"
        raise MediaError(name, "too_large", size)


def describe_mode(mode: int) -> str:
    """Say in words what kind of thing a path is, from its ``st_mode``."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a fifo (named pipe)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "neither a file nor a folder")


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is of a format that ``read_image`` knows.

    Args:
        head: The first 64 bytes of the file, or all of it.
    """
    return (
        head.startswith(_SIGNATURES)
        or head[:4] + head[8:12] == b"RIFFWEBP"
        or bool(_read_brands(head) & (_AVIF_BRANDS | _HEIF_BRANDS))
    )


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC, which needs a decoder of its own."""
    brands = _read_brands(head)
    # `mif1` is the family name of both; AVIF decodes without an extra.
    return bool(brands & _HEIF_BRANDS) and not brands & _AVIF_BRANDS


def _read_brands(head: bytes) -> set[bytes]:
    """What a file of the MP4 family (AVIF, HEIC, videos) says it is; empty for others."""
    if head[4:8] != b"ftyp":
        return set()
    box_end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, box_end, 4)}


def is_cut(file: BinaryIO) -> bool:
    """Whether a photo or video ends before its own header says, where the header tells.

    Decoders only say that they failed.
    """
    n_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(2048)
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"AVI "):
        return int.from_bytes(head[4:8], "little") + 8 > n_bytes
    if head.startswith(MATROSKA):
        return _matroska_end(head) > n_bytes
    return head[4:8] in BOXES and _are_boxes_cut(file, n_bytes)


def _are_boxes_cut(file: BinaryIO, n_bytes: int) -> bool:
    """Whether a file of ISO boxes (MP4, MOV, AVIF, HEIC) ends inside of a box."""
    position = 0
    while position < n_bytes:
        file.seek(position)
        box = file.read(16)
        size = int.from_bytes(box[:4], "big")
        if size == 0:
            return False
        # Size 1 stands for a 64-bit size behind the name; the least a box can have is 8 bytes.
        position += max(8, int.from_bytes(box[8:16], "big") if size == 1 else size)
    return position > n_bytes


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
