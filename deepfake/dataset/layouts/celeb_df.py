"""Celeb-DF, versions 1 and 2.

::

    Celeb-real/id0_0000.mp4            celebrity 0
    YouTube-real/00170.mp4             somebody else
    Celeb-synthesis/id0_id1_0000.mp4   made from Celeb-real/id0_0000.mp4 with the face of id1
    List_of_testing_videos.txt         lines such as "1 YouTube-real/00170.mp4"

**In the list, 1 means real**, the other way round than here; it is only compared with the folders.
Videos may lie in ``videos/`` and frames in ``frames/CLIP/``. The list is of videos, not of people:
celebrities of the test videos are in the rest, too, and so are originals of test fakes (of id0 it
has the real video 0001, and fakes of 0000, 0003, 0004, 0005, 0007 and 0009). Trained and tested on
its own list, Celeb-DF measures how well faces are remembered; the groups are people, so training
refuses it.

References:
    Li et al., "Celeb-DF: A Large-scale Challenging Dataset for DeepFake Forensics", CVPR 2020;
    yuezunli/celeb-deepfakeforensics, ``Celeb-DF-v1/README.md``, ``Celeb-DF-v2/README.md`` and
    issue 6 (what the ids of a fake mean); a copy of the list in
    AKASH2907/deepfakes_video_classification.

Knows no other layout.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from deepfake.dataset.layouts.facts import Fact, Layout, Place, Reading, Tree
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name

TEST_LIST = "List_of_testing_videos.txt"
_FOLDERS = {"celeb-real": 0, "youtube-real": 0, "celeb-synthesis": 1}
# No name fits two of them, so that a name alone says which video is meant.
_NAMES = {
    "celeb-real": re.compile(r"(id\d+)_\d+"),
    "youtube-real": re.compile(r"(\d+)"),
    "celeb-synthesis": re.compile(r"(id\d+)_(id\d+)_(\d+)"),
}


def recognise(tree: Tree) -> bool:
    """Whether one of the three folders is at the top."""
    return any(place.top in _FOLDERS for place in tree.places)


def read(tree: Tree) -> Reading:
    """Label Celeb-DF; the videos of the list are the test split, all others train.

    Raises:
        UsageError: If a folder or name does not fit, or the list is damaged or contradicts the
            folders.
    """
    test = _read_list(tree)

    def tell(place: Place) -> Fact | str:
        clip, frame, folder = place.clip, place.frame, place.top
        names = _NAMES[folder].fullmatch(clip) if folder in _FOLDERS else None
        if names is None:
            return "unknown folder or name"
        split = ("test" if clip in test else "train") if test else None
        if folder == "celeb-synthesis":
            return Fact(
                1,
                method="Celeb-synthesis",
                identities=(f"celeb/{names[1]}", f"celeb/{names[2]}"),
                split=split,
                original=("celeb-real", f"{names[1]}_{names[3]}", frame),
            )
        who = f"{'celeb' if folder == 'celeb-real' else 'youtube'}/{names[1]}"
        return Fact(0, identities=(who,), split=split, key=(folder, clip, frame))

    facts, _ = LAYOUT.sort(tree, tell)
    if not test:
        note = f"no official split: there is no {TEST_LIST}; training will divide the groups"
        return Reading(facts, notes=(note,))
    seen = {place.clip for place in tree.places if place.source.id in facts}
    notes = ["no official validation split: training will take one from train, by group"]
    if len(seen & test) < len(test):
        notes.append(f"{len(seen & test):,} of the {len(test):,} videos of {TEST_LIST} are here")
    return Reading(facts, notes=tuple(notes))


def _read_list(tree: Tree) -> set[str]:
    """Names of the test videos, empty if there is no list."""
    path = tree.root / TEST_LIST
    if not path.is_file():
        return set()
    videos = set()
    for number, line in tree.read_lines(path):
        word, _, name = line.partition(" ")
        video = PurePosixPath(name.strip())
        folder = "".join(video.parts[:1]).lower()
        known = folder in _FOLDERS and _NAMES[folder].fullmatch(video.stem)
        if word not in ("0", "1") or not known:
            raise UsageError(
                f"{path}:{number}: {display_name(line)!r}; expected lines such as"
                " '1 YouTube-real/00170.mp4', where 1 means real"
            )
        if int(word) == _FOLDERS[folder]:
            raise UsageError(
                f"{path}:{number}: {display_name(line)!r} contradicts its folder; in this list 1"
                " means real and 0 fake"
            )
        videos.add(video.stem)
    if not videos:
        raise UsageError(f"{path}: empty; expected lines such as '1 YouTube-real/00170.mp4'")
    return videos


LAYOUT = Layout(
    "celeb-df",
    "Celeb-real/id0_0000.mp4, YouTube-real/00170.mp4 and Celeb-synthesis/id0_id1_0000.mp4",
    frozenset(_FOLDERS),
    recognise,
    read,
)
