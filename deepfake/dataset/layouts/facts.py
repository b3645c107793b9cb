"""What a layout says of one input, and how such facts become labels, groups and originals.

A layout only names things: the label, the identities that a file shows, what it was made from.
What must stay together follows from that here, once for all layouts. Knows no layout by name.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from deepfake.dataset.splits import join_identities
from deepfake.errors import UsageError
from deepfake.media.discovery import IMAGE_SUFFIXES, display_name
from deepfake.records import LABEL_NAMES, Source
from deepfake.tables import parse_json, read_text

LABEL_WORDS = {
    **dict.fromkeys(("real", "0", "0.0", "false", "genuine", "original", "pristine"), 0),
    **dict.fromkeys(("fake", "1", "1.0", "true", "manipulated", "synthetic", "deepfake"), 1),
}
"""Words of a CSV's ``label`` column, in any case."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words of a CSV's ``split`` column, in any case."""

# As a folder name, `dev` is too often something else.
SPLIT_FOLDERS = {word: split for word, split in SPLIT_WORDS.items() if word != "dev"}
LABEL_FOLDERS = {word: label for label, word in enumerate(LABEL_NAMES)}

Key = tuple[str, ...]
"""Name of a file within its layout; a fake points at its original by such a name."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a layout says of one input.

    Args:
        label: 1 = fake, 0 = real.
        method: Name of the manipulation.
        identities: Whom or what it shows; two inputs that share one stay in one split, and an
            input that names two ties them together.
        split: ``train``, ``validation`` or ``test``, where the data set has an official one.
        key: What an ``original`` may point at.
        original: Key of the input that a fake was made from; need not be there.
        mask: Where a file of its forged region would be, from the root, without suffix.
    """

    label: int
    method: str | None = None
    identities: tuple[str, ...] = ()
    split: str | None = None
    key: Key = ()
    original: Key = ()
    mask: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a layout says of a whole folder.

    Args:
        facts: By source id. A source without one is left out of the job.
        left_out: What was passed over on purpose, by kind.
        notes: What a user must know: no official split, no real part, a choice that was made.
    """

    facts: Mapping[str, Fact]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source lies in its tree, and what its name says.

    Args:
        source: The source.
        folders: Names of the folders above it, from the top of its tree.
        lower: The same in lower case, as names of folders count everywhere.
        top: Name of the topmost one in lower case; empty for a file that lies in none.
        clip: Name of the clip that it is, or that it is a frame of: a frame lies in its folder.
        frame: Name of a frame within its clip; empty for a video.
    """

    source: Source
    folders: list[str]
    lower: list[str]
    top: str
    clip: str
    frame: str

    @property
    def stem(self) -> str:
        """Name of the file without suffix."""
        return PurePosixPath(self.source.name).stem

    @classmethod
    def of(cls, source: Source) -> Place:
        """Read the name of a source."""
        path, folders = PurePosixPath(source.name), get_folders(source)
        lower = [folder.lower() for folder in folders]
        clip, frame = (path.parent.name, path.stem) if is_photo(source) else (path.stem, "")
        return cls(source, folders, lower, "".join(lower[:1]), clip, frame)


@dataclass(frozen=True)  # without slots: places are read once
class Tree:
    """A folder as discovery saw it.

    Args:
        root: The folder.
        sources: Its photos and videos, named relative to it.
    """

    root: Path
    sources: tuple[Source, ...]

    @cached_property
    def places(self) -> list[Place]:
        """Where each source lies."""
        return [Place.of(source) for source in self.sources]

    def read_lines(self, path: Path) -> list[tuple[int, str]]:
        """The numbered lines of a text file that say something."""
        lines = enumerate(read_text(path, "text file").splitlines(), start=1)
        return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UsageError: If it cannot be read, or is no JSON.
    """
    try:
        return parse_json(read_text(path, "JSON file"))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error


def has_lists(folder: Path, names: Collection[str], origin: str) -> bool:
    """Whether the official lists of a data set lie in a folder.

    Args:
        folder: Where they would lie.
        names: All of them.
        origin: Where a user gets them.

    Raises:
        UsageError: If some do and others do not.
    """
    there = [name for name in names if (folder / name).is_file()]
    if there and len(there) < len(names):
        missing = sorted(set(names) - set(there))
        raise UsageError(
            f"{folder} has {', '.join(there)} but not {', '.join(missing)}, and only together they"
            f" are the official split: take what is missing from {origin}, or remove the others to"
            " have the groups divided"
        )
    return bool(there)


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of folder tree.

    Args:
        name: What ``--layout`` calls it.
        shape: What the tree looks like, in a few words, for error messages.
        tops: Folder names, in lower case, that its files lie in; empty if these are any.
        recognise: Whether a folder is of this kind.
        read: Read it.
    """

    name: str
    shape: str
    tops: frozenset[str]
    recognise: Callable[[Tree], bool]
    read: Callable[[Tree], Reading]

    def sort(
        self, tree: Tree, tell: Callable[[Place], Fact | str]
    ) -> tuple[dict[str, Fact], Counter[str]]:
        """Facts of all sources by id, and how many are left out on purpose, by kind.

        Args:
            tree: The folder.
            tell: What is known of a source: its facts, or in brackets the kind of what is left
                out, or in words why it does not fit.

        Raises:
            UsageError: If files do not fit.
        """
        facts: dict[str, Fact] = {}
        left_out: Counter[str] = Counter()
        wrong: dict[str, list[Source]] = defaultdict(list)
        for place in tree.places:
            told = tell(place)
            if isinstance(told, Fact):
                facts[place.source.id] = told
            elif told.startswith("("):
                left_out[told] += 1
            else:
                wrong[told].append(place.source)
        for why, sources in wrong.items():
            self.check(tree, sources, why)
        return facts, left_out

    def check(self, tree: Tree, wrong: Sequence[Source], why: str) -> None:
        """Refuse files that do not fit; what cannot be opened, and strays, have no say and pass.

        Raises:
            UsageError: It shows what was seen and what was expected.
        """
        wrong = [one for one in wrong if one.problem is None and not self.is_stray(one)]
        if not wrong:
            return
        raise UsageError(
            f"{os.fspath(tree.root)!r}: {len(wrong):,} of {len(tree.sources):,} files do not fit"
            f" the layout {self.name} ({why}), such as {name_examples(wrong)}; expected"
            f" {self.shape}; other trees can be listed in a CSV with the columns path,label"
        )

    def is_stray(self, source: Source) -> bool:
        """Whether it is a photo beside the data, such as the one of a README.

        No data set has photos at its top, and a folder of frames lies in a folder of its data.
        """
        place = Place.of(source)
        if not is_photo(source) or len(place.folders) > 1:
            return False
        return not place.top or (bool(self.tops) and place.top not in self.tops)


def apply(reading: Reading, sources: Iterable[Source]) -> tuple[tuple[Source, ...], int]:
    """Give sources the facts of a reading.

    Sources that cannot be opened pass as they are: they get their row, without a label.

    Returns:
        The sources, and how many fakes name an original that is not among them.
    """
    by_key = _index_keys(reading, sources)
    groups = join_identities(
        [normalise(name) for name in fact.identities] for fact in reading.facts.values()
    )
    result = []
    unlinked = 0
    sources = list(sources)
    by_stem = {
        normalise(str(PurePosixPath(source.name).with_suffix(""))): source.path
        for source in sources
        if source.problem is None
    }
    for source in sources:
        fact = reading.facts.get(source.id)
        if fact is None:
            if source.problem is not None:
                result.append(source)
            continue
        original = by_key.get(fact.original) if fact.original else None
        unlinked += bool(fact.original) and original is None
        result.append(
            replace(
                source,
                label=fact.label,
                method=fact.method,
                group=groups[normalise(fact.identities[0])] if fact.identities else None,
                split=fact.split,
                original=original,
                mask=by_stem.get(normalise(fact.mask)) if fact.mask else None,
            )
        )
    return tuple(result), unlinked


def normalise(name: str) -> str:
    """One spelling for a name, which file systems store with accents joined (NFC) or apart."""
    return unicodedata.normalize("NFC", name)


def _index_keys(reading: Reading, sources: Iterable[Source]) -> dict[Key, str]:
    keys: dict[Key, str] = {}
    for source in sources:
        fact = reading.facts.get(source.id)
        if fact is not None and fact.key and fact.label == 0:
            keys.setdefault(fact.key, source.id)
    return keys


def get_folders(source: Source) -> list[str]:
    """Names of the folders above a source, from the top of its tree."""
    return source.name.split("/")[:-1]


def is_photo(source: Source) -> bool:
    """Whether the suffix is a photo's."""
    return PurePosixPath(source.name).suffix.lower() in IMAGE_SUFFIXES


def name_examples(sources: Sequence[Source]) -> str:
    """The first few names, safe to show."""
    shown = ", ".join(repr(display_name(source.name)) for source in sources[:3])
    return shown + (", ..." if len(sources) > 3 else "")
