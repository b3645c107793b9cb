"""The Deepfake Detection Challenge.

::

    dfdc_train_part_0/metadata.json    {"a.mp4": {"label": "FAKE", "split": "train",
    dfdc_train_part_0/a.mp4                       "original": "b.mp4"}, "b.mp4": {...}}
    dfdc_train_part_1/...
    test/labels.csv, test/videos/a.mp4 filename,label with 1 = fake
    test/metadata.json                 {"a.mp4": {"is_fake": 1, ...}, ...}, instead or beside it

A fake and its original share a group. Which actor is in which original is published nowhere: two
originals may show one person, so ask ``deepfake doctor`` for near-duplicates. ``split`` is "train"
for every video of the training parts, which says nothing and is not taken for a split; ``is_fake``
stands in the test set only.

References:
    Dolhansky et al., "The DeepFake Detection Challenge (DFDC) Dataset", 2020;
    polimi-ispl/icpr2020dfdc, ``test/data/dfdc/dfdc_train_part_0/metadata.json`` (an original one);
    SCLBD/DeepfakeBench, ``preprocessing/rearrange.py`` (``labels.csv`` of the test set).

Knows no other layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from deepfake.dataset.layouts.facts import (
    LABEL_WORDS,
    SPLIT_FOLDERS,
    Fact,
    Layout,
    Place,
    Reading,
    Tree,
    read_json,
)
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.records import LABEL_NAMES
from deepfake.tables import parse_json, read_csv

METADATA, LABELS = "metadata.json", "labels.csv"
_LABELS = {"REAL": 0, "FAKE": 1}
_FLAGS = {"0": 0, "1": 1}
_PART = re.compile(r"dfdc_train_part_\d+")
_ENTRY = re.compile(r'"label"\s*:\s*"(REAL|FAKE)"|"is_fake"\s*:\s*[01]')
Entries = dict[str, dict[str, Any]]


def recognise(tree: Tree) -> bool:
    """Whether a folder of videos has the challenge's metadata in it or above it.

    ``labels.csv`` alone gives nothing away: elsewhere, 1 may mean real.
    """
    tables = _Tables(tree.root)
    found = {tables.find(place.folders) for place in tree.places}
    return any(path.name == METADATA and _is_metadata(path) for path in found if path is not None)


def _is_metadata(path: Path) -> bool:
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError:
        text = ""
    try:
        content = parse_json(text)
    except ValueError:
        # Cut short it is still the challenge's: not to be passed over, but refused by `read`.
        return bool(_ENTRY.search(text) or _PART.fullmatch(path.resolve().parent.name.lower()))
    return isinstance(content, dict) and any(
        isinstance(entry, dict) and _get_label(entry) is not None for entry in content.values()
    )


def read(tree: Tree) -> Reading:
    """Label the challenge's videos.

    Raises:
        UsageError: If a table is damaged or uses an unknown word, two tables of one folder
            contradict each other, or a video is in none.
    """
    tables = _Tables(tree.root)
    contents: dict[Path, Entries] = {}

    def tell(place: Place) -> Fact | str:
        path = tables.find(place.folders)
        if path is None:
            return f"no {METADATA} or {LABELS} in or above the folder"
        if path not in contents:
            contents[path] = _read_table(path)
        entry = contents[path].get(place.clip)
        if entry is None:
            return "not in the folder's table"
        original = entry["original"]
        return Fact(
            entry["label"],
            identities=(f"dfdc/{original or place.clip}",),
            split=entry["split"],
            key=(place.clip, place.frame),
            original=(original, place.frame) if original else (),
        )

    facts, _ = LAYOUT.sort(tree, tell)
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


def _read_table(path: Path) -> Entries:
    if path.name == LABELS:
        return _read_labels(path)
    entries = _read_metadata(path)
    beside = path.with_name(LABELS)
    # Beside a training part, such a table is somebody's own.
    if not beside.is_file() or any(entry["split"] == "train" for entry in entries.values()):
        return entries
    listed = _read_labels(beside)
    for clip in sorted(entries.keys() & listed.keys()):
        here, there = (LABEL_NAMES[table[clip]["label"]] for table in (entries, listed))
        if here != there:
            raise UsageError(
                f"{path}: {display_name(clip)!r} is {here}, and {there} in {LABELS} (1 = fake);"
                " remove the table that is wrong"
            )
    return listed | entries


def _get_label(entry: dict[str, Any]) -> int | None:
    """1 = fake, 0 = real, ``None`` if the entry does not say it, or says both."""
    found = {
        words.get(str(entry[key]))
        for key, words in (("label", _LABELS), ("is_fake", _FLAGS))
        if key in entry
    }
    return found.pop() if len(found) == 1 else None


def _read_metadata(path: Path) -> Entries:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected an object with an entry per video")
    entries = {}
    for name, entry in content.items():
        shown = f"{path}: {display_name(name)!r}"
        label = _get_label(entry) if isinstance(entry, dict) else None
        if label is None:
            raise UsageError(
                f'{shown} has {entry!r:.80}; expected "label": "REAL" or "FAKE", or in the test set'
                ' "is_fake": 0 or 1'
            )
        word = entry.get("split")
        if word is None and "is_fake" in entry:
            word = _split_of(path) or "test"
        if word is not None and (not isinstance(word, str) or word not in SPLIT_FOLDERS):
            raise UsageError(f"{shown} has split {word!r:.80}; expected {', '.join(SPLIT_FOLDERS)}")
        original = PurePosixPath(str(entry.get("original") or "")).stem
        entries[PurePosixPath(name).stem] = {
            "label": label,
            "split": SPLIT_FOLDERS[word] if word else None,
            "original": original if label else "",
        }
    return entries


def _read_labels(path: Path) -> Entries:
    split = _split_of(path)
    entries = {}
    for row in read_csv(path, ("filename", "label")):
        label = LABEL_WORDS.get(row["label"].strip().lower())
        if label is None:
            raise UsageError(f"{path}:{row.line}: label {row['label']!r}; expected 0 or 1 = fake")
        entries[PurePosixPath(row["filename"]).stem] = {
            "label": label,
            "split": split,
            "original": "",
        }
    return entries


def _split_of(path: Path) -> str | None:
    """Split that the folder of a table of the test set is named after."""
    return SPLIT_FOLDERS.get(path.resolve().parent.name.lower())


LAYOUT = Layout(
    "dfdc",
    "dfdc_train_part_N/a.mp4 with dfdc_train_part_N/metadata.json, or videos below a labels.csv"
    " with the columns filename,label",
    frozenset(),
    recognise,
    read,
)
