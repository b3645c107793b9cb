"""The evidence of files as a zip: tables, pages, crops, frames, hashes, settings.

The uploads themselves are not in it, their SHA-256 is: whoever has the file can compare.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from deepfake import __version__
from deepfake.evaluation.job import describe_origin
from deepfake.inference.formats import encode_table
from deepfake.inference.results import Level
from deepfake.media.discovery import display_name
from deepfake.records import Result
from deepfake.reports.prediction_page import digest_scores, format_prediction_report
from deepfake.tables import format_table
from deepfake.web.answers import (
    describe_result,
    explanation_path,
    find_crop,
    list_crops,
    load_answer,
    load_facts,
    load_settings,
)
from deepfake.web.engine import Model, describe_provenance
from deepfake.web.frames import list_frames
from deepfake.web.queue import StoredFile
from deepfake.web.store import Store

_FILE_COLUMNS = ("path", "sha256", "bytes", "model", "state", "error", "received_utc", "ended_utc")
_TEXT_COLUMNS = ("path", "model", "error")  # what strangers may have chosen
_TABLES = (".csv", ".parquet") if find_spec("pyarrow") else (".csv",)
_LEVELS: dict[Level, str] = {"file": "scores", "face": "faces"}
_README = """\
report.html      the scores, for people (one page a model)
scores.csv       a row a file; faces.csv a row a face; results.json both, for programs; the
                 tables as .parquet, too, where the server has pyarrow
files.csv        what was handed in: name, SHA-256, size, times
settings.json    model, recipe, versions: everything that a score depends on
NNN-NAME/        of each file: the crops that the network saw, the frames that they are from, and
                 explanation.html where it was asked for
SHA256SUMS       of all these files; check with: sha256sum --check SHA256SUMS
The files themselves are not in here; their SHA-256 is in files.csv.
"""


def pack_evidence(files: Sequence[StoredFile], store: Store, models: Mapping[str, Model]) -> Path:
    """Write the evidence of files that have ended.

    Args:
        files: In order.
        store: Has their folders.
        models: That they were scored with.

    Returns:
        A zip in the private folder; whoever asked removes it.
    """
    handle, name = tempfile.mkstemp(suffix=".zip", dir=store.incoming)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened, ZipFile(opened, "w", ZIP_DEFLATED) as archive:
            sums = []
            for place, data in _iter_parts(files, store, models):
                stored = ZIP_STORED if place.endswith((".jpg", ".png")) else ZIP_DEFLATED
                archive.writestr(place, data, stored)
                sums.append(f"{hashlib.sha256(data).hexdigest()}  {place}\n")
            archive.writestr("SHA256SUMS", "".join(sums))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _iter_parts(
    files: Sequence[StoredFile], store: Store, models: Mapping[str, Model]
) -> Iterator[tuple[str, bytes]]:
    results = [
        (file, load_answer(file.answer, file.name)) for file in files if file.answer is not None
    ]
    answers = [result for _, result in results]
    yield "README.txt", _README.encode()
    used = {key: models[key] for key in dict.fromkeys(f.model for f in files) if key in models}
    settings = _describe_settings(used, files)
    for suffix in _TABLES:
        for level, name in _LEVELS.items():
            parts = encode_table(Path(f"{name}{suffix}"), lambda: answers, settings, level)
            yield f"{name}{suffix}", b"".join(parts)
    described = [
        describe_result(result)
        | {"sha256": file.sha256, "model": file.model}
        | {"scored_with": load_settings(file.answer or {})}
        for file, result in results
    ]
    yield "results.json", _to_json(described)
    yield "files.csv", format_table(_FILE_COLUMNS, map(_describe, files), _TEXT_COLUMNS).encode()
    yield "settings.json", _to_json(settings)
    for key, model in used.items():
        name = "report.html" if len(used) == 1 else f"report-{key}.html"
        of_model = [item for item in results if item[0].model == key]
        if of_model:
            yield name, _report(model, of_model, store)
    for number, file in enumerate(files, start=1):
        folder = store.folder_of(file.id)
        place = f"{number:03d}-{_safe(file.name)}"
        for crop in list_crops(folder):
            yield f"{place}/crops/{crop.name}", crop.read_bytes()
        for frame in list_frames(folder).values():
            yield f"{place}/frames/{frame.path.name}", frame.path.read_bytes()
        if explanation_path(folder).is_file():
            yield f"{place}/explanation.html", explanation_path(folder).read_bytes()


def _report(model: Model, results: Sequence[tuple[StoredFile, Result]], store: Store) -> bytes:
    digest = digest_scores(result for _, result in results)
    thumbnails, facts = {}, {}
    for place, (file, result) in enumerate(results):
        assert file.answer is not None
        facts[place] = load_facts(file.answer)
        thumbnails[place] = _list_thumbnails(result, store.folder_of(file.id))
    origin = describe_provenance(model, [file for file, _ in results])
    limits = model.predictor.judge.limits
    return format_prediction_report(digest, thumbnails, origin, limits, facts).encode()


def _list_thumbnails(result: Result, folder: Path) -> dict[int, bytes]:
    """The crop of the most suspicious face of each person."""
    paths = {
        one.person: find_crop(folder, one.frame_index, one.face_index) for one in result.people
    }
    return {person: path.read_bytes() for person, path in paths.items() if path is not None}


def _describe_settings(models: Mapping[str, Model], files: Sequence[StoredFile]) -> dict[str, Any]:
    """Of each model, and how it scored: a server that starts again may do otherwise."""
    used: dict[str, list[dict[str, Any]]] = {key: [] for key in models}
    for file in files:
        settings = load_settings(file.answer or {})
        if file.model in used and settings and settings not in used[file.model]:
            used[file.model].append(settings)
    return {
        "deepfake": __version__,
        "packed_utc": _utc(datetime.now(UTC).timestamp()),
        "models": {
            key: {
                "name": model.name,
                "about": model.sentence,
                "scored_with": used[key],
                "origin": describe_origin(model.predictor.checkpoint, "deepfake serve"),
            }
            for key, model in models.items()
        },
    }


def _describe(file: StoredFile) -> tuple[object, ...]:
    ended = "" if file.ended is None else _utc(file.ended)
    times = (_utc(file.created), ended)
    name, error = display_name(file.name), display_name(file.error)
    return (name, file.sha256, file.size, file.model, file.state.value, error, *times)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _to_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _safe(name: str) -> str:
    """A name of a client as a folder of an archive that anybody may unpack anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:60] or "file"
