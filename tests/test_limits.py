"""Hostile files under a limit of memory and time, in real processes: a row and a reason each."""

from __future__ import annotations

import os
import runpy
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.dataset.manifest import MANIFEST_FILE, SOURCES_FILE
from deepfake.tables import CsvRow, read_csv
from tests.conftest import Trained
from tests.fakes import portrait, tree_hashes, write_photo

ROOT = Path(__file__).parents[1]
LIMIT_BYTES = 3e9
watch: Any = runpy.run_path(str(ROOT / "benchmarks" / "memory.py"))["watch"]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory of processes is read from /proc"
)


def run(script: str, limit_s: float, *words: object) -> None:
    """Run a script of ours with two workers; it must end by itself, within the limits."""
    command = [sys.executable, str(ROOT / script), *map(str, words), "--workers", "2", "--quiet"]
    done = watch(command, LIMIT_BYTES, limit_s, interval_s=0.05)
    assert done.stopped == "", f"stopped for its {done.stopped} at {done.peak_bytes / 1e6:,.0f} MB"
    assert done.code == 0
    sys.stdout.write(f"{script}: {done.peak_bytes / 1e6:,.0f} MB in {done.seconds:,.0f} s\n")


def check(table: Path, names: list[str]) -> list[CsvRow]:
    rows = read_csv(table, ["path", "status", "reason"])
    assert [row["path"] for row in rows] == names
    assert all(row["status"] == "ok" or row["reason"] for row in rows)
    return rows


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(head)


def chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def write_hostile(folder: Path) -> list[str]:
    """Made files of which nearly all want more than they should."""
    good = write_photo(folder / "good.png", portrait())
    whole = write_photo(folder / "whole.jpg", np.tile(portrait(), (4, 4, 1))).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no photo\n" * 1000)
    (folder / "claims-400-megapixels").write_bytes(png_header(20_000, 20_000))
    line = zlib.compressobj(9)
    bomb = b"".join(line.compress(bytes(1 + 3 * 6_000)) for _ in range(4_000)) + line.flush()
    (folder / "24-megapixels").write_bytes(
        png_header(6_000, 4_000) + chunk(b"IDAT" + bomb) + chunk(b"IEND")
    )
    frames = [Image.new("P", (900, 900), number) for number in range(60)]
    frames[0].save(folder / "long.gif", save_all=True, append_images=frames[1:])
    write_photo(folder / "strip.png", np.zeros((2, 30_000, 3), np.uint8))
    (folder / "playlist.mp4").write_text("ffconcat version 1.0\nfile good.png\n")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "folder.jpg").mkdir()
    assert good.exists()
    return [*sorted(path.name for path in folder.iterdir()), "gone.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["predict.py", "crop.py"])
def test_made_files(trained: Trained, tmp_path: Path, script: str) -> None:
    (tmp_path / "media").mkdir()
    names = write_hostile(tmp_path / "media")
    listing = tmp_path / "media" / "list.txt"
    listing.write_text("\n".join(names))
    output = tmp_path / "scores.csv"
    if script == "predict.py":
        run(script, 240, listing, "--checkpoint", trained.checkpoint, "--output", output)
    else:
        run(script, 240, listing, tmp_path / "crops", "--size", "64")
        output = tmp_path / "crops" / SOURCES_FILE
    statuses = {row["path"]: row["status"] for row in check(output, names)}
    assert statuses["good.png"] == "ok"
    refused = {name for name, status in statuses.items() if status == "unreadable"}
    expected = {"cut.jpg", "empty.jpg", "text.png", "claims-400-megapixels", "playlist.mp4"}
    assert refused >= expected | {"pipe.jpg", "loop.jpg", "folder.jpg", "gone.jpg"}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(3600)
def test_every_hostile_file_and_every_video(
    trained: Trained, shared_media: Path, tmp_path: Path
) -> None:
    folders = [shared_media / "hostile", shared_media / "videos"]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    assert len(files) > 1000
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\n".join(map(os.fsencode, files)))
    names = [str(path) for path in files]
    for again in ("a", "b"):
        run("crop.py", 900, listing, tmp_path / f"crops-{again}", "--size", "64")
        outputs = [
            "--output",
            tmp_path / f"{again}.csv",
            "--faces",
            tmp_path / f"faces-{again}.csv",
        ]
        run("predict.py", 900, listing, "--checkpoint", trained.checkpoint, *outputs)
    cropped = check(tmp_path / "crops-a" / SOURCES_FILE, names)
    scored = check(tmp_path / "a.csv", names)
    assert [row["status"] for row in cropped] == [row["status"] for row in scored]
    assert {row["status"] for row in scored} == {"ok", "no_face", "too_small", "unreadable"}
    assert (tmp_path / "crops-a" / MANIFEST_FILE).stat().st_size > 10_000
    assert tree_hashes(tmp_path / "crops-a") == tree_hashes(tmp_path / "crops-b")
    for name in ("{}.csv", "faces-{}.csv"):
        one, two = (tmp_path / name.format(again) for again in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()
