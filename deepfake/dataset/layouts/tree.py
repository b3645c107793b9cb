"""Plain trees: a file below ``real/`` is real, a file below ``fake/`` is fake, at any depth.

Labels are never guessed; a file whose label is in doubt is an error that names it. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepfake.dataset.layouts.facts import (
    LABEL_FOLDERS,
    SPLIT_FOLDERS,
    Fact,
    Layout,
    Place,
    Reading,
    Tree,
    name_examples,
)
from deepfake.errors import UsageError
from deepfake.media.discovery import display_name


def recognise(tree: Tree) -> bool:
    """Whether any file lies below a ``real/`` or ``fake/`` folder."""
    return any(_label_at(place.lower) is not None for place in tree.places)


def holds_both(tree: Tree) -> bool:
    """Whether there are files below ``real/`` and others below ``fake/``."""
    words = {folder for place in tree.places for folder in place.lower}
    return words.issuperset(LABEL_FOLDERS)


def read(tree: Tree) -> Reading:
    """Label a plain tree.

    ::

        data/train/real/id1/a.jpg       split train, real, group id1
        data/train/fake/id1/b.jpg       split train, fake, group id1
        data/vid1/fake/c.jpg            fake, group vid1 (if there is a vid2/ beside vid1/)
        data/test/fake/d.jpg            split test, fake, no group
        data/fake/test/id2/e.jpg        split test, fake, group id2

    Only folders below the input count, whatever the input itself is called. A folder of
    ``SPLIT_FOLDERS`` above the label or directly below it is the split; further down it may be
    anything, and is a part of the group. The group is the rest of the folder path. For a file
    directly in ``real/`` or ``fake/``, or in the split there, the rest is what lies between split
    and label, less the folders that all files share: those are the name of the data set, not of a
    person.

    Raises:
        UsageError: If a file is below both words, below none while others are, or below folders
            of two splits.
    """
    labelled = [place for place in tree.places if _label_at(place.lower) is not None]
    # What cannot be opened has no say in what kind of tree this is.
    bare = [
        place.source
        for place in tree.places
        if place.source.problem is None and _label_at(place.lower) is None
    ]
    if labelled and bare:
        raise UsageError(
            f"{str(tree.root)!r}: {len(bare)} of {len(tree.sources)} files are in no real/ or fake/"
            f" folder while the others are: {name_examples(bare)}; move them, or list the files in"
            " a CSV with the columns path,label"
        )
    shared = _count_shared(labelled)
    facts = {place.source.id: _read_folders(place, shared) for place in labelled}
    notes = []
    if ungrouped := sum(not fact.identities for fact in facts.values()):
        notes.append(
            f"{ungrouped:,} files lie directly in real/ or fake/ and are groups of one; if several"
            " show one person or video, list them in a CSV with a column group"
        )
    if deep := [place.source for place in labelled if _has_split_further_down(place)]:
        notes.append(
            f"{len(deep):,} files lie in a folder named like a split that is neither above real/ or"
            f" fake/ nor directly below, such as {name_examples(deep)}; it is taken for a part of"
            " the group, not for a split"
        )
    return Reading(facts, notes=tuple(notes))


def _label_at(words: Sequence[str]) -> int | None:
    """Which folder, in lower case, says the label first."""
    return next((i for i, word in enumerate(words) if word in LABEL_FOLDERS), None)


def _split_places(words: Sequence[str]) -> list[int]:
    """Which folders, in lower case, say the split: any above the label, and the one below it."""
    below = _label_at(words) or 0
    while below < len(words) and words[below] in LABEL_FOLDERS:
        below += 1
    return [i for i, word in enumerate(words[: below + 1]) if word in SPLIT_FOLDERS]


def _has_split_further_down(place: Place) -> bool:
    return sum(word in SPLIT_FOLDERS for word in place.lower) > len(_split_places(place.lower))


def _count_shared(places: Sequence[Place]) -> int:
    """How many folders above the label all files have in common."""
    above = [place.folders[: _label_at(place.lower)] for place in places]
    # What the first and the last in order share, all between them share.
    first, last = min(above, default=[]), max(above, default=[])
    same = [one == other for one, other in zip(first, last, strict=False)]
    return [*same, False].index(False)


def _read_folders(place: Place, shared: int) -> Fact:
    folders, words, name = place.folders, place.lower, display_name(place.source.name)
    labels = {LABEL_FOLDERS[word] for word in words if word in LABEL_FOLDERS}
    if len(labels) > 1:
        raise UsageError(
            f"{name!r} is below a real/ and a fake/ folder; move it, or list"
            " the files in a CSV with the columns path,label"
        )
    label_at = words.index(next(word for word in words if word in LABEL_FOLDERS))
    split_at = _split_places(words)
    splits = {SPLIT_FOLDERS[words[i]] for i in split_at}
    if len(splits) > 1:
        raise UsageError(
            f"{name!r} is below folders of different splits"
            f" ({', '.join(sorted(splits))}); rename one, or list the files in a CSV"
        )
    start = 0
    if all(word in LABEL_FOLDERS or i in split_at for i, word in enumerate(words) if i > label_at):
        start = max([shared, *(i + 1 for i in split_at if i < label_at)])
    rest = [
        folder
        for i, (folder, word) in enumerate(zip(folders, words, strict=True))
        if i >= start and word not in LABEL_FOLDERS and i not in split_at
    ]
    group = "/".join(rest)
    return Fact(
        labels.pop(),
        identities=(group,) if group else (),
        split=splits.pop() if splits else None,
    )


LAYOUT = Layout("tree", "folders real/ and fake/, at any depth", frozenset(), recognise, read)
