"""What comes in is streamed, hashed and limited; what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from deepfake.web.uploads import Received, UploadError, UploadLimits, receive
from tests.web.made_server import encode_form


def take(
    folder: Path,
    body: Iterable[bytes],
    kind: str,
    limits: UploadLimits = UploadLimits(),  # noqa: B008 - frozen
    n_free: int = 10,
    length: int | None = None,
) -> Received:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in body:
            if chunk == b"PAUSE":
                await asyncio.sleep(60)
            yield chunk

    return asyncio.run(receive(kind, length, stream(), folder, limits, n_free))


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_files_arrive_as_they_were_however_they_are_cut(tmp_path: Path, size: int) -> None:
    files = [("a.jpg", os.urandom(3000)), ("../../b", b""), ('\u00fc\n".mp4', b"\r\n--x\r\n")]
    kind, body = encode_form(files, {"model": "abc"})
    received = take(tmp_path, cut(body, size), kind)
    assert received.fields == {"model": "abc"}
    assert [file.path.read_bytes() for file in received.files] == [data for _, data in files]
    digests = [hashlib.sha256(data).hexdigest() for _, data in files]
    assert [file.sha256 for file in received.files] == digests
    assert received.files[1].name == "../../b"
    for file in received.files:  # whatever the name says
        assert file.path.parent == tmp_path
        assert file.path.stat().st_mode & 0o077 == 0
    received.discard()
    assert not list(tmp_path.iterdir())


KIND, BODY = encode_form([("a.jpg", b"x" * 5000)], {})
FILE_TWICE = encode_form([("a.jpg", b"x"), ("b.jpg", b"y")], {})
MANY_FIELDS = encode_form([], {f"field{n}": "" for n in range(20)})
LONG_FIELD = encode_form([], {"model": "m" * 5000})
ELSEWHERE = encode_form([("a.jpg", b"x")], {}, "other")


@pytest.mark.parametrize(
    ("kind", "body", "limits", "status", "problem"),
    [
        (KIND, BODY[:3000], {}, 400, "broke off before its end"),
        (KIND, b"--wrong" + BODY, {}, 400, "is no multipart/form-data: "),
        (KIND, BODY, {"file_bytes": 4999}, 413, "larger than 4,999 bytes"),
        (*FILE_TWICE, {"files": 1}, 413, "more than 1 files"),
        (*MANY_FIELDS, {}, 400, "more than 16 fields"),
        (*LONG_FIELD, {}, 413, "field 'model' is longer than 4096 bytes"),
        (*ELSEWHERE, {}, 400, "a file came in field 'other'; expected files"),
        ("text/plain", BODY, {}, 415, "expected multipart/form-data"),
        ("multipart/form-data", BODY, {}, 415, "expected multipart/form-data"),
    ],
    ids=lambda value: value if isinstance(value, int) else "",  # a boundary is another every time
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, kind: str, body: bytes, limits: dict[str, Any], status: int, problem: str
) -> None:
    with pytest.raises(UploadError, match=re.escape(problem)) as caught:
        take(tmp_path, cut(body, 1000), kind, UploadLimits(**limits), limits.get("files", 10))
    assert caught.value.status == status
    assert not list(tmp_path.iterdir())


def test_a_client_that_pauses_or_drips_is_given_up(tmp_path: Path) -> None:
    pause = [BODY[:3000], b"PAUSE", BODY[3000:]]
    with pytest.raises(UploadError, match=r"nothing came for 0\.05 s"):
        take(tmp_path, pause, KIND, UploadLimits(idle_s=0.05))
    with pytest.raises(UploadError, match=r"took more than 0\.05 s"):
        take(tmp_path, pause, KIND, UploadLimits(total_s=0.05))
    assert not list(tmp_path.iterdir())


def test_what_is_being_written_when_the_time_is_over_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tempfile.mkstemp

    def late(dir: Path) -> tuple[int, str]:
        time.sleep(0.3)
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "mkstemp", late)
    kind, body = encode_form([("a.jpg", os.urandom(3 << 20))], {})
    with pytest.raises(UploadError, match=r"took more than 0\.1 s"):
        take(tmp_path, cut(body, 1 << 16), kind, UploadLimits(total_s=0.1))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_or_gets_full_is_said_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UploadError, match="do not fit on the server's disk") as caught:
        take(tmp_path, [BODY], KIND, length=1 << 60)
    assert caught.value.status == 507
    frees = iter([1 << 40, 0])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(frees)))
    with pytest.raises(UploadError, match="do not fit on the server's disk"):
        take(tmp_path, [BODY], KIND)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_in_the_middle_is_said(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.web.uploads._SPARE_BYTES", 0)
    kind, body = encode_form([("a.jpg", os.urandom(3 << 20))], {})
    with pytest.raises(UploadError, match=r"do not fit|cannot be kept") as caught:
        take(small_disk, cut(body, 1 << 16), kind)
    assert caught.value.status == 507
    assert not list(small_disk.iterdir())


def test_a_long_upload_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    kind, body = encode_form([("a.mp4", b"MIDDLE")], {})
    head, tail = body.split(b"MIDDLE")
    chunk = bytes(1 << 16)

    def stream() -> Iterable[bytes]:
        yield head
        for _ in range(32 * 16):
            yield chunk
        yield tail

    tracemalloc.start()
    received = take(tmp_path, stream(), kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert received.files[0].path.stat().st_size == 32 << 20
    assert peak < 8 << 20


def test_a_boundary_longer_than_any_is_refused(tmp_path: Path) -> None:
    kind = f"multipart/form-data; boundary={'x' * 300}"
    with pytest.raises(UploadError, match=r"no multipart/form-data: Boundary length") as no:
        take(tmp_path, [b""], kind)
    assert no.value.status == 400
    assert not list(tmp_path.iterdir())
