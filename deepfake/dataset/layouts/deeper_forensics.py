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
from collections import Counter
from pathlib import PurePosixPath

from deepfake.dataset.layouts.facts import (
    Fact,
    Layout,
    Reading,
    Tree,
    get_clip_name,
    get_folders,
    get_frame_name,
    get_lower_folders,
    get_top,
    has_lists,
)
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name
from deepfake.records import Source

SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
_ORIGIN = "lists/splits/ of the data set"
_FAKE = re.compile(r"(\d{3})_([MW]\d{3})")
_REAL = re.compile(r"\d{3}")
_TARGETS = (["target_videos"], ["original_sequences", "youtube", "c23"])


def recognise(tree: Tree) -> bool:
    """Whether the folder of manipulated videos is at the top."""
    return any(get_top(source) == "manipulated_videos" for source in tree.sources)


def read(tree: Tree) -> Reading:
    """Label DeeperForensics; a real video has the split of the fakes that were made of it.

    Raises:
        UsageError: If a folder or name does not fit, a list is missing beside others or damaged,
            or a video is in none of them.
    """
    listed = _read_lists(tree)
    target_splits = {name.split("_")[0]: split for name, split in listed.items()}
    facts: dict[str, Fact] = {}
    left_out: Counter[str] = Counter()
    wrong: list[Source] = []
    unlisted: list[Source] = []
    for source in tree.sources:
        folders, clip = get_lower_folders(source), get_clip_name(source)
        frame = get_frame_name(source)
        if get_top(source) == "source_videos":
            left_out["(source_videos)"] += 1
            continue
        names = _FAKE.fullmatch(clip)
        if get_top(source) == "manipulated_videos" and len(folders) > 1 and names:
            split = listed.get(clip)
            fact = Fact(
                1,
                method=get_folders(source)[1],
                identities=(f"youtube/{names[1]}", f"actor/{names[2]}"),
                split=split,
                original=(names[1], frame),
            )
        elif _is_target(folders) and _REAL.fullmatch(clip):
            split = target_splits.get(clip)
            fact = Fact(0, identities=(f"youtube/{clip}",), split=split, key=(clip, frame))
        else:
            wrong.append(source)
            continue
        if listed and split is None:
            unlisted.append(source)
        facts[source.id] = fact
    LAYOUT.check(tree, wrong, "unknown folder or name")
    LAYOUT.check(tree, unlisted, "in none of lists/splits/*.txt")
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
