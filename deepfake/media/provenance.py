"""What a file says of its own making: tags of cameras, editing programs, generators of images.

A tag is a claim that anybody can write, change or take away; none is evidence of anything by
itself. All of it is hostile: it is bounded, made printable, searched with patterns that look at
each letter a bounded number of times, and never parsed as XML. Knows no score.

References:
    IPTC, "Digital Source Type" (controlled vocabulary),
    https://cv.iptc.org/newscodes/digitalsourcetype/
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile, IptcImagePlugin

from deepfake.errors import one_line
from deepfake.media.pillow import DECODER_ERRORS

MOST_TAGS, MOST_LETTERS = 40, 300
"""Of what a file says, no more is shown."""
PROVENANCE_ADDRESS = "XMP provenance"
"""Name of the tag with the address of content credentials that lie elsewhere."""
_XMP_BYTES = 2**20

_EXIF_TAGS = {
    0x010F: "EXIF Make",
    0x0110: "EXIF Model",
    0x0131: "EXIF Software",
    0x000B: "EXIF ProcessingSoftware",
    0x0132: "EXIF DateTime",
    0x010E: "EXIF ImageDescription",
    0x013B: "EXIF Artist",
    0x8298: "EXIF Copyright",
}
_EXIF_IFD = 0x8769
_EXIF_IFD_TAGS = {0x9003: "EXIF DateTimeOriginal", 0x9286: "EXIF UserComment"}
_IPTC_PROGRAM, _IPTC_CREDIT = (2, 65), (2, 110)
_XMP_NAMES = (
    "CreatorTool", "softwareAgent", "DigitalSourceType", "AISystemUsed", "AIPromptInformation",
    "Credit", "provenance",
)  # fmt: skip
# As an attribute, as an element, or as the resource of an element.
_XMP = re.compile(
    rf"""\b({"|".join(_XMP_NAMES)})\s{{0,20}}"""
    r"""(?:=\s{0,20}["']|>\s{0,20}|rdf:resource\s{0,20}=\s{0,20}["'])([^<>"']{1,500})"""
)
_NOT_SHOWN = ("xml:com.adobe.xmp", "raw profile type")

_SOURCE_TYPES = {
    "trainedAlgorithmicMedia": "says that a generative model made it",
    "compositeWithTrainedAlgorithmicMedia": "says that a generative model made parts of it",
    "algorithmicMedia": "says that an algorithm made it",
    "compositeSynthetic": "says that it is a composite with synthetic parts",
    "composite": "says that it is a composite",
    "digitalArt": "says that a person drew it",
    "humanEdits": "says that a person edited it",
    "digitalCapture": "says that a camera took it",
    "computationalCapture": "says that a camera took it and computed it from several",
}
_KEYS = {
    "parameters": "settings of a generator of images (Stable Diffusion web UIs write this)",
    "prompt": "settings of a generator of images (ComfyUI writes this)",
    "workflow": "settings of a generator of images (ComfyUI writes this)",
    "invokeai_metadata": "settings of a generator of images (InvokeAI)",
    "sd-metadata": "settings of a generator of images (InvokeAI)",
    "dream": "settings of a generator of images (InvokeAI)",
    "aisystemused": "names a generative model",
    "aipromptinformation": "names a prompt to a generative model",
}
_GENERATORS = re.compile(
    r"stable.?diffusion|sampler:.{0,80}cfg.scale|comfyui|invokeai|novelai|midjourney|dall.?e\b"
    r"|firefly|\bimagen\b|gemini|google ai|\bsora\b|openai|\bflux\b|runway|\bpika\b|\bkling\b"
    r"|leonardo\.ai|ideogram|bing image creator|\bgrok\b|dreamstudio|synthesia|heygen|\bveo\b"
    r"|deepfacelab|facefusion|faceswap|\broop\b|reface|faceapp",
    re.IGNORECASE,
)
_EDITORS = re.compile(
    r"photoshop|lightroom|\bgimp\b|affinity|snapseed|facetune|picsart|canva|capcut|premiere"
    r"|after effects|davinci|final cut|imovie|photopea|paint\.net|meitu|beautyplus|remini"
    r"|pixelmator|luminar|topaz|vsco",
    re.IGNORECASE,
)
_REWRITERS = re.compile(
    r"\blav[fc]\d|ffmpeg|handbrake|imagemagick|graphicsmagick|libav|google inc|gd-jpeg"
    r"|instagram|whatsapp|telegram|facebook",
    re.IGNORECASE,
)

_OF_NO_MAKING = re.compile(r"language|minor_version|duration|number_of|bps|_statistics", re.I)


@dataclass(frozen=True, slots=True)
class Tag:
    """One thing that a file says of its making, printable and short.

    Args:
        name: Where it stands.
        value: What it says.
        meaning: What a person should know of such a value; empty where nothing is known.
    """

    name: str
    value: str
    meaning: str = ""


def make_tags(pairs: Iterable[tuple[str, object]]) -> tuple[Tag, ...]:
    """Bound and clean what a file says, and say what is known of it; those come first.

    Args:
        pairs: Name and value, as they come.
    """
    tags: dict[Tag, None] = {}
    for name, value in pairs:
        name, whole = one_line(name[:240], 60), one_line(_to_text(value), 8 * MOST_LETTERS)
        if text := one_line(whole, MOST_LETTERS):
            # A long prompt stands before what tells whose it is.
            tags[Tag(name, text, _find_meaning(name, whole))] = None
        if len(tags) == 10 * MOST_TAGS:
            break
    return tuple(sorted(tags, key=lambda tag: not tag.meaning)[:MOST_TAGS])


def list_image_tags(image: Image.Image) -> Iterator[tuple[str, object]]:
    """Name and value of what an opened photo says; damage to some of it hides no other.

    Args:
        image: Its header is read, or all of it.
    """
    for read in (_list_texts, _list_exif, _list_xmp, _list_iptc):
        try:
            yield from read(image)
        except DECODER_ERRORS:
            continue


def list_video_tags(metadata: Mapping[str, str], where: str) -> Iterator[tuple[str, object]]:
    """Name and value of what a container, or one of its streams, says.

    Args:
        metadata: Of PyAV.
        where: ``container`` or ``stream 0``.
    """
    for key, value in metadata.items():
        if not _OF_NO_MAKING.match(key):
            yield f"{where} {key}", value


def _list_texts(image: Image.Image) -> Iterator[tuple[str, object]]:
    texts: dict[str, object] = {}
    if image.format == "PNG":
        texts = {str(key): text for key, text in image.info.items() if isinstance(text, str)}
    elif image.info.get("comment"):
        texts = {"comment": image.info["comment"]}
    for key, value in texts.items():
        if not key.lower().startswith(_NOT_SHOWN):
            yield f"{image.format} {key}", value


def _list_exif(image: Image.Image) -> Iterator[tuple[str, object]]:
    exif = image.getexif()
    for tags, fields in ((_EXIF_TAGS, exif), (_EXIF_IFD_TAGS, exif.get_ifd(_EXIF_IFD))):
        yield from ((name, fields[number]) for number, name in tags.items() if number in fields)


def _list_xmp(image: Image.Image) -> Iterator[tuple[str, object]]:
    packet: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if not packet and image.format == "TIFF":
        packet = getattr(image, "tag_v2", {}).get(700, b"")
    text = packet[:_XMP_BYTES] if isinstance(packet, str) else _to_text(packet, _XMP_BYTES)
    for found in _XMP.finditer(text):
        yield f"XMP {found[1]}", html.unescape(found[2])


def _list_iptc(image: Image.Image) -> Iterator[tuple[str, object]]:
    if not isinstance(image, ImageFile.ImageFile):
        return
    records = IptcImagePlugin.getiptcinfo(image) or {}
    for number, name in ((_IPTC_PROGRAM, "IPTC program"), (_IPTC_CREDIT, "IPTC credit")):
        if number in records:
            yield name, records[number]


def _to_text(value: object, limit: int = 8 * MOST_LETTERS) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_to_text(item, limit // 8) for item in value[:8])
    if not isinstance(value, (bytes, bytearray)):
        return str(value)[:limit]
    start, rest = bytes(value[:8]), bytes(value[8 : limit + 8])
    # The first 8 bytes of a comment in EXIF may name its encoding.
    if start == b"UNICODE\0":
        return rest.decode("utf-16-be" if rest[:1] == b"\0" else "utf-16-le", "replace")
    if start in (b"ASCII\0\0\0", b"\0" * 8):
        return rest.decode("ascii", "replace")
    return bytes(value[:limit]).decode("utf-8", "replace")


def _find_meaning(name: str, value: str) -> str:
    key = name.rpartition(" ")[2].lower()
    if key == "digitalsourcetype":
        return _SOURCE_TYPES.get(value.rstrip("/").rpartition("/")[2], "")
    if name == PROVENANCE_ADDRESS:
        return "an address of content credentials, which was not asked"
    if key in _KEYS:
        return _KEYS[key]
    if _GENERATORS.search(value):
        return "names a generator of images, video or faces"
    if _EDITORS.search(value):
        return "names an editing program"
    if _REWRITERS.search(value):
        return "names a program or site that writes files anew: seldom a camera's original"
    return ""
