"""Diverse Fake Face Dataset: a folder per source, then one per split.

::

    ffhq/{train,validation,test}/*.png         real; so are celeba and youtube
    faceapp/..., stargan/..., pggan_v1/..., pggan_v2/..., stylegan_celeba/..., stylegan_ffhq/...
    faceapp/train_mask/*.png                   masks: no photos of faces

The name of the source is the method. No names tie photos of one person together, so every
photo is a group of its own.

References:
    Dang et al., "On the Detection of Digital Face Manipulation", CVPR 2020; folders as public
    readers of the data expect them (``DffdDataset`` in several repositories); crywang/RFM issue 19
    (``celeba_2w`` is DFFD's CelebA, ``youtube`` the frames of FaceForensics++).

Knows no other layout.
"""

from __future__ import annotations

from collections import Counter

from deepfake.dataset.layouts.facts import (
    SPLIT_FOLDERS,
    Fact,
    Layout,
    Reading,
    Tree,
    get_folders,
    get_top,
)
from deepfake.records import Source

_REAL = {"ffhq", "celeba", "celeba_2w", "img_align_celeba", "youtube"}
_OWN = {"faceapp", "stargan", "pggan_v1", "pggan_v2", "stylegan_celeba", "stylegan_ffhq"}
_FAKE = _OWN | {"deepfacelab", "dfl", "deepfakes", "face2face", "faceswap"}


def recognise(tree: Tree) -> bool:
    """Whether one of the folders that only DFFD has is at the top, with its splits in it."""
    return any(
        folders[0].lower() in _OWN | {"ffhq"} and _get_split(folders[1])
        for folders in map(get_folders, tree.sources)
        if len(folders) >= 2
    )


def read(tree: Tree) -> Reading:
    """Label DFFD.

    Raises:
        UsageError: If a folder is not known as real or fake, or has no split folders.
    """
    facts: dict[str, Fact] = {}
    left_out: Counter[str] = Counter()
    wrong: list[Source] = []
    for source in tree.sources:
        folders = get_folders(source)
        name = get_top(source)
        if len(folders) >= 2 and folders[1].lower().endswith("_mask"):
            left_out["(mask)"] += 1
        elif len(folders) < 2 or name not in _REAL | _FAKE or not _get_split(folders[1]):
            wrong.append(source)
        else:
            fake = name in _FAKE
            facts[source.id] = Fact(
                int(fake), method=folders[0] if fake else None, split=_get_split(folders[1])
            )
    LAYOUT.check(tree, wrong, "another folder, or no split folder in it")
    note = "people are not named: every photo is a group of its own"
    return Reading(facts, left_out, (note,))


def _get_split(folder: str) -> str | None:
    return SPLIT_FOLDERS.get(folder.lower())


LAYOUT = Layout(
    "dffd",
    f"a folder of {', '.join(sorted(_REAL))} (real) or {', '.join(sorted(_FAKE))} (fake), and in it"
    " train/, validation/ and test/",
    frozenset(_REAL | _FAKE),
    recognise,
    read,
)
