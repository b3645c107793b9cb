"""What is said of a file beside its score: facts of all kinds of files, and of hostile ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from deepfake.jobs import workers as pool
from deepfake.media.credentials import CredentialState
from deepfake.media.discovery import list_sources
from deepfake.media.inspection import FileFacts, inspect_files
from deepfake.records import Workers
from tests import fakes
from tests.fakes import HANG, KILL, hostile_source
from tests.media.drawn_videos import write_video
from tests.media.made_images import draw, encode, noisy, png_chunk, png_header
from tests.media.test_provenance import SETTINGS, xmp

HERE = Workers(processes=0)


def inspect(*paths: Path, workers: Workers = HERE) -> list[FileFacts]:
    sources = list_sources([str(path) for path in paths], Path())
    found = list(inspect_files(sources, workers))
    assert [source for source, _ in found] == list(sources)
    return [facts for _, facts in found]


@pytest.fixture
def put(tmp_path: Path) -> Any:
    def put(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return put


def test_facts_of_photos_and_animations(put: Any) -> None:
    grey = encode(draw().convert("L"), "PNG")
    frames = [draw(9, 7), draw(9, 7).transpose(Image.Transpose.ROTATE_180)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    photo, animation = inspect(put("wrong.jpg", grey), put("a.gif", gif))
    assert photo.facts == (("format", "PNG"), ("mode", "L"), ("size", "40 x 60 px"))
    assert (photo.sha256, photo.n_bytes) == (hashlib.sha256(grey).hexdigest(), len(grey))
    assert (photo.tags, photo.credentials, photo.problem) == ((), None, "")
    assert dict(animation.facts)["frames"] == "2"


def test_facts_of_videos(tmp_path: Path) -> None:
    from fractions import Fraction

    path = write_video(tmp_path / "v.mp4", 50, pixel_aspect=Fraction(4, 3))
    (video,) = inspect(path)
    facts = dict(video.facts)
    assert facts["format"] == "QuickTime / MOV (mov)"
    assert (facts["duration"], facts["streams"]) == ("2.00 s", "1")
    wanted = "video, h264, 64 x 48 px, pixels 4:3, yuv420p, 25 frames/s, 50 frames"
    assert facts["stream 0"] == wanted
    assert {tag.name for tag in video.tags} >= {"container encoder", "container major_brand"}


def test_a_text_behind_the_pixels_of_a_png_is_found(put: Any) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", SETTINGS, zip=False)
    data = encode(draw(), "PNG")
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"tEXt", b"parameters\0" + SETTINGS.encode()) + data[end:]
    (facts,) = inspect(put("late.png", late))
    assert [tag.name for tag in facts.tags] == ["PNG parameters"]


def test_credentials_are_told_beside_the_tags(put: Any) -> None:
    pytest.importorskip("c2pa", reason="needs the extra deepfake[c2pa]")
    from tests.media.made_credentials import sign

    address = "https://a.example/x"
    remote = noisy("JPEG", xmp=xmp(f'<x dcterms:provenance="{address}"/>'))
    signed, elsewhere = inspect(put("s.jpg", sign(noisy("JPEG"))), put("e.jpg", remote))
    assert signed.credentials is not None
    assert signed.credentials.state == CredentialState.VALID
    assert elsewhere.credentials is not None
    assert elsewhere.credentials.state == CredentialState.ELSEWHERE
    assert address in elsewhere.credentials.detail


def test_hostile_files_are_told_of(put: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    bomb = png_header(50_000, 50_000) + png_chunk(b"IDAT", bytes(100)) + png_chunk(b"IEND", b"")
    texts = b"".join(png_chunk(b"tEXt", b"k%d\0%s" % (n, b"x" * 500)) for n in range(3000))
    data = encode(draw(), "PNG")
    files = {
        "empty.jpg": b"",
        "junk.mp4": b"\0\0\0\x20ftypisom" + os.urandom(2000),
        "junk.jpg": b"\xff\xd8\xff" + os.urandom(2000),
        "cut.jpg": noisy("JPEG")[:700],
        "bomb.png": bomb,
        "many.png": data[:33] + texts + data[33:],
        "text.png": b"\x89PNG\r\n\x1a\n" + b"<script>",
    }
    paths = [put(name, content) for name, content in files.items()]
    paths += [tmp_path / "fifo.png", tmp_path / "gone.png", tmp_path]
    found = dict(zip([path.name for path in paths], inspect(*paths), strict=True))
    for name, content in files.items():
        assert found[name].sha256 == hashlib.sha256(content).hexdigest()
        assert found[name].problem.isprintable()
    for name in ("empty.jpg", "junk.mp4", "text.png", "fifo.png", "gone.png", tmp_path.name):
        assert found[name].problem
        assert found[name].facts == ()
    assert ("size", "50000 x 50000 px") in found["bomb.png"].facts or found["bomb.png"].problem
    assert len(found["many.png"].tags) <= 40
    assert found["fifo.png"].sha256 == found["gone.png"].sha256 == ""


def test_whatever_a_decoder_raises_is_told_of(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")

    monkeypatch.setattr("deepfake.media.inspection.open_container", fail)
    (facts,) = inspect(put("v.mp4", b"\0\0\0\x20ftypisom" + bytes(100)))
    assert "odd" in facts.problem
    assert facts.sha256


def test_a_file_that_stops_its_worker_has_a_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_serve", fakes.serve_hostile)
    sources = [hostile_source(kind, n, tmp_path) for n, kind in enumerate((HANG, KILL))]
    found = [facts for _, facts in inspect_files(sources, Workers(1, 2.0))]
    assert [facts.problem.partition(":")[0] for facts in found] == ["timeout", "crashed"]
    for source, facts in zip(sources, found, strict=True):
        assert facts.sha256 == hashlib.sha256(source.path.read_bytes()).hexdigest()


def test_workers_tell_the_same(put: Any, tmp_path: Path) -> None:
    paths = [put("a.jpg", noisy("JPEG")), put("b.jpg", b"no"), write_video(tmp_path / "v.mp4", 5)]
    assert inspect(*paths, workers=Workers(1)) == inspect(*paths)
