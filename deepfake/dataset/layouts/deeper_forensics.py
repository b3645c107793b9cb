"""DeeperForensics-1.0.

::

    manipulated_videos/end_to_end/000_M101.mp4            target video 000, face of actor M101
    manipulated_videos/end_to_end_level_1/000_M101.mp4    the same, distorted
    lists/splits/{train,val,test}.txt                     names of manipulated videos
    target_videos/000.mp4                                 or original_sequences/youtube/c23/videos/
    source_videos/M101/...                                NOT the real part

**The real part is not in the data set**: it is the 1,000 originals of FaceForensics++ at c23. Put
them where shown. The actors' own videos, ``source_videos/``, were recorded in a studio under nine
lamps; a detector trained on them as real learns the studio, and the authors warn against it. They
are left out. All distortions of a video share its group, which is its actor and all their targets.

References:
    Jiang et al., "DeeperForensics-1.0", CVPR 2020; EndlessSora/DeeperForensics-1.0,
    ``dataset/README.md`` (structure, "Target videos", "Lists").

Knows no other layout.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from deepfake.dataset.layouts.facts import Fact, Layout, Place, Reading, Tree, has_lists
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name

SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
_ORIGIN = "lists/splits/ of the data set"
_FAKE = re.compile(r"(\d{3})_([MW]\d{3})")
_REAL = re.compile(r"\d{3}")
_TARGETS = (["target_videos"], ["original_sequences", "youtube", "c23"])


def recognise(tree: Tree) -> bool:
    """Whether the folder of manipulated videos is at the top."""
    return any(place.top == "manipulated_videos" for place in tree.places)


def read(tree: Tree) -> Reading:
    """Label DeeperForensics; a real video has the split of the fakes that were made of it.

    Raises:
        UsageError: If a folder or name does not fit, a list is missing beside others or damaged,
            or a video is in none of them.
    """
    listed = _read_lists(tree)
    target_splits = {name.split("_")[0]: split for name, split in listed.items()}

    def tell(place: Place) -> Fact | str:
        if place.top == "source_videos":
            return "(source_videos)"
        names = _FAKE.fullmatch(place.clip)
        if place.top == "manipulated_videos" and len(place.folders) > 1 and names:
            fact = Fact(
                1,
                method=place.folders[1],
                identities=(f"youtube/{names[1]}", f"actor/{names[2]}"),
                split=listed.get(place.clip),
                original=(names[1], place.frame),
            )
        elif _is_target(place.lower) and _REAL.fullmatch(place.clip):
            fact = Fact(
                0,
                identities=(f"youtube/{place.clip}",),
                split=target_splits.get(place.clip),
                key=(place.clip, place.frame),
            )
        else:
            return "unknown folder or name"
        return fact if fact.split or not listed else "in none of lists/splits/*.txt"

    facts, left_out = LAYOUT.sort(tree, tell)
    return Reading(facts, left_out, tuple(_note(facts, listed)))


def _is_target(folders: list[str]) -> bool:
    return any(folders[: len(start)] == start for start in _TARGETS)


def _note(facts: dict[str, Fact], listed: dict[str, str]) -> list[str]:
    notes = []
    if all(fact.label for fact in facts.values()):
        notes.append(
            "no real videos: they are the originals of FaceForensics++ (c23); put them in"
            " target_videos/ (source_videos/ is not the real part)"
        )
    if not listed:
        notes.append(
            "no official split: there is no lists/splits/train.txt; training will divide the groups"
        )
    return notes


def _read_lists(tree: Tree) -> dict[str, str]:
    """Split of every manipulated video, empty if there are no lists."""
    folder = tree.root / "lists" / "splits"
    if not has_lists(folder, SPLIT_FILES.values(), _ORIGIN):
        return {}
    listed: dict[str, str] = {}
    for split, name in SPLIT_FILES.items():
        for number, line in tree.read_lines(folder / name):
            clip = PurePosixPath(line).stem
            if not _FAKE.fullmatch(clip):
                raise UsageError(
                    f"{folder / name}:{number}: {display_name(line)!r}; expected names such as"
                    " '000_M101.mp4'"
                )
            if listed.setdefault(clip, split) != split:
                raise UsageError(
                    f"{folder / name}:{number}: {clip!r} is in the list of {listed[clip]}, too"
                )
    return listed


LAYOUT = Layout(
    "deeper-forensics",
    "manipulated_videos/VARIANT/000_M101.mp4 and, for the real part, target_videos/000.mp4",
    frozenset({"manipulated_videos", "source_videos", *(start[0] for start in _TARGETS)}),
    recognise,
    read,
)
