"""Content credentials: true ones hold, tampered ones do not, and nothing is fetched for them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from deepfake.media import credentials
from deepfake.media.credentials import (
    MOST_CLAIMS,
    MOST_LETTERS,
    Credentials,
    CredentialState,
    has_credentials,
    read_credentials,
)
from deepfake.media.inspection import inspect_file
from deepfake.records import Source
from tests.media.drawn_videos import write_video
from tests.media.made_images import draw, encode, noisy

c2pa = pytest.importorskip("c2pa", reason="needs the extra deepfake[c2pa]")


@pytest.fixture(scope="module")
def signed() -> bytes:
    from tests.media.made_credentials import sign

    return sign(noisy("JPEG"))


def check(data: bytes, media_type: str = "image/jpeg") -> Credentials:
    assert has_credentials(io.BytesIO(data))
    return read_credentials(io.BytesIO(data), media_type)


def test_true_credentials_hold_and_say_what_was_signed(signed: bytes) -> None:
    found = check(signed)
    assert (found.state, found.detail) == (CredentialState.VALID, "")
    assert found.claims == (
        ("signed by", "photographer, Press <b>Office</b>"),
        ("made with", "made for a test 1"),
        ("title", "title & more"),
        ("action", "c2pa.created with <script>Maker</script>"),
        ("digital source type", "trainedAlgorithmicMedia"),
    )


def test_changed_pixels_and_changed_claims_are_invalid(signed: bytes) -> None:
    pixels = bytearray(signed)
    pixels[-100] ^= 0x55
    found = check(bytes(pixels))
    assert found.state == CredentialState.INVALID
    assert "assertion.dataHash.mismatch" in found.detail
    claims = signed.replace(b"title & more", b"title & less")
    assert claims != signed
    found = check(claims)
    assert found.state == CredentialState.INVALID
    assert found.detail
    # Of another picture, they do not hold either.
    cut = signed[: signed.rindex(b"\xff\xda")] + noisy("JPEG", quality=30)[-2000:]
    assert check(cut).state == CredentialState.INVALID


def test_a_video_can_carry_them(tmp_path: Path) -> None:
    from tests.media.made_credentials import sign

    data = sign(write_video(tmp_path / "v.mp4", 5).read_bytes(), "video/mp4")
    assert check(data, "video/mp4").state == CredentialState.VALID
    at = data.rindex(b"mdat") + 40
    broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert check(broken, "video/mp4").state == CredentialState.INVALID


def test_what_only_looks_like_credentials_is_unreadable(signed: bytes) -> None:
    start = signed.index(b"jumdc2pa")
    for data in (
        noisy("JPEG") + signed[start : start + 200],
        signed[: start + 60] + bytes(400) + signed[start + 460 :],
        signed[: start + 60],
    ):
        found = check(data)
        assert found.state in (CredentialState.UNREADABLE, CredentialState.INVALID)
        assert found.detail
        assert found.detail.isprintable()
    assert not has_credentials(io.BytesIO(noisy("JPEG")))


def test_a_mark_is_found_across_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_CHUNK_BYTES", 64)
    for place in range(40, 70):
        data = bytes(place) + credentials._MARKER + bytes(100)
        assert has_credentials(io.BytesIO(data))
        assert not has_credentials(io.BytesIO(data.replace(b"jumd", b"junk")))


def test_without_the_extra_or_a_reader_nothing_is_said_to_hold(
    signed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for media_type in (None, "video/x-flv"):
        found = read_credentials(io.BytesIO(signed), media_type)
        assert found.state == CredentialState.UNCHECKED
        assert "no reader" in found.detail
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = check(signed)
    assert found.state == CredentialState.UNCHECKED
    assert "pip install deepfake[c2pa]" in found.detail


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/m.c2pa", asked
        listening.shutdown()


def test_credentials_elsewhere_are_not_fetched(server: tuple[str, list[str]]) -> None:
    from tests.media.made_credentials import sign

    address, asked = server
    data = sign(noisy("JPEG"), remote=address)
    assert address.encode() in data
    assert read_credentials(io.BytesIO(data), "image/jpeg").state == CredentialState.UNREADABLE
    assert not asked
    # The library would have asked, had it been let.
    loose = {"verify": {"remote_manifest_fetch": True}}
    with c2pa.Context.from_dict(loose) as context, pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/jpeg", io.BytesIO(data), context=context)
    assert asked == ["/m.c2pa"]


def test_whatever_a_manifest_holds_is_bounded() -> None:
    odd: list[Any] = [None, [], {"manifests": 3}, {"manifests": {"a": []}, "active_manifest": "a"}]
    for one in odd:
        assert credentials._summarise(one).state == CredentialState.INVALID
    action = {"action": "x" * 10_000, "softwareAgent": {"name": ["\x1b[31m"]}}
    data = {"actions": [action]}
    assertions: list[Any] = [{"label": f"c2pa.actions{n}", "data": data} for n in range(999)]
    assertions += [None, {"data": 1}, {"label": "\u202e\n"}]
    manifest = {"assertions": assertions, "ingredients": [{}] * 999, "claim_generator_info": 1}
    store = {
        "active_manifest": "a",
        "manifests": {"a": manifest},
        "validation_state": "Valid",
        "validation_status": [{"code": "c" * 999, "explanation": json}] * 99,
    }
    found = credentials._summarise(store)
    assert len(found.claims) <= MOST_CLAIMS
    texts = [found.detail, *(text for claim in found.claims for text in claim)]
    assert all(len(text) <= MOST_LETTERS and text.isprintable() for text in texts)


def test_a_jpeg_with_a_preview_behind_it_is_one(tmp_path: Path) -> None:
    from tests.media.made_credentials import sign

    two = encode(draw(), "MPO", save_all=True, append_images=[draw(20, 20)])
    (tmp_path / "camera.jpg").write_bytes(sign(two))
    with Image.open(tmp_path / "camera.jpg") as image:
        assert image.format == "MPO"
    facts = inspect_file(10**8, Source("", tmp_path / "camera.jpg", "camera.jpg"))
    assert facts.credentials is not None
    assert facts.credentials.state is CredentialState.VALID
