"""The Deepfake Detection Challenge.

::

    dfdc_train_part_0/metadata.json    {"a.mp4": {"label": "FAKE", "split": "train",
    dfdc_train_part_0/a.mp4                       "original": "b.mp4"}, "b.mp4": {...}}
    dfdc_train_part_1/...
    test/labels.csv, test/videos/a.mp4 filename,label with 1 = fake

A fake and its original share a group. Which actor is in which original is published nowhere: two
originals may show one person, so ask ``deepfake doctor`` for near-duplicates. ``split`` is "train"
for every video of the training parts, which says nothing and is not taken for a split.

References:
    Dolhansky et al., "The DeepFake Detection Challenge (DFDC) Dataset", 2020;
    polimi-ispl/icpr2020dfdc, ``test/data/dfdc/dfdc_train_part_0/metadata.json`` (an original one);
    SCLBD/DeepfakeBench, ``preprocessing/rearrange.py`` (``labels.csv`` of the test set).

Knows no other layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from deepfake.dataset.layouts.facts import (
    SPLIT_FOLDERS,
    Fact,
    Layout,
    Reading,
    Tree,
    get_clip_name,
    get_folders,
    get_frame_name,
)
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.media.tables import read_csv, read_text

METADATA, LABELS = "metadata.json", "labels.csv"
_LABELS = {"REAL": 0, "FAKE": 1}
_PART = re.compile(r"dfdc_train_part_\d+")
_ENTRY = re.compile(r'"label"\s*:\s*"(REAL|FAKE)"')
Entries = dict[str, dict[str, Any]]


def recognise(tree: Tree) -> bool:
    """Whether a folder of videos has the challenge's metadata in it or above it.

    ``labels.csv`` alone gives nothing away: elsewhere, 1 may mean real.
    """
    tables = _Tables(tree.root)
    found = {tables.find(get_folders(source)) for source in tree.sources}
    return any(path.name == METADATA and _is_metadata(path) for path in found if path is not None)


def _is_metadata(path: Path) -> bool:
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return False
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        # Cut short it is still the challenge's: not to be passed over, but refused by `read`.
        return bool(_ENTRY.search(text) or _PART.fullmatch(path.resolve().parent.name.lower()))
    return isinstance(content, dict) and any(
        isinstance(entry, dict) and entry.get("label") in _LABELS for entry in content.values()
    )


def read(tree: Tree) -> Reading:
    """Label the challenge's videos.

    Raises:
        UsageError: If a table is damaged or uses an unknown word, or a video is in none.
    """
    tables = _Tables(tree.root)
    contents: dict[Path, Entries] = {}
    facts: dict[str, Fact] = {}
    without, unlisted = [], []
    for source in tree.sources:
        path = tables.find(get_folders(source))
        if path is None:
            without.append(source)
            continue
        if path not in contents:
            contents[path] = _read_labels(path) if path.name == LABELS else _read_metadata(path)
        clip, frame = get_clip_name(source), get_frame_name(source)
        entry = contents[path].get(clip)
        if entry is None:
            unlisted.append(source)
            continue
        original = entry["original"]
        facts[source.id] = Fact(
            entry["label"],
            identities=(f"dfdc/{original or clip}",),
            split=entry["split"],
            key=(clip, frame),
            original=(original, frame) if original else (),
        )
    LAYOUT.check(tree, without, f"no {METADATA} or {LABELS} in or above the folder")
    LAYOUT.check(tree, unlisted, "not in the folder's table")
    if {fact.split for fact in facts.values()} == {"train"}:
        facts = {id: replace(fact, split=None) for id, fact in facts.items()}
        note = "no official split: every video is 'train'; training will divide the groups"
        return Reading(facts, notes=(note,))
    return Reading(facts)


class _Tables:
    """Finds the nearest table in or above a folder; looks into each folder once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, ...], Path | None] = {}

    def find(self, folders: Sequence[str]) -> Path | None:
        place = tuple(folders)
        if place not in self._known:
            own = [self._root.joinpath(*place, name) for name in (METADATA, LABELS)]
            found = next((path for path in own if path.is_file()), None)
            if found is None and place:
                found = self.find(place[:-1])
            self._known[place] = found
        return self._known[place]


def _read_metadata(path: Path) -> Entries:
    try:
        content = json.loads(read_text(path, "JSON file"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected an object with an entry per video")
    entries = {}
    for name, entry in content.items():
        shown = f"{path}: {display_name(name)!r}"
        if not isinstance(entry, dict) or entry.get("label") not in _LABELS:
            raise UsageError(f'{shown} has {entry!r:.80}; expected "label": "REAL" or "FAKE"')
        word = entry.get("split")
        if word is not None and word not in SPLIT_FOLDERS:
            raise UsageError(f"{shown} has split {word!r}; expected {', '.join(SPLIT_FOLDERS)}")
        original = PurePosixPath(str(entry.get("original") or "")).stem
        entries[PurePosixPath(name).stem] = {
            "label": _LABELS[entry["label"]],
            "split": SPLIT_FOLDERS.get(word) if word else None,
            "original": original if entry["label"] == "FAKE" else "",
        }
    return entries


def _read_labels(path: Path) -> Entries:
    folder = path.parent.name.lower()
    entries = {}
    for row in read_csv(path, ("filename", "label")):
        if row["label"] not in ("0", "1"):
            raise UsageError(f"{path}:{row.line}: label {row['label']!r}; expected 0 or 1 = fake")
        entries[PurePosixPath(row["filename"]).stem] = {
            "label": int(row["label"]),
            "split": SPLIT_FOLDERS.get(folder),
            "original": "",
        }
    return entries


LAYOUT = Layout(
    "dfdc",
    "dfdc_train_part_N/a.mp4 with dfdc_train_part_N/metadata.json, or videos below a labels.csv"
    " with the columns filename,label",
    frozenset(),
    recognise,
    read,
)
