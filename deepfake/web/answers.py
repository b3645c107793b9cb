"""What is kept of an answer: the result in plain types, and the crops that the network saw.

Knows no queue and no page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deepfake.inference.aggregation import rank_people
from deepfake.inference.job import read_result
from deepfake.media.credentials import Credentials, CredentialState
from deepfake.media.discovery import display_name
from deepfake.media.inspection import FileFacts
from deepfake.media.provenance import Tag
from deepfake.records import Extraction, FaceScore, Result
from deepfake.storage import write_atomic

_CROPS, _FACTS, _SETTINGS = "crops", "facts", "scored_with"
_PNG = b"\x89PNG"


def keep_answer(
    folder: Path,
    result: Result,
    extraction: Extraction,
    facts: FileFacts,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Keep the crops of a file in its folder.

    Args:
        folder: Of the file.
        result: Its answer.
        extraction: What was scored.
        facts: What else is known of the file.
        settings: How it was scored, in plain types: a server that starts again may do otherwise.

    Returns:
        The answer in plain types.
    """
    crops = folder / _CROPS
    crops.mkdir(exist_ok=True)
    for crop in extraction.crops:
        suffix = ".png" if crop.encoded.startswith(_PNG) else ".jpg"
        name = f"{_crop_name(crop.frame_index, crop.face_index)}{suffix}"
        write_atomic(crops / name, crop.encoded)
    return asdict(result) | {_FACTS: asdict(facts), _SETTINGS: dict(settings)}


def load_answer(answer: dict[str, Any], name: str) -> Result:
    """The result that was kept.

    Args:
        answer: As ``keep_answer`` gave it.
        name: Of the file.
    """
    kept = {key: value for key, value in answer.items() if key not in (_FACTS, _SETTINGS)}
    return read_result(kept | {"path": name})


def load_settings(answer: dict[str, Any]) -> dict[str, Any]:
    """How it was scored; empty where that was not kept."""
    return dict(answer.get(_SETTINGS, {}))


def load_facts(answer: dict[str, Any]) -> FileFacts:
    """What else was kept of the file."""
    kept = dict(answer[_FACTS])
    kept["facts"] = tuple(map(tuple, kept["facts"]))
    kept["tags"] = tuple(Tag(**tag) for tag in kept["tags"])
    found = kept["credentials"]
    if found is not None:
        state, claims = CredentialState(found["state"]), tuple(map(tuple, found["claims"]))
        kept["credentials"] = Credentials(state, found["detail"], claims)
    return FileFacts(**kept)


def describe_result(result: Result) -> dict[str, Any]:
    """A result as the API gives it; what came from the file is safe to show."""
    shown = {
        "path": display_name(result.path),
        "reason": display_name(result.reason),
        "remarks": [display_name(remark) for remark in result.remarks],
    }
    return asdict(result) | shown


def describe_facts(facts: FileFacts) -> dict[str, Any]:
    """What a file says of itself, as the API gives it; hash and size stand beside it."""
    found = facts.credentials
    claims = [] if found is None else [[*map(display_name, claim)] for claim in found.claims]
    return {
        "container": [[*map(display_name, pair)] for pair in facts.facts],
        "tags": [
            {"name": display_name(tag.name), "value": display_name(tag.value)}
            | {"meaning": tag.meaning}
            for tag in facts.tags
        ],
        "credentials": None
        if found is None
        else {"state": found.state.value, "detail": display_name(found.detail), "claims": claims},
        "problem": display_name(facts.problem),
    }


def find_crop(folder: Path, frame_index: int, face_index: int) -> Path | None:
    """Where the crop of a face is kept."""
    name = _crop_name(frame_index, face_index)
    paths = (folder / _CROPS / f"{name}{suffix}" for suffix in (".png", ".jpg"))
    return next((path for path in paths if path.is_file()), None)


def list_crops(folder: Path) -> Iterator[Path]:
    """The kept crops of a file, by frame and face."""
    return iter(sorted((folder / _CROPS).glob("*-*.*")))


def explanation_path(folder: Path) -> Path:
    """Where the page of an explanation is kept."""
    return folder / "explanation.html"


def deciding_face(result: Result) -> FaceScore | None:
    """The most suspicious face of the person who decides; the thumbnail shows it."""
    decides = next(iter(rank_people(result)), None)
    if decides is None:
        return None
    place = (decides.frame_index, decides.face_index)
    return next((f for f in result.faces if (f.frame_index, f.face_index) == place), None)


def _crop_name(frame_index: int, face_index: int) -> str:
    return f"{frame_index:09d}-{face_index:03d}"
