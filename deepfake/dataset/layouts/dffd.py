"""Diverse Fake Face Dataset: a folder per source, then one per split.

::

    ffhq/{train,validation,test}/*.png         real; so are celeba and youtube
    faceapp/..., stargan/..., pggan_v1/..., pggan_v2/..., stylegan_celeba/..., stylegan_ffhq/...
    faceapp/train_mask/*.png                   masks, named like the fakes: no photos of faces

The name of the source is the method. No names tie photos of one person together, so every
photo is a group of its own.

References:
    Dang et al., "On the Detection of Digital Face Manipulation", CVPR 2020; folders as public
    readers of the data expect them (``DffdDataset`` in several repositories); crywang/RFM issue 19
    (``celeba_2w`` is DFFD's CelebA, ``youtube`` the frames of FaceForensics++).

Knows no other layout.
"""

from __future__ import annotations

from deepfake.dataset.layouts.facts import SPLIT_FOLDERS, Fact, Layout, Place, Reading, Tree

_REAL = {"ffhq", "celeba", "celeba_2w", "img_align_celeba", "youtube"}
_OWN = {"faceapp", "stargan", "pggan_v1", "pggan_v2", "stylegan_celeba", "stylegan_ffhq"}
_FAKE = _OWN | {"deepfacelab", "dfl", "deepfakes", "face2face", "faceswap"}


def recognise(tree: Tree) -> bool:
    """Whether one of the folders that only DFFD has is at the top, with its splits in it."""
    return any(
        place.top in _OWN | {"ffhq"} and len(place.lower) >= 2 and place.lower[1] in SPLIT_FOLDERS
        for place in tree.places
    )


def read(tree: Tree) -> Reading:
    """Label DFFD.

    Raises:
        UsageError: If a folder is not known as real or fake, or has no split folders.
    """
    facts, left_out = LAYOUT.sort(tree, _tell)
    note = "people are not named: every photo is a group of its own"
    return Reading(facts, left_out, (note,))


def _tell(place: Place) -> Fact | str:
    split = "".join(place.lower[1:2])
    if split.endswith("_mask"):
        return "(mask)"
    if place.top not in _REAL | _FAKE or split not in SPLIT_FOLDERS:
        return "another folder, or no split folder in it"
    fake = place.top in _FAKE
    method = place.folders[0] if fake else None
    masks = [place.folders[0], f"{place.folders[1]}_mask", *place.folders[2:], place.stem]
    return Fact(
        int(fake), method=method, split=SPLIT_FOLDERS[split], mask="/".join(masks) if fake else ""
    )


LAYOUT = Layout(
    "dffd",
    f"a folder of {', '.join(sorted(_REAL))} (real) or {', '.join(sorted(_FAKE))} (fake), and in it"
    " train/, validation/ and test/",
    frozenset(_REAL | _FAKE),
    recognise,
    read,
)
