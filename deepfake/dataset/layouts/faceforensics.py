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
are no photos of faces; ``masks/videos/000_003.mp4`` is of the fake of that name.

References:
    Roessler et al., "FaceForensics++: Learning to Detect Manipulated Facial Images", ICCV 2019;
    ondyari/FaceForensics, ``dataset/README.md`` (folders, ``<target>_<source>`` and ``<target
    actor>_<source actor>__<sequence>__<experiment>``) and ``dataset/splits/*.json``; its issues 18
    (what the pairs mean) and 63 (DeepFakeDetection has no official split).

Knows no other layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepfake.dataset.layouts.facts import Fact, Layout, Place, Reading, Tree, has_lists, read_json
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name

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
    if any(place.top == "manipulated_videos" for place in tree.places):
        return False  # DeeperForensics beside the originals that it asks for
    branches = [_find_branch(place) for place in tree.places]
    return any(branch[0] in _HALVES and branch[1].lower() not in _DFD for branch in branches)


def recognise_dfd(tree: Tree) -> bool:
    """Whether the two folders of sequences hold DeepFakeDetection and nothing else."""
    return not recognise(tree) and any(map(_is_dfd, tree.places))


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

    def tell(place: Place) -> Fact | str:
        fact = _tell(place)
        if isinstance(fact, str) or not splits:
            return fact
        if _is_dfd(place):
            return replace(fact, split="train")
        found = {splits.get(name.removeprefix("youtube/")) for name in fact.identities}
        if None in found:
            return f"ids that are in none of {_name_files()}"
        return replace(fact, split=found.pop()) if len(found) == 1 else "(fake across splits)"

    facts, left_out = LAYOUT.sort(tree, tell)
    return Reading(facts, left_out, tuple(_note(tree, splits)))


def read_dfd(tree: Tree) -> Reading:
    """Label DeepFakeDetection alone; FaceForensics++ beside it is left out.

    Raises:
        UsageError: If a folder or name does not fit.
    """

    def tell(place: Place) -> Fact | str:
        fact = _tell(place)
        return fact if isinstance(fact, str) or _is_dfd(place) else "(FaceForensics++)"

    facts, left_out = LAYOUT_DFD.sort(tree, tell)
    note = (
        "DeepFakeDetection has no official split; its 28 actors swap faces in all directions, so"
        " that few groups can be told apart: use it to test, or with other data"
    )
    return Reading(facts, left_out, (note,))


def _find_branch(place: Place) -> tuple[str, str, str]:
    """Half, set and compression (or ``masks``) of a source; empty if it lies elsewhere."""
    if place.top in _PACKED:
        return _PACKED[place.top]
    if place.top == "downloaded_videos":
        return (place.top, "", place.top)
    if place.top in _HALVES and len(place.folders) >= 3:
        return (place.top, place.folders[1], place.lower[2])
    return ("", "", "")


def _is_dfd(place: Place) -> bool:
    return _find_branch(place)[1].lower() in _DFD


def _tell(place: Place) -> Fact | str:
    """What a source is by its place and name, its split aside."""
    half, method, folder = _find_branch(place)
    if folder in _NO_FACES:
        return f"({folder})"
    # The original is the one of the same compression: across them, a pair would differ in more
    # than the forgery.
    compression, kind = _COMPRESSIONS.get(folder), method.lower()
    fact = None
    if compression is None:
        pass
    elif half == "original_sequences" and kind in ("actors", "youtube"):
        pattern, prefix = (_ACTOR, "dfd") if kind == "actors" else (_YOUTUBE, "youtube")
        if pattern.fullmatch(place.clip):
            who = f"{prefix}/{place.clip.split('__')[0]}"
            fact = Fact(0, identities=(who,), key=(compression, place.clip, place.frame))
    elif half == "manipulated_sequences":
        is_dfd = kind == "deepfakedetection"
        found = (_ACTOR_SWAP if is_dfd else _SWAP).fullmatch(place.clip)
        if found:
            prefix = "dfd" if is_dfd else "youtube"
            original = f"{found[1]}__{found[3]}" if is_dfd else found[1]
            fact = Fact(
                1,
                method=method,
                identities=(f"{prefix}/{found[1]}", f"{prefix}/{found[2]}"),
                original=(compression, original, place.frame),
                mask="/".join([*place.folders[:2], "masks", *place.folders[3:], place.stem]),
            )
    return fact or "unknown folder, compression or name"


def _note(tree: Tree, splits: dict[str, str]) -> list[str]:
    if not splits:
        return [
            f"no official split: {_name_files()} are neither in {tree.root} nor in its splits/;"
            " training will divide the groups (the files are in the data set's repository)"
        ]
    if any(map(_is_dfd, tree.places)):
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
