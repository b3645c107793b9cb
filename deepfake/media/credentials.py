"""Content credentials (C2PA): what a file's signed manifest claims, and whether it holds.

The manifest is read from the file alone: nothing is fetched from any address that it names, and no
list of trusted signers is asked. A claim says what somebody signed, not what is true. Knows no
score.

References:
    Coalition for Content Provenance and Authenticity, "Content Credentials: C2PA Technical
    Specification", 2.2, https://c2pa.org/specifications/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, BinaryIO

from deepfake.errors import one_line

MOST_CLAIMS, MOST_LETTERS = 24, 300
"""Of what a file claims, no more is shown."""

# The UUID of a C2PA manifest store behind the name of its JUMBF box: in every container the same.
_MARKER = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
_CHUNK_BYTES = 2**20
_MOST_JSON = 2**24
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
}


class CredentialState(StrEnum):
    """What became of the content credentials of a file."""

    VALID = "valid"
    INVALID = "invalid"
    UNREADABLE = "unreadable"
    UNCHECKED = "not checked"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The content credentials that a file carries.

    Args:
        state: ``valid``: signature and content match; ``invalid``: they do not; ``unreadable``;
            ``not checked``: the extra is not installed, or does not read such a file;
            ``elsewhere``: the file only names an address.
        detail: Why; may be empty.
        claims: What the manifest says, by name.
    """

    state: CredentialState
    detail: str = ""
    claims: tuple[tuple[str, str], ...] = ()


def has_credentials(file: BinaryIO) -> bool:
    """Whether a file holds a C2PA manifest store anywhere; reads all of it."""
    file.seek(0)
    rest = b""
    while chunk := file.read(_CHUNK_BYTES):
        if _MARKER in rest + chunk:
            return True
        rest = chunk[1 - len(_MARKER) :]
    return False


def read_credentials(file: BinaryIO, media_type: str | None) -> Credentials:
    """Read and check the manifest of a file that has one.

    Args:
        file: Of which ``has_credentials`` holds.
        media_type: As ``image/jpeg``; ``None`` where nothing is known that could be read.
    """
    try:
        import c2pa
    except (ImportError, OSError, RuntimeError):  # not there, or not for this machine
        return Credentials(
            CredentialState.UNCHECKED, "checking needs an extra package: pip install deepfake[c2pa]"
        )
    if media_type not in c2pa.Reader.get_supported_mime_types():
        return Credentials(CredentialState.UNCHECKED, "no reader for this kind of file")
    file.seek(0)
    try:
        # Both are closed whatever happens: they hold memory of another language.
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Reader(media_type, file, context=context) as reader,
        ):
            text = reader.json()
            if len(text) > _MOST_JSON:
                return Credentials(CredentialState.UNREADABLE, f"{len(text):,} letters of claims")
            return _summarise(json.loads(text))
    except (c2pa.C2paError, OSError, ValueError, RuntimeError, MemoryError) as error:
        detail = one_line(str(error)) or type(error).__name__
        return Credentials(CredentialState.UNREADABLE, detail)


def _summarise(store: Any) -> Credentials:
    store = _as(dict, store)
    manifests = _as(dict, store.get("manifests"))
    manifest = _as(dict, manifests.get(store.get("active_manifest")))
    failures = list(dict.fromkeys(_list_failures(store)))
    valid = store.get("validation_state") in ("Valid", "Trusted") and bool(manifest)
    claims = [
        (name, one_line(str(value)[: 4 * MOST_LETTERS], MOST_LETTERS))
        for name, value in dict.fromkeys(_list_claims(manifest, len(manifests)))
    ]
    return Credentials(
        CredentialState.VALID if valid else CredentialState.INVALID,
        one_line("; ".join(failures[:8]), MOST_LETTERS),
        tuple(claims[:MOST_CLAIMS]),
    )


def _list_failures(store: dict[str, Any]) -> Iterator[str]:
    for status in _as(list, store.get("validation_status")):
        status = _as(dict, status)
        code, why = (one_line(str(status.get(key, "")), 120) for key in ("code", "explanation"))
        yield f"{code} ({why})" if why else code


def _list_claims(manifest: dict[str, Any], n_manifests: int) -> Iterator[tuple[str, str]]:
    signature = _as(dict, manifest.get("signature_info"))
    signer = [signature.get("common_name"), signature.get("issuer")]
    yield from _named("signed by", ", ".join(str(part) for part in signer if part))
    yield from _named("signed on", signature.get("time"))
    for generator in _as(list, manifest.get("claim_generator_info")):
        generator = _as(dict, generator)
        name = f"{generator.get('name', '')} {generator.get('version', '')}".strip()
        yield from _named("made with", name)
    yield from _named("title", manifest.get("title"))
    for assertion in _as(list, manifest.get("assertions"))[:MOST_CLAIMS]:
        assertion = _as(dict, assertion)
        label, data = str(assertion.get("label")), _as(dict, assertion.get("data"))
        if not label.startswith("c2pa.actions"):
            yield from _named("assertion", label)
        for action in _as(list, data.get("actions"))[:MOST_CLAIMS]:
            action = _as(dict, action)
            agent = action.get("softwareAgent")
            agent = _as(dict, agent).get("name", "") if isinstance(agent, dict) else agent
            done = f"{action.get('action', '')}{f' with {agent}' if agent else ''}"
            yield from _named("action", done)
            source = str(action.get("digitalSourceType") or "")
            yield from _named("digital source type", source.rpartition("/")[2])
    for ingredient in _as(list, manifest.get("ingredients"))[:MOST_CLAIMS]:
        yield from _named("made from", _as(dict, ingredient).get("title") or "an unnamed file")
    if n_manifests > 1:
        yield "earlier manifests", str(n_manifests - 1)


def _named(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value:
        yield name, str(value)


def _as(kind: Any, value: Any) -> Any:
    """What a stranger's file may have put anywhere: the value, or an empty one of this kind."""
    return value if isinstance(value, kind) else kind()
