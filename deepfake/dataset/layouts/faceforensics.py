"""FaceForensics++ and DeepFakeDetection, which comes in the same tree.

::

    original_sequences/youtube/{raw,c0,c23,c40}/videos/000.mp4
    original_sequences/actors/c23/videos/01__exit_phone_room.mp4
    manipulated_sequences/{Deepfakes,Face2Face,FaceSwap,NeuralTextures,FaceShifter,...}
        .../c23/videos/000_003.mp4                    target 000 wears the face of source 003
    manipulated_sequences/DeepFakeDetection
        .../c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4
    train.json, val.json, test.json                   or in splits/: lists of pairs of ids

Frames in folders (``images/000_003/0000.png``) do as well. All compression levels and methods of a
video share its group; an original is the one of the same compression. ``masks/`` and ``models/``
are no photos of faces.

References:
    Roessler et al., "FaceForensics++: Learning to Detect Manipulated Facial Images", ICCV 2019;
    ondyari/FaceForensics, ``dataset/README.md`` (folders, ``<target>_<source>`` and ``<target
    actor>_<source actor>__<sequence>__<experiment>``) and ``dataset/splits/*.json``; its issues 18
    (what the pairs mean) and 63 (DeepFakeDetection has no official split).

Knows no other layout.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepfake.dataset.layouts.facts import (
    Fact,
    Layout,
    Reading,
    Tree,
    get_clip_name,
    get_folders,
    get_frame_name,
    get_top,
    has_lists,
    read_json,
)
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.records import Source

SPLIT_FILES = {"train": "train.json", "validation": "val.json", "test": "test.json"}
_ORIGIN = "dataset/splits/ of the repository ondyari/FaceForensics"
_HALVES = ("original_sequences", "manipulated_sequences")
_DFD = ("actors", "deepfakedetection")
_COMPRESSIONS = {"raw": "raw", "c0": "raw", "c23": "c23", "c40": "c40"}
_NO_FACES = ("masks", "models", "downloaded_videos")
_YOUTUBE = re.compile(r"\d{3,4}")
_SWAP = re.compile(r"(\d{3,4})_(\d{3,4})")
_ACTOR = re.compile(r"(\d\d)__(.+)")
_ACTOR_SWAP = re.compile(r"(\d\d)_(\d\d)__(.+)__[A-Za-z0-9]+")
# How DeepFakeDetection is packed elsewhere, without its usual folders and in one compression.
_PACKED = {
    "dfd_original sequences": ("original_sequences", "actors", "c23"),
    "dfd_original_sequences": ("original_sequences", "actors", "c23"),
    "dfd_manipulated_sequences": ("manipulated_sequences", "DeepFakeDetection", "c23"),
}
_TOPS = frozenset({*_HALVES, *_PACKED, "downloaded_videos"})


def recognise(tree: Tree) -> bool:
    """Whether anything besides DeepFakeDetection lies in the two folders of sequences."""
    if any(get_top(source) == "manipulated_videos" for source in tree.sources):
        return False  # DeeperForensics beside the originals that it asks for
    places = [place for place in map(_place, tree.sources) if place is not None]
    return any(place[0] in _HALVES and place[1].lower() not in _DFD for place in places)


def recognise_dfd(tree: Tree) -> bool:
    """Whether the two folders of sequences hold DeepFakeDetection and nothing else."""
    return not recognise(tree) and any(_is_dfd(source) for source in tree.sources)


def read(tree: Tree) -> Reading:
    """Label FaceForensics++, with DeepFakeDetection if it is there.

    A video has the split that the pair files give its id; a fake has it only if both of its ids
    do, and is left out where they differ. DeepFakeDetection has no official split: beside the
    official ones its videos go to training, which leaves validation and test as the paper has
    them (the actors are in no YouTube video).

    Raises:
        UsageError: If a folder or name does not fit, a pair file is missing beside others or
            damaged, or an id is in none of them.
    """
    splits = _read_splits(tree.root)
    facts: dict[str, Fact] = {}
    left_out: Counter[str] = Counter()
    wrong: list[Source] = []
    unlisted: list[Source] = []
    for source in tree.sources:
        place = _place(source)
        if place is not None and place[2] in _NO_FACES:
            left_out[f"({place[2]})"] += 1
            continue
        fact = _read_source(source)
        if fact is None:
            wrong.append(source)
            continue
        if not splits:
            facts[source.id] = fact
        elif _is_dfd(source):
            facts[source.id] = replace(fact, split="train")
        else:
            found = {splits.get(name.removeprefix("youtube/")) for name in fact.identities}
            if None in found:
                unlisted.append(source)
            elif len(found) > 1:
                left_out["(fake across splits)"] += 1
            else:
                facts[source.id] = replace(fact, split=found.pop())
    LAYOUT.check(tree, wrong, "unknown folder, compression or name")
    LAYOUT.check(tree, unlisted, f"ids that are in none of {_name_files()}")
    return Reading(facts, left_out, tuple(_note(tree, splits)))


def read_dfd(tree: Tree) -> Reading:
    """Label DeepFakeDetection alone; FaceForensics++ beside it is left out.

    Raises:
        UsageError: If a folder or name does not fit.
    """
    facts: dict[str, Fact] = {}
    left_out: Counter[str] = Counter()
    wrong: list[Source] = []
    for source in tree.sources:
        place = _place(source)
        if place is None:
            wrong.append(source)
        elif place[2] in _NO_FACES:
            left_out[f"({place[2]})"] += 1
        elif not _is_dfd(source):
            left_out["(FaceForensics++)"] += 1
        elif (fact := _read_source(source)) is None:
            wrong.append(source)
        else:
            facts[source.id] = fact
    LAYOUT_DFD.check(tree, wrong, "unknown folder, compression or name")
    note = (
        "DeepFakeDetection has no official split; its 28 actors swap faces in all directions, so"
        " that few groups can be told apart: use it to test, or with other data"
    )
    return Reading(facts, left_out, (note,))


def _place(source: Source) -> tuple[str, str, str] | None:
    """Half, set and compression (or ``masks``) of a source; ``None`` if it lies elsewhere."""
    folders = get_folders(source)
    first = get_top(source)
    if first in _PACKED:
        return _PACKED[first]
    if first == "downloaded_videos":
        return (first, "", first)
    if first in _HALVES and len(folders) >= 3:
        return (first, folders[1], folders[2].lower())
    return None


def _is_dfd(source: Source) -> bool:
    place = _place(source)
    return place is not None and place[1].lower() in _DFD


def _read_source(source: Source) -> Fact | None:
    place = _place(source)
    compression = _COMPRESSIONS.get(place[2]) if place else None
    if place is None or compression is None:
        return None
    half, method, _ = place
    kind = method.lower()
    clip, frame = get_clip_name(source), get_frame_name(source)

    def key(original: str) -> tuple[str, ...]:
        # Across compressions, a pair would differ in more than the forgery.
        return (compression, original, frame)

    if half == "original_sequences":
        pattern, prefix = (_ACTOR, "dfd") if kind == "actors" else (_YOUTUBE, "youtube")
        found = pattern.fullmatch(clip) if kind in ("actors", "youtube") else None
        if found is None:
            return None
        return Fact(0, identities=(f"{prefix}/{clip.split('__')[0]}",), key=key(clip))
    if kind == "deepfakedetection":
        found = _ACTOR_SWAP.fullmatch(clip)
        return found and _make_fake(method, "dfd", found, key(f"{found[1]}__{found[3]}"))
    found = _SWAP.fullmatch(clip)
    return found and _make_fake(method, "youtube", found, key(found[1]))


def _make_fake(method: str, prefix: str, names: re.Match[str], original: tuple[str, ...]) -> Fact:
    pair = (f"{prefix}/{names[1]}", f"{prefix}/{names[2]}")
    return Fact(1, method=method, identities=pair, original=original)


def _note(tree: Tree, splits: dict[str, str]) -> list[str]:
    has_dfd = any(_is_dfd(source) for source in tree.sources)
    if not splits:
        return [
            f"no official split: {_name_files()} are neither in {tree.root} nor in its splits/;"
            " training will divide the groups (the files are in the data set's repository)"
        ]
    if has_dfd:
        return ["DeepFakeDetection has no official split: its videos go to train"]
    return []


def _read_splits(root: Path) -> dict[str, str]:
    """Split of every id, empty if there are no pair files."""
    for folder in (root, root / "splits"):
        if has_lists(folder, SPLIT_FILES.values(), _ORIGIN):
            break
    else:
        return {}
    splits: dict[str, str] = {}
    for split, name in SPLIT_FILES.items():
        for pair in _read_pairs(folder / name):
            for identity in pair:
                if splits.setdefault(identity, split) != split:
                    raise UsageError(
                        f"{folder / name}: id {display_name(identity)!r} is in {splits[identity]},"
                        " too"
                    )
    if not splits:
        raise UsageError(f"{folder}: {_name_files()} hold no pair of ids")
    return splits


def _read_pairs(path: Path) -> list[Sequence[str]]:
    pairs = read_json(path)
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise UsageError(f'{path}: expected a list of pairs of ids, such as [["953", "974"], ...]')
    return pairs


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)
    )


def _name_files() -> str:
    *first, last = SPLIT_FILES.values()
    return f"{', '.join(first)} and {last}"


LAYOUT = Layout(
    "faceforensics",
    "original_sequences/{youtube,actors}/{raw,c0,c23,c40}/videos/000.mp4 and"
    " manipulated_sequences/METHOD/{raw,c0,c23,c40}/videos/000_003.mp4",
    _TOPS,
    recognise,
    read,
)
LAYOUT_DFD = Layout(
    "dfd",
    "original_sequences/actors/{raw,c0,c23,c40}/videos/01__SCENE.mp4 and"
    " manipulated_sequences/DeepFakeDetection/{raw,c0,c23,c40}/videos/01_02__SCENE__ID.mp4",
    _TOPS,
    recognise_dfd,
    read_dfd,
)
