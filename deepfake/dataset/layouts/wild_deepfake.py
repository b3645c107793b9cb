"""WildDeepfake: face sequences from videos of the web, as PNG.

::

    real_train/0/.../1/123.png         archive 0.tar.gz extracted; a folder per sequence
    fake_train/..., real_test/..., fake_test/...

The four folders may be written with a space and lie in ``deepfake_in_the_wild/``. An archive is a
video and the group; who is in it is not known, and a fake is not tied to any real video. There is
no validation split.

References:
    Zi et al., "WildDeepfake: A Challenging Real-World Dataset for Deepfake Detection", ACM MM 2020;
    OpenTAI/wild-deepfake, ``README.md`` (file structure).

Knows no other layout.
"""

from __future__ import annotations

from deepfake.dataset.layouts.facts import Fact, Layout, Place, Reading, Tree
from deepfake.records import LABEL_NAMES

_TOPS = frozenset(f"{label}_{split}" for label in LABEL_NAMES for split in ("train", "test"))
_WRAPPER = "deepfake_in_the_wild"


def recognise(tree: Tree) -> bool:
    """Whether one of the four folders is at the top."""
    return any(_get_folders(place)[:1] in [[top] for top in _TOPS] for place in tree.places)


def read(tree: Tree) -> Reading:
    """Label WildDeepfake.

    Raises:
        UsageError: If a frame is not in an archive's folder below one of the four.
    """
    facts, _ = LAYOUT.sort(tree, _tell)
    note = "no official validation split: training will take one from train, by video"
    return Reading(facts, notes=(note,))


def _tell(place: Place) -> Fact | str:
    folders = _get_folders(place)
    archives = [folder for folder in folders[1:] if folder.isdecimal()]
    if not archives or folders[0] not in _TOPS:
        return "another folder, or no folder of an archive"
    word, split = folders[0].split("_")
    archive = f"{folders[0]}/{archives[0]}"
    return Fact(LABEL_NAMES.index(word), identities=(archive,), split=split)


def _get_folders(place: Place) -> list[str]:
    folders = place.folders[1:] if place.top == _WRAPPER else place.folders
    return [*(top.lower().replace(" ", "_") for top in folders[:1]), *folders[1:]]


LAYOUT = Layout(
    "wild-deepfake",
    "real_train/0/SEQUENCE/1.png, fake_train/..., real_test/..., fake_test/...",
    frozenset({*_TOPS, *(top.replace("_", " ") for top in _TOPS)}),
    recognise,
    read,
)
