"""Containers of video are told by their first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepfake.media.containers import HEAD_BYTES, find_container, is_video
from tests.media.drawn_videos import write_video

M2TS: dict[str, Any] = {"codec": "libx264", "container_options": {"mpegts_m2ts_mode": "1"}}
MPEG: dict[str, Any] = {"codec": "mpeg2video", "container": "mpeg"}


@pytest.mark.parametrize(
    ("name", "options", "container"),
    [
        pytest.param("a.mp4", {}, "mov", id="mp4"),
        pytest.param("a.mkv", {}, "matroska", id="mkv"),
        pytest.param("a.avi", {}, "avi", id="avi"),
        pytest.param("a.ts", {}, "mpegts", id="ts"),
        pytest.param("a.m2ts", M2TS, "mpegts", id="m2ts"),
        pytest.param("a.wmv", {"codec": "wmv2"}, "asf", id="wmv"),
        pytest.param("a.flv", {"codec": "flv"}, "flv", id="flv"),
        pytest.param("a.mpg", MPEG, "mpeg", id="mpg"),
    ],
)
def test_tells_the_container_whatever_the_suffix(
    tmp_path: Path, name: str, options: dict[str, Any], container: str
) -> None:
    data = write_video(tmp_path / name, 12, **options).read_bytes()
    assert find_container(data[:HEAD_BYTES]) == container


@pytest.mark.parametrize("data", [b"", b"\x47" * 9, b"text" * 600, b"\xff\xd8\xff\xe0" * 9])
def test_other_files_are_no_video(data: bytes) -> None:
    assert not is_video(data)
