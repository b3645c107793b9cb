"""The contest's tree: frames in a folder per video, below site, date and person.

::

    real/SITE/DATE/PERSON/VIDEO/*.jpg              real/CW/20200819/cw-name/...
    fake/SITE/DATE/PERSON/METHOD/VIDEO/*.jpg       fake/CW/20200819/cw-name/fsgan/...

Two frames a second. The group is the person; whose face was put onto theirs is not in the names.

References:
    DACON competition 235655 (2020); the depth of both halves and the names of methods as public
    entries read them, and the contest entry that this project re-creates:
    since2020ape/dacon_deepfake, ``crop_face_dacon.py``. That script also moves 1,000 random frames
    of each class to ``validation/``: frames of videos that stay in training, which measures memory,
    not skill.

Knows no other layout.
"""

from __future__ import annotations

import re

from deepfake.dataset.layouts.facts import (
    Fact,
    Layout,
    Reading,
    Tree,
    get_folders,
    get_lower_folders,
    get_top,
)
from deepfake.errors import UsageError
from deepfake.records import LABEL_NAMES

_DATE = re.compile(r"\d{8}")
_DEPTH = {"real": 5, "fake": 6}


def recognise(tree: Tree) -> bool:
    """Whether a date is the second folder below ``real/`` or ``fake/``."""
    for source in tree.sources:
        folders = get_lower_folders(source)
        if len(folders) >= 4 and folders[0] in _DEPTH and _DATE.fullmatch(folders[2]):
            return True
    return False


def read(tree: Tree) -> Reading:
    """Label the contest's tree.

    Raises:
        UsageError: If a folder is of another depth, or holds the random validation frames of the
            contest entry.
    """
    mixed = [source for source in tree.sources if get_top(source) == "validation"]
    if mixed:
        raise UsageError(
            f"{str(tree.root)!r}: the {len(mixed):,} files below validation/ are random frames of"
            " the training videos, moved there by the contest entry's crop script; no split can be"
            " made of that: give the contest's own folder, or remove validation/"
        )
    facts, wrong = {}, []
    for source in tree.sources:
        folders = get_folders(source)
        if len(folders) != _DEPTH.get(get_top(source), -1):
            wrong.append(source)
            continue
        label, site, _, person = folders[0].lower(), *folders[1:4]
        facts[source.id] = Fact(
            LABEL_NAMES.index(label),
            method=folders[4] if label == "fake" else None,
            identities=(f"{site}/{person}",),
        )
    LAYOUT.check(tree, wrong, "another depth")
    return Reading(facts)


LAYOUT = Layout(
    "dacon",
    "real/SITE/DATE/PERSON/VIDEO/*.jpg and fake/SITE/DATE/PERSON/METHOD/VIDEO/*.jpg",
    frozenset(_DEPTH),
    recognise,
    read,
)
