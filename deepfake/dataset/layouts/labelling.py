"""Turn whatever a user names into ``Source``s that carry label, group, split, method and original.

A table says it itself; a folder is read by the layout that it is recognised as, or that the user
names; lists, patterns and single files carry no labels. Opens no photo.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepfake.dataset.audit import find_split_groups
from deepfake.dataset.layouts import (
    celeb_df,
    dacon,
    deeper_forensics,
    dfdc,
    dffd,
    faceforensics,
    tree,
    wild_deepfake,
)
from deepfake.dataset.layouts.facts import (
    LABEL_FOLDERS,
    Layout,
    Tree,
    apply,
    get_folders,
    name_examples,
)
from deepfake.dataset.layouts.table import read_table
from deepfake.errors import UsageError
from deepfake.jobs.folder import JOB_FILE
from deepfake.media.discovery import FollowLinks, discover, display_name, give_ids
from deepfake.media.objects import discover_objects
from deepfake.records import Source
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import look

DATA_SETS = (
    dacon.LAYOUT,
    faceforensics.LAYOUT,
    faceforensics.LAYOUT_DFD,
    celeb_df.LAYOUT,
    dfdc.LAYOUT,
    deeper_forensics.LAYOUT,
    wild_deepfake.LAYOUT,
    dffd.LAYOUT,
)
AUTO, NONE = "auto", "none"
Folders = tuple[str, ...]
# No data set has more folders above its files than the contest's, and none is recognised by more
# than its first few.
_DEEPEST, _LOOKED_AT = 6, 4
_ANCHORED = tuple(layout for layout in DATA_SETS if layout is not dfdc.LAYOUT)
LAYOUTS = {layout.name: layout for layout in (tree.LAYOUT, *DATA_SETS)}
"""Every kind of folder tree, by name."""


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How an input is read, see ``label_sources``."""

    layout: str = AUTO
    follow_links: bool = False
    require_labels: bool = False


@dataclass(frozen=True, slots=True)
class Labelled:
    """Sources with whatever their layout says about them.

    Args:
        sources: In the order of the folder tree, list or table.
        skipped: Files of a folder that were passed over, by suffix or kind.
        duplicates: Rows of a table that repeat the path of an earlier row.
        layout: Name of the layout that was taken; ``csv`` for a table, ``none`` for no labels.
        notes: What a user must know about labels and splits.
        is_folder: Whether the input was a folder, whose name the names of its files lack.
    """

    sources: Sequence[Source]
    skipped: dict[str, int]
    duplicates: int = 0
    layout: str = NONE
    notes: tuple[str, ...] = ()
    is_folder: bool = False


def label_sources(
    input: str | os.PathLike[str],
    *,
    layout: str = AUTO,
    follow_links: FollowLinks = False,
    exclude: Path | None = None,
    require_labels: bool = False,
    keep_duplicates: bool = False,
    other_stores: bool = False,
) -> Labelled:
    """Find the photos and videos of an input and what it says about them.

    A **table** (``.csv``) is read as ``read_table`` says, a **folder** as one of ``LAYOUTS`` says.
    ``auto`` takes the one data set whose folders and names it finds, else the plain tree if there
    is a ``real/`` or ``fake/``, else no labels. **Lists, patterns and single files** carry none.
    Of a folder in a store only the names of its objects are seen, so it is the plain tree or none.

    Args:
        input: Table, folder, list file, pattern or single file, see ``discover``; or the address of
            one in a store, see ``discover_objects``.
        layout: ``auto``, a name of ``LAYOUTS``, or ``none`` for no labels.
        follow_links: Follow symbolic links that stay inside the folder.
        exclude: A folder that is not searched: the output of the job.
        require_labels: Every source must have a label, as training needs.
        keep_duplicates: Keep rows that repeat a path, as one answer per row needs.
        other_stores: As of ``list_sources``.

    Raises:
        UsageError: If nothing is found, the folder does not fit its layout or fits two, a label
            or split is unknown, contradictory or (where required) missing, or the table is not
            well formed.
    """
    text = os.fspath(input)
    address = Address.parse(text) if is_url(text) else None
    path = Path(text) if address is None else address.path
    shown = text if address is None else str(address)
    if layout not in (AUTO, NONE, *LAYOUTS):
        raise UsageError(f"no layout {layout!r}; there are {AUTO}, {', '.join(LAYOUTS)}, {NONE}")
    no_folder = UsageError(f"the layout {layout} is a kind of folder, and {shown!r} is none")
    if layout in LAYOUTS and address is None and not path.is_dir():
        raise no_folder
    if path.suffix.lower() == ".csv" and not (path.is_dir() or text.endswith("/")):
        if layout in LAYOUTS:
            raise no_folder
        return _label_table(address or path, require_labels, keep_duplicates, other_stores)
    if address is None:
        found = discover(
            input, follow_links=follow_links, exclude=exclude, other_stores=other_stores
        )
    else:
        try:
            found = discover_objects(text, other_stores)
        except UsageError:
            _refuse_crops(address)  # of tars: there was no photo
            raise
        if layout in LAYOUTS and not found.is_folder:
            raise no_folder
        if found.is_folder:
            _refuse_crops(address)
    labelled = Labelled(found.sources, found.skipped, is_folder=found.is_folder)
    if found.is_folder and layout != NONE:
        sources = tuple(found.sources)
        chosen = LAYOUTS[layout] if layout != AUTO else _recognise(path, sources, address is None)
        if address is not None and chosen not in (None, tree.LAYOUT):
            raise UsageError(
                f"{shown} is read by its names alone, and the layout "
                f"{chosen.name if chosen else ''} also by lists that lie in it: copy it to a disk, "
                "list its objects in a CSV with the columns path,label, or say --layout tree or "
                "none"
            )
        if chosen is not None:
            labelled = _label_folder(Tree(path, sources), labelled, chosen)
    if require_labels:
        _require_labels(path, labelled.sources)
    return labelled


def _refuse_crops(address: Address) -> None:
    """Refuse a crop folder, whose crops would be taken for photos and cropped once more."""
    if not address.is_web and look(address.below(JOB_FILE)) is not None:
        raise UsageError(
            f"{address} is a crop folder (it holds {JOB_FILE}), whose crops are no photos; "
            "predict, evaluate and others read it with --cache DIR, a folder of this disk"
        )


def list_inputs(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    follow_links: FollowLinks = False,
    with_folder: bool = False,
    other_stores: bool = False,
) -> tuple[Sequence[Source], dict[str, int]]:
    """The inputs of a prediction: every file of a folder, every line of a list or table.

    Folder names and labels mean nothing here, and a repeated line or input gets its own answer.

    Args:
        inputs: One input as of ``label_sources``, or several, in the order of their answers.
        follow_links: As of ``label_sources``.
        with_folder: Name the files of a folder with the folder before them, as it is always done
            where there are several inputs.
        other_stores: As of ``label_sources``.

    Returns:
        The sources, and the files of folders that were passed over, by suffix.

    Raises:
        UsageError: If nothing is found or a table is not well formed.
    """
    several = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    sources: list[Source] = []
    skipped = Counter[str]()
    for one in several:
        found = label_sources(
            one,
            layout=NONE,
            follow_links=follow_links,
            keep_duplicates=True,
            other_stores=other_stores,
        )
        skipped.update(found.skipped)
        if len(several) == 1 and not with_folder:
            return found.sources, found.skipped  # a million of them are held once
        folder = f"{os.fspath(one).rstrip(os.sep)}/" if found.is_folder else ""
        sources += [replace(source, name=folder + source.name) for source in found.sources]
    return give_ids(sources), dict(sorted(skipped.items()))


def _label_table(
    path: Path | Address, require_labels: bool, keep_duplicates: bool, other_stores: bool
) -> Labelled:
    sources, duplicates, unlinked = read_table(path, require_labels, keep_duplicates, other_stores)
    notes = tuple(_note([], unlinked, sources.divided()))
    return Labelled(sources, {}, duplicates, "csv", notes)


def _label_folder(seen: Tree, labelled: Labelled, layout: Layout) -> Labelled:
    reading = layout.read(seen)
    if not reading.facts and seen.sources:
        passed_over = ", ".join(f"{count:,} {kind}" for kind, count in reading.left_out.items())
        raise UsageError(
            f"{str(seen.root)!r}: none of {len(seen.sources):,} files fits the layout {layout.name}"
            + (f"; passed over {passed_over}" if passed_over else "")
            + f", such as {name_examples(seen.sources)}; expected {layout.shape}"
        )
    sources, unlinked = apply(reading, labelled.sources)
    strays = [
        source
        for source in seen.sources
        if source.id not in reading.facts and source.problem is None and layout.is_stray(source)
    ]
    left_out = dict(reading.left_out) | ({"(stray photo)": len(strays)} if strays else {})
    skipped = dict(sorted((labelled.skipped | left_out).items()))
    notes = (*reading.notes, *_note(strays, unlinked, sources))
    return Labelled(sources, skipped, layout=layout.name, notes=notes)


def _note(strays: Sequence[Source], unlinked: int, sources: Sequence[Source]) -> Iterator[str]:
    """What a user must know of any input; ``sources`` are all of it that have a split."""
    if strays:
        yield (
            f"{len(strays):,} photos beside the folders of the data set are left out:"
            f" {name_examples(strays)}"
        )
    if unlinked:
        yield f"{unlinked:,} fakes name an original that is not among the inputs"
    divided = [
        (display_name(source.group or source.id), source.split)
        for source in sources
        if source.split is not None
    ]
    if leaks := find_split_groups([group for group, _ in divided], [split for _, split in divided]):
        shown = ", ".join(leaks[:3])
        yield (
            f"the split leaks: {len(leaks):,} groups stand in more than one part ({shown});"
            " training refuses it unless data.split.by is group or data.split.allow_leak true"
        )


def _recognise(root: Path, sources: Sequence[Source], is_here: bool) -> Layout | None:
    # What cannot be opened has no say in what kind of tree this is.
    seen = Tree(root, tuple(source for source in sources if source.problem is None))
    fitting = [layout for layout in DATA_SETS if layout.recognise(seen)]
    if len(fitting) > 1:
        raise UsageError(
            f"{str(seen.root)!r} looks like {' and like '.join(layout.name for layout in fitting)};"
            " choose one with --layout, or give a folder that holds one data set"
        )
    if fitting:
        return fitting[0]
    folders = sorted({tuple(get_folders(source)) for source in seen.sources})
    _refuse_depth(root, folders)
    if is_here and not tree.holds_both(seen):
        # A tree of both classes is whole, wherever it lies.
        _refuse_inside(root, folders)
    return tree.LAYOUT if tree.recognise(seen) else None


def _refuse_depth(root: Path, folders: Sequence[Folders]) -> None:
    """A data set below the given folder would be read without its labels and splits."""
    below: dict[Folders, set[Folders]] = {}
    for names in folders:
        for depth, name in enumerate(names):
            if name.lower() in LABEL_FOLDERS:
                break
            below.setdefault(names[: depth + 1], set()).add(names[depth + 1 :])
    found: dict[Folders, str] = {}
    for where, inner in sorted(below.items()):
        if any(where[:depth] in found for depth in range(1, len(where))):
            continue
        # A part of DFDC would have been found from here: its table may lie at any depth.
        if layout := _find_data_set(root.joinpath(*where), inner, _ANCHORED):
            found[where] = layout
    if found:
        shown = ", ".join(
            f"{name} in {display_name('/'.join(where))!r}"
            for where, name in list(found.items())[:3]
        )
        raise UsageError(
            f"{str(root)!r} holds a data set further down: {shown}; give that folder, one at"
            " a time, or say --layout tree or none"
        )


def _refuse_inside(root: Path, folders: Sequence[Folders]) -> None:
    """Half of a data set has lost the names above it, and with them its labels and splits."""
    place = root.resolve()
    above: Folders = ()
    tops = {names[:_LOOKED_AT] for names in folders}
    while len(above) < _DEEPEST and place.parent != place:
        above = (place.name, *above)
        place = place.parent
        layout = _find_data_set(place, [(*above, *names) for names in tops], _ANCHORED)
        # What lies further down was looked at from the folder itself.
        layout = layout or _find_data_set(place, [above], [dfdc.LAYOUT])
        if layout is not None:
            raise UsageError(
                f"{str(root)!r} is a folder inside a data set: {layout} in"
                f" {display_name(str(place))!r}; give that folder, or say --layout tree or none"
            )


def _find_data_set(root: Path, folders: Iterable[Folders], among: Sequence[Layout]) -> str | None:
    """Name of the data set that a folder would be taken for, by the folders in it."""
    sources = tuple(Source("", root, "/".join((*names, "."))) for names in folders)
    return next((one.name for one in among if one.recognise(Tree(root, sources))), None)


def _require_labels(path: Path, sources: Sequence[Source]) -> None:
    bare = [source for source in sources if source.label is None and source.problem is None]
    if not bare:
        return
    hint = ""
    own_name = path.resolve().name
    if own_name.lower() in LABEL_FOLDERS:
        hint = f"; the input's own name {own_name!r} does not count, give the folder above it"
    raise UsageError(
        f"{os.fspath(path)!r}: {len(bare)} of {len(sources)} files have no label, such as"
        f" {name_examples(bare)}; expected a folder with real/ and fake/ in it, at any depth, a"
        f" data set ({', '.join(layout.name for layout in DATA_SETS)}), or a CSV with the columns"
        f" path,label{hint}"
    )
