"""What no decoder has seen yet: things that are no files, and formats told by their first bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.errors import MediaError
from deepfake.media.files import is_cut, is_heif, is_image, open_regular_file
from tests.media.drawn_videos import write_video


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(make_fifo, r"a fifo \(named pipe\)", id="fifo"),
        pytest.param(make_socket, "a socket", id="socket"),
        pytest.param(Path.mkdir, "a folder", id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/null"), "a character device", id="device"),
    ],
)
@pytest.mark.timeout(20)
def test_does_not_touch_what_is_no_file(
    tmp_path: Path,
    make: Callable[[Path], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("x.jpg"))
    with pytest.raises(MediaError, match=f"x.jpg: not_regular_file: {message}"):
        open_regular_file(Path("x.jpg"), "x.jpg")


def test_says_that_a_file_vanished(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="io_error: no such file"):
        open_regular_file(tmp_path / "gone.jpg", "gone.jpg")


def test_says_that_a_file_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    path.touch()
    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(MediaError, match="io_error: Permission denied"):
        open_regular_file(path, "a.png")


def test_says_that_a_path_is_impossible() -> None:
    with pytest.raises(MediaError, match="io_error: embedded null byte"):
        open_regular_file(Path("a\0.jpg"), "a")


def test_avif_with_the_family_brand_is_no_heic() -> None:
    assert not is_heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(8))
    assert is_heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(8))


def make_box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    size = len(content) + (16 if wide else 8)
    head = b"\0\0\0\1" + kind + size.to_bytes(8, "big") if wide else size.to_bytes(4, "big") + kind
    return head + content


AVIF = make_box(b"ftyp", b"avif\0\0\0\0") + make_box(b"mdat", bytes(90), wide=True)
WEBP = b"RIFF" + (40).to_bytes(4, "little") + b"WEBP" + bytes(36)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(AVIF, False, id="boxes"),
        pytest.param(AVIF[:-1], True, id="cut-boxes"),
        pytest.param(AVIF[:24] + bytes(8), False, id="a-box-to-the-end"),
        pytest.param(WEBP, False, id="webp"),
        pytest.param(WEBP[:-1], True, id="cut-webp"),
        pytest.param(b"BM" + bytes(9), False, id="says-nothing"),
    ],
)
def test_knows_what_ends_before_its_header_says(
    tmp_path: Path, data: bytes, expected: bool
) -> None:
    (tmp_path / "x").write_bytes(data)
    with open_regular_file(tmp_path / "x", "x") as file:
        assert is_image(data)
        assert is_cut(file) is expected


@pytest.mark.parametrize(("name", "tells"), [("a.mp4", 1), ("a.mkv", 1), ("a.avi", 1), ("a.ts", 0)])
def test_tells_a_cut_file_where_the_header_does(tmp_path: Path, name: str, tells: int) -> None:
    path = write_video(tmp_path / name, 12)
    data = path.read_bytes()
    with path.open("rb") as file:
        assert not is_cut(file)
    path.write_bytes(data[: len(data) * 2 // 3])
    with path.open("rb") as file:
        assert is_cut(file) == bool(tells)
