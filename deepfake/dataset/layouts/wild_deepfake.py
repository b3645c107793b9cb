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

from deepfake.dataset.layouts.facts import Fact, Layout, Reading, Tree, get_folders
from deepfake.records import LABEL_NAMES, Source

_TOPS = frozenset(f"{label}_{split}" for label in LABEL_NAMES for split in ("train", "test"))
_WRAPPER = "deepfake_in_the_wild"


def recognise(tree: Tree) -> bool:
    """Whether one of the four folders is at the top."""
    return any(_get_folders(source)[:1] in [[top] for top in _TOPS] for source in tree.sources)


def read(tree: Tree) -> Reading:
    """Label WildDeepfake.

    Raises:
        UsageError: If a frame is not in an archive's folder below one of the four.
    """
    facts, wrong = {}, []
    for source in tree.sources:
        folders = _get_folders(source)
        archives = [folder for folder in folders[1:] if folder.isdecimal()]
        if not folders or folders[0] not in _TOPS or not archives:
            wrong.append(source)
            continue
        word, split = folders[0].split("_")
        facts[source.id] = Fact(
            LABEL_NAMES.index(word), identities=(f"{folders[0]}/{archives[0]}",), split=split
        )
    LAYOUT.check(tree, wrong, "another folder, or no folder of an archive")
    note = "no official validation split: training will take one from train, by video"
    return Reading(facts, notes=(note,))


def _get_folders(source: Source) -> list[str]:
    folders = get_folders(source)
    if folders and folders[0].lower() == _WRAPPER:
        folders = folders[1:]
    return [folders[0].lower().replace(" ", "_"), *folders[1:]] if folders else []


LAYOUT = Layout(
    "wild-deepfake",
    "real_train/0/SEQUENCE/1.png, fake_train/..., real_test/..., fake_test/...",
    frozenset({*_TOPS, *(top.replace("_", " ") for top in _TOPS)}),
    recognise,
    read,
)
