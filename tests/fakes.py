"""Made data and stand-ins that several tests share.

Kept free of torch at import: a spawned worker that serves from here must start at once.
"""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepfake.media.discovery import list_sources
from deepfake.records import Extraction, Face, Source, Status

Picture = NDArray[np.uint8]

HANG, KILL, KILL_ONCE, CUT_SHORT, NONE = "hang", "kill", "kill_once", "cut_short", "none"
STOP_SHORT, LINGER = "stop_short", "linger"
"""What a hostile file does to its worker, as the first word of its name."""

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.truncate")


@cache
def portrait(identity: int = 0, shot: int = 0, size: int = 160) -> Picture:
    """A drawn portrait that the real MTCNN finds; drawn once per session, not to be written to."""
    from deepfake.demo.portraits import draw_portrait

    picture = draw_portrait(identity, shot, size=size)
    picture.flags.writeable = False
    return picture


@cache
def montage() -> Picture:
    """Four faces of different size on one canvas of 420 x 640 pixels."""
    canvas = np.full((420, 640, 3), (96, 120, 140), np.uint8)
    for identity, size, top, left in ((1, 256, 20, 10), (2, 200, 200, 280), (3, 128, 20, 300)):
        canvas[top : top + size, left : left + size] = portrait(identity, 1, size)
    canvas[30:190, 470:630] = portrait(5, 0, 160)
    canvas.flags.writeable = False
    return canvas


def upside_down(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[::-1, ::-1])


def write_photo(path: Path, picture: Picture, **options: Any) -> Path:
    """Write a photo in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


def write_portraits(
    root: Path, count: int, size: int = 128, names: Sequence[str] | None = None
) -> Path:
    """Write portraits in turn to ``real`` and ``fake``, in groups of two; PNG, so lossless."""
    for index in range(count):
        label = ("real", "fake")[index % 2]
        default = f"{label}/id{index // 4}/{index:03d}.png"
        name = names[index] if names else default
        write_photo(root / name, portrait(index % 12, index // 12, size))
    return root


def make_source(path: Path, **facts: Any) -> Source:
    """The source that a list with this one path gives."""
    from dataclasses import replace

    return replace(list_sources([path.name], path.parent)[0], **facts)


def make_face(box: Sequence[float], confidence: float = 0.9) -> Face:
    x0, y0, x1, y1 = box
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    marks = [(x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in points]
    return Face(np.array(box, np.float32), confidence, np.array(marks, np.float32))


class FakeDetector:
    """Finds the given boxes in every picture that ``finds_in`` accepts."""

    def __init__(
        self,
        *boxes: Sequence[float],
        finds_in: Callable[[Picture], bool] = lambda picture: True,
    ) -> None:
        self.boxes = boxes
        self.finds_in = finds_in
        self.calls = 0

    def detect(self, images: Sequence[Picture]) -> list[list[Face]]:
        self.calls += 1
        return [
            [make_face(box) for box in self.boxes] if self.finds_in(image) else []
            for image in images
        ]


def tree_hashes(root: Path) -> dict[str, str]:
    """Hash of every file below a folder, and ``folder`` for every folder."""
    return {
        path.relative_to(root).as_posix(): "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
    }


each_change = pytest.mark.parametrize(
    "stride", [5, pytest.param(1, marks=pytest.mark.slow)], ids="every-{}".format
)
"""Of a job that dies before a change: before how many of them, in the default run and in all."""


def run_and_die(job: Callable[[], object], event: int) -> bool:
    """Run in a forked process that is killed just before its n-th change; whether it was."""
    child = os.fork()
    if child == 0:
        changes = 0

        def count(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal changes
            if name == "open":
                flags = arguments[2] if isinstance(arguments[2], int) else 0
                if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return
            elif name not in _CHANGES:
                return
            changes += 1
            if changes > event:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            job()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def hostile_source(kind: str, number: int, folder: Path = Path()) -> Source:
    return Source(id=f"{number:016x}", path=folder / f"{kind}-{number}", name=f"{kind}-{number}")


def misbehave(source: Source, connection: Connection | None = None) -> None:
    """Do to this process what the source's name says."""
    kind = source.name.split("-")[0]
    if source.path.is_absolute() and kind in (HANG, KILL):
        with source.path.open("a") as file:
            file.write("tried\n")
    if kind == LINGER and connection is not None:
        connection.close()
    if kind in (HANG, LINGER):
        time.sleep(3600)
    if kind == KILL_ONCE:
        if source.path.exists():
            return
        source.path.touch()
    if kind in (CUT_SHORT, STOP_SHORT) and connection is not None:
        # The head of a long answer, and then nothing more.
        os.write(connection.fileno(), struct.pack("!i", 1 << 20) + b"half")
    if kind == STOP_SHORT:
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind in (KILL, KILL_ONCE, CUT_SHORT):
        os.kill(os.getpid(), signal.SIGKILL)


def serve_hostile(connection: Connection, make: object) -> None:
    """Stands in for a real worker: same protocol, no detector; answers with its pid."""
    connection.send(None)
    while True:
        try:
            source = connection.recv()
        except EOFError:
            return
        misbehave(source, connection)
        connection.send(Extraction(Status.NO_FACE, f"{source.name} {os.getpid()}"))


def serve_never(connection: Connection, make: object) -> None:
    """A worker that dies before it is ready."""


def serve_at_the_second_try(connection: Connection, make: object) -> None:
    """A worker that dies before it is ready if the file of this name is not there yet."""
    mark = Path(os.environ["FIRST_TRY"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    serve_hostile(connection, make)


def make_misbehaving() -> Callable[[Source], int]:
    """Reads sources and gives the number of its process, if it lives to do so."""

    def read(source: Source) -> int:
        misbehave(source)
        return os.getpid()

    return read


def make_telling() -> Callable[[Source], int]:
    """Says that it is at ``a``, then at ``b``; gives the number of its process."""
    from deepfake.jobs.workers import tell_progress

    def read(source: Source) -> int:
        for step in ("a", "b"):
            tell_progress(step)
        return os.getpid()

    return read
