"""Tags of a file's making: the telling ones are found and said, hostile ones are bounded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deepfake.media.provenance import (
    MOST_LETTERS,
    MOST_TAGS,
    Tag,
    list_image_tags,
    list_video_tags,
    make_tags,
)
from tests.media.made_images import draw, encode

SETTINGS = "a face, portrait\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: sd15"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def tags_of(data: bytes) -> dict[str, Tag]:
    image = Image.open(io.BytesIO(data))
    image.load()
    return {tag.name: tag for tag in make_tags(list_image_tags(image))}


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value, zip=len(value) > 1000)
    return encode(draw(), "PNG", pnginfo=info)


def xmp(body: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{body}</rdf:RDF></x:xmpmeta>'.encode()


@pytest.mark.parametrize(
    ("key", "value", "who"),
    [
        ("parameters", SETTINGS, "Stable Diffusion web UIs"),
        ("prompt", '{"3": {"class_type": "KSampler"}}', "ComfyUI"),
        ("workflow", '{"nodes": []}', "ComfyUI"),
        ("invokeai_metadata", "{}", "InvokeAI"),
        ("Software", "NovelAI", "a generator of images"),
        ("Software", "Adobe Photoshop 25.0", "an editing program"),
    ],
)
def test_texts_of_generators_in_png(key: str, value: str, who: str) -> None:
    tag = tags_of(png(**{key: value}))[f"PNG {key}"]
    assert who in tag.meaning
    assert tag.value == " ".join(value.split())


def test_settings_in_a_comment_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + SETTINGS.encode("utf-16-be")
    tag = tags_of(encode(draw(), "JPEG", exif=exif.tobytes()))["EXIF UserComment"]
    assert tag.value.startswith("a face, portrait Steps: 20")
    assert "generator of images" in tag.meaning


def test_settings_behind_a_long_prompt_are_heard() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + ("a long prompt, " * 40 + SETTINGS).encode()
    tag = tags_of(encode(draw(), "JPEG", exif=exif.tobytes()))["EXIF UserComment"]
    assert len(tag.value) == MOST_LETTERS
    assert "generator of images" in tag.meaning


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_cameras_and_programs_in_exif(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Canon", "GIMP 2.10"
    found = tags_of(encode(draw(), kind, exif=exif.tobytes()))
    assert (found["EXIF Make"].value, found["EXIF Make"].meaning) == ("Canon", "")
    assert found["EXIF Software"].meaning == "names an editing program"


@pytest.mark.parametrize(
    ("body", "name", "value", "meaning"),
    [
        (f'<a Iptc4xmpExt:DigitalSourceType="{GENERATED}"/>', "DigitalSourceType", GENERATED,
         "says that a generative model made it"),
        (f"<Iptc4xmpExt:DigitalSourceType>{GENERATED}</Iptc4xmpExt:DigitalSourceType>",
         "DigitalSourceType", GENERATED, "says that a generative model made it"),
        (f'<I:DigitalSourceType rdf:resource="{GENERATED}"/>', "DigitalSourceType", GENERATED,
         "says that a generative model made it"),
        ("<xmp:CreatorTool>Adobe &amp; Firefly</xmp:CreatorTool>", "CreatorTool",
         "Adobe & Firefly", "names a generator of images, video or faces"),
        ("<x stEvt:softwareAgent='Lightroom'/>", "softwareAgent", "Lightroom",
         "names an editing program"),
        ('<x photoshop:Credit="Made with Google AI"/>', "Credit", "Made with Google AI",
         "names a generator of images, video or faces"),
        ('<x dcterms:provenance="https://a.example/m"/>', "provenance", "https://a.example/m",
         "an address of content credentials, which was not asked"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_in_each_spelling(kind: str, body: str, name: str, value: str, meaning: str) -> None:
    options: dict[str, Any] = {"xmp": xmp(body)}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(body).decode())
        options = {"pnginfo": info}
    found = tags_of(encode(draw(), kind, **options))
    assert found[f"XMP {name}"] == Tag(f"XMP {name}", value, meaning)


def test_tags_of_a_video() -> None:
    found = make_tags(
        list_video_tags({"encoder": "Lavf61.7.100", "major_brand": "isom", "language": "und"}, "c")
    )
    assert [tag.name for tag in found] == ["c encoder", "c major_brand"]
    assert "writes files anew" in found[0].meaning


def test_a_plain_photo_says_nothing() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        assert tags_of(encode(draw(), kind)) == {}


def test_hostile_tags_are_bounded_and_printable() -> None:
    pairs = [
        (f"\x1b[2J{n}" + "n" * 5000, "\x00<script>\u202e".encode() * 1000) for n in range(9999)
    ]
    found = make_tags([*pairs, ("late", "never reached"), ("a", None), ("b", (object(), b"x"))])
    assert len(found) == MOST_TAGS
    for tag in found:
        assert len(tag.name) <= 60
        assert len(tag.value) <= MOST_LETTERS
        assert (tag.name + tag.value).isprintable()
    # What is telling stands first, wherever it came.
    mixed = make_tags([*((f"k{n}", "v") for n in range(99)), ("PNG parameters", "x")])
    assert mixed[0].name == "PNG parameters"


@pytest.mark.timeout(60)  # a pattern that tracks back takes hours
@pytest.mark.parametrize(
    "packet",
    [
        b"<a>" * 500_000,
        b"CreatorTool" * 200_000,
        b"CreatorTool=" + b" " * 2_000_000,
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + b"&b;" * 300_000,
        bytes(np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8)),
        b"rdf:resource" + b"\t" * 1_000_000 + b"='x'",
    ],
    ids=["deep", "names", "spaces", "entities", "junk", "tabs"],
)
def test_hostile_xmp_hangs_nobody(packet: bytes) -> None:
    image = draw()
    image.info["xmp"] = packet
    assert len(make_tags(list_image_tags(image))) <= MOST_TAGS


def test_damage_to_one_kind_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.open(io.BytesIO(png(parameters=SETTINGS)))
    image.load()
    image.info["exif"] = b"Exif\0\0MM\0*" + b"\xff" * 64
    image.info["xmp"] = xmp("<x xmp:CreatorTool='GIMP'/>")
    found = {tag.name for tag in make_tags(list_image_tags(image))}
    assert found >= {"PNG parameters", "XMP CreatorTool"}
