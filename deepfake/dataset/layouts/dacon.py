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

from deepfake.dataset.layouts.facts import Fact, Layout, Place, Reading, Tree
from deepfake.errors import UsageError

_DATE = re.compile(r"\d{8}")
_DEPTH = {"real": 5, "fake": 6}


def recognise(tree: Tree) -> bool:
    """Whether a date is the second folder below ``real/`` or ``fake/``."""
    return any(
        len(place.lower) >= 4 and place.top in _DEPTH and _DATE.fullmatch(place.lower[2])
        for place in tree.places
    )


def read(tree: Tree) -> Reading:
    """Label the contest's tree.

    Raises:
        UsageError: If a folder is of another depth, or holds the random validation frames of the
            contest entry.
    """
    if mixed := sum(place.top == "validation" for place in tree.places):
        raise UsageError(
            f"{str(tree.root)!r}: the {mixed:,} files below validation/ are random frames of"
            " the training videos, moved there by the contest entry's crop script; no split can be"
            " made of that: give the contest's own folder, or remove validation/"
        )
    return Reading(LAYOUT.sort(tree, _tell)[0])


def _tell(place: Place) -> Fact | str:
    if len(place.folders) != _DEPTH.get(place.top):
        return "another depth"
    site, _, person, method = place.folders[1:5]
    fake = place.top == "fake"
    return Fact(int(fake), method=method if fake else None, identities=(f"{site}/{person}",))


LAYOUT = Layout(
    "dacon",
    "real/SITE/DATE/PERSON/VIDEO/*.jpg and fake/SITE/DATE/PERSON/METHOD/VIDEO/*.jpg",
    frozenset(_DEPTH),
    recognise,
    read,
)
